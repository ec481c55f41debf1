"""Operators of torch that draw a picture in another size, or take some of its pixels.

Pictures enlarged a whole number of times are copies of their pixels, or means of neighbours, as
channels which DepthToSpace puts side by side: each channel's weights are the same all over. Of
other sizes, the means differ from pixel to pixel, and a `ResizeBilinear` takes them.
"""

from __future__ import annotations

import math

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.composed import enlarged
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.resizing import ResizeBilinear
from coronet_deploy.export.settled import reordered
from coronet_deploy.export.translation import Refused, Translation

_Pair = tuple[int, int]


def upsample_nearest(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    output_size: list[int] | None,
    scale_factors: list[float] | None,
) -> str:
    """Each pixel as a square of it, or every so many-th."""
    return _nearest(t, input, output_size, scale_factors, exact=False)


def upsample_nearest_exact(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    output_size: list[int] | None,
    scale_factors: list[float] | None,
) -> str:
    """Each pixel as a square of it, or the one in the middle of every so many."""
    return _nearest(t, input, output_size, scale_factors, exact=True)


def _nearest(
    t: Translation,
    picture: fx.Node,
    output_size: list[int] | None,
    scales: list[float] | None,
    *,
    exact: bool,
) -> str:
    x = t.value(picture)
    shape = t.builder.shapes[x]
    size = _size(shape, output_size, scales)
    if any(n > m for n, m in zip(size, shape[1:3], strict=True)):
        return enlarged(t.builder, x, _factor(shape, size))
    rows, columns = shape[1] / size[0], shape[2] / size[1]
    if not (rows.is_integer() and columns.is_integer()):
        raise Refused(f"makes {size[0]}x{size[1]} of {shape[1]}x{shape[2]}; {_WHOLE}")
    step = int(rows), int(columns)
    first = (step[0] // 2, step[1] // 2) if exact else (0, 0)
    return picked(t.builder, x, first, step, size)


def upsample_bilinear(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    output_size: list[int] | None,
    align_corners: bool,
    scale_factors: list[float] | None,
) -> str:
    """Means of the four nearest pixels."""
    to, x = t.builder, t.value(input)
    shape = to.shapes[x]
    size = _size(shape, output_size, scale_factors)
    if size == shape[1:3]:
        return x
    return to.emit(ResizeBilinear(size, align_corners), x)


_WHOLE = "only by one whole number, in height as in width"


def _size(x: ops.Shape, size: list[int] | None, scales: list[float] | None) -> _Pair:
    """Return the rows and columns that a picture is to have."""
    if not scales:
        return tuple(size or x[1:3])  # type: ignore[return-value]
    wanted = [n * scale for n, scale in zip(x[1:3], scales, strict=True)]
    if any(n != math.floor(n) for n in wanted):
        told = " x ".join(f"{scale:g}" for scale in scales)
        raise Refused(
            f"of {x[1]}x{x[2]} pixels by {told}, which gives parts of pixels: give a size instead"
        )
    return int(wanted[0]), int(wanted[1])


def _factor(x: ops.Shape, size: _Pair) -> int:
    """Return how many times as high and as wide a picture becomes."""
    found = size[0] / x[1], size[1] / x[2]
    if found[0] != found[1] or not found[0].is_integer():
        told = " x ".join(f"{factor:g}" for factor in found)
        raise Refused(f"by {told}; {_WHOLE}")
    return int(found[0])


def picked(to: Builder, x: str, first: _Pair, step: _Pair, size: _Pair) -> str:
    """Return `size` lines and columns of `x`, from `first` on, `step` apart."""
    n, *whole, channels = to.shapes[x]
    given = tuple(-(-m // apart) for m, apart in zip(whole, step, strict=True))
    if any(first) or given != size:
        reached = ((lines - 1) * apart + 1 for lines, apart in zip(size, step, strict=True))
        x = to.emit(ops.Slice((0, *first, 0), (n, *reached, channels)), x)
    return x if step == (1, 1) else every(to, x, step)


def every(to: Builder, x: str, step: _Pair) -> str:
    """Return the first of every so many lines and columns of `x`.

    XNNPACK takes no strided slice, but a convolution of one tap.
    """
    ones = np.ones((1, 1, 1, to.shapes[x][3]))
    return to.emit(ops.DepthwiseConv2d(step), x, to.constant(ones, "ones"))


def pixel_unshuffle(t: Translation, *, self: fx.Node, downscale_factor: int) -> str:
    """Squares of pixels as channels, each by a kernel that picks it."""
    to, x, block = t.builder, t.value(self), downscale_factor
    channels, taps = to.shapes[x][3], np.eye(block**2).reshape(block, block, block**2)
    kernel = to.constant(np.tile(taps, (1, 1, channels))[None], "picks")
    return to.emit(ops.DepthwiseConv2d((block, block), multiplier=block**2), x, kernel)


def pixel_shuffle(t: Translation, *, self: fx.Node, upscale_factor: int) -> str:
    """DepthToSpace of channels in another order, which a convolution before gives at once."""
    to, x, block = t.builder, t.value(self), upscale_factor
    # torch: channel (c * b + i) * b + j; here: (i * b + j) * C + c.
    order = np.arange(to.shapes[x][3]).reshape(-1, block**2).T.reshape(-1)
    made = to.producer(x)
    if made is None or not isinstance(made.op, ops.Conv2d | ops.ConvTranspose2d):
        return to.emit(ops.DepthToSpace(block), reordered(to, x, order.tolist()))
    source, *weights = made.inputs
    ordered = [to.constant(to.constants[name][order], "ordered") for name in weights]
    return to.emit(ops.DepthToSpace(block), to.emit(made.op, source, *ordered))
