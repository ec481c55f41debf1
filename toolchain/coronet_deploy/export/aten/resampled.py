"""Pictures in any other size: each new line a sum of lines, by weights that torch itself gives.

What torch makes of lines that are 1 in one place are the weights of all. Where these are the same
all over, as for whole factors, convolutions take fewer (see `resized`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from coronet_deploy.export.aten import pooled, resized
from coronet_deploy.export.aten.spans import as_moved, checked, nchw
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.vectors import combined
from coronet_deploy.export.resizing import ResizeNearest


def resampled(t: Translation, x: str, weights: Mapping[int, Tensor]) -> str:
    """Return a picture whose lines across axes, NCHW, are sums of those of `x` by `weights`."""
    held = Moved(x, torch.arange(math.prod(nchw(t, x))).reshape(nchw(t, x)))
    found = t.as_picture(_summed(t, held, weights))
    if found is None:
        raise Refused("gives no picture")
    return found


def _summed(t: Translation, held: Moved, weights: Mapping[int, Tensor]) -> Moved:
    """Return numbers that along axes are sums of those of `held` by `weights`."""
    for axis, matrix in weights.items():
        if torch.equal(matrix, torch.eye(matrix.shape[1])):
            continue
        rest = [size for place, size in enumerate(held.index.shape) if place != axis]
        value, index = combined(t, held, [axis], matrix.numpy())
        held = Moved(value, index.reshape(*rest, len(matrix)).movedim(-1, axis))
    return held


def _drawn(form: Callable[..., str | None] | None = None) -> Callable[..., str]:
    """Return the translation by `form`, or by sums of lines where that has none for the size."""

    def translate(
        t: Translation,
        node: fx.Node,
        *,
        input: fx.Node,  # noqa: A002 - the schema's name
        scale_factors: list[float] | None,
        output_size: object = None,
        **how: Any,  # noqa: ANN401 - align_corners, if it has these
    ) -> str:
        target: Any = node.target
        x = t.value(input)
        del output_size
        size = tuple(node.meta["val"].shape[2:])
        found = form(t.builder, x, size, scale_factors, **how) if form else None
        if found is not None:
            return found

        def lines(axis: int) -> Tensor:
            """Return the weights of the lines across an axis, the other one as it is."""
            count = nchw(t, x)[axis]
            scales = None
            if scale_factors:
                scales = [1.0, 1.0]
                scales[axis - 2] = scale_factors[axis - 2]
            sizes = [size[axis - 2] if a == axis else count for a in (2, 3)]
            square = torch.eye(count)[None, None]
            made: Tensor = target(square, None if scales else sizes, *how.values(), scales)[0, 0]
            return made if axis == 2 else made.T  # noqa: PLR2004 - lines

        return resampled(t, x, {axis: lines(axis) for axis in (2, 3)})

    return translate


def _copied(form: Callable[..., str | None]) -> Callable[..., str]:
    """Return the translation by `form`, or by copies of lines where that has none for the size."""

    def translate(
        t: Translation,
        node: fx.Node,
        *,
        input: fx.Node,  # noqa: A002 - the schema's name
        scale_factors: list[float] | None,
        output_size: object = None,
    ) -> str:
        target: Any = node.target
        x, size = t.value(input), tuple(node.meta["val"].shape[2:])
        del output_size
        found = form(t.builder, x, size, scale_factors)
        if found is not None:
            return found
        # A whole picture, for torch has two kernels, of which one keeps an axis whose size stays,
        # whatever the scale; it takes either by the picture's size.
        _, channels, *whole = nchw(t, x)
        places = []
        for axis, lines in ((2, whole[0]), (3, whole[1])):
            shape = [-1 if a == axis else 1 for a in range(4)]
            numbered = torch.arange(lines, dtype=torch.float32).reshape(shape)
            picture = numbered.expand(1, channels, *whole).contiguous()
            made = target(picture, None if scale_factors else size, scale_factors)
            places.append(tuple(made[0, 0].select(3 - axis, 0).long().tolist()))
        same = places == [tuple(range(lines)) for lines in whole]
        return x if same else t.builder.emit(ResizeNearest(*places), x)

    return translate


def _pooled(t: Translation, node: fx.Node, *, self: fx.Node, output_size: list[int]) -> str:
    """Return the means of windows that fill the picture, of unlike sizes too."""
    del output_size
    x, made = t.value(self), node.meta["val"].shape
    shape = nchw(t, x)
    if not (shape[2] % made[2] or shape[3] % made[3]):
        return pooled.averaged(t, x, (shape[2] // made[2], shape[3] // made[3]))
    lines = {
        axis: torch.nn.functional.adaptive_avg_pool1d(torch.eye(shape[axis]), made[axis]).T
        for axis in (2, 3)
    }
    return resampled(t, x, lines)


def _means_of_windows(axes: int) -> Callable[..., str | Moved]:
    """Return the translation of pooling by the mean over the last `axes`, of any tensor."""

    def translate(
        t: Translation,
        node: fx.Node,
        *,
        self: fx.Node,
        kernel_size: list[int],
        stride: list[int],
        padding: list[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None = None,
    ) -> str | Moved:
        if divisor_override is not None:
            raise Refused(f"divides by {divisor_override}; only by how many numbers there are")
        held = as_moved(t, self)
        kernels, pads = (each * (axes // len(each)) for each in (kernel_size, padding))
        steps = stride * (axes // len(stride)) if stride else kernels
        lines = {}
        for place, window in enumerate(zip(kernels, steps, pads, strict=True)):
            axis = held.index.ndim - axes + place
            square = torch.eye(held.index.shape[axis])
            means = F.avg_pool1d(square, *window, ceil_mode, count_include_pad)
            lines[axis] = means.T
        held = _summed(t, held, lines)
        return checked(t, node.meta["val"], held.value, held.index)

    return translate


TRANSLATIONS: Mapping[str, Callable[..., str | Moved]] = {
    "aten.avg_pool1d": _means_of_windows(1),
    "aten.avg_pool3d": _means_of_windows(3),
    "aten.upsample_nearest2d": _copied(resized.nearest),
    "aten._upsample_nearest_exact2d": _copied(resized.nearest_exact),
    "aten.upsample_bilinear2d": _drawn(resized.bilinear),
    "aten.upsample_bicubic2d": _drawn(resized.bicubic),
    "aten._upsample_bilinear2d_aa": _drawn(),
    "aten._upsample_bicubic2d_aa": _drawn(),
    "aten.adaptive_avg_pool2d": _pooled,
}
