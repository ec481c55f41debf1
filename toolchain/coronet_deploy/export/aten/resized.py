"""Operators of torch that draw a picture in another size, or take some of its pixels.

Pictures enlarged a whole number of times are copies of their pixels, or means of neighbours, as
channels which DepthToSpace puts side by side: each channel's weights are the same all over. Of
other sizes, the means differ from pixel to pixel, and a `ResizeBilinear` takes them; which pixels
are copied is torch's affair (see `resampled`), and a `ResizeNearest` is told.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.settled import reordered
from coronet_deploy.export.aten.translation import Translation
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.operators import Padding
from coronet_deploy.export.resizing import ResizeBilinear
from coronet_deploy.export.several import enlarged, replicated

_Pair = tuple[int, int]


def nearest(to: Builder, x: str, size: _Pair, scales: list[float] | None) -> str | None:
    """Each pixel as a square of it, or every so many-th; None if there are no whole ones."""
    return _nearest(to, x, size, scales, exact=False)


def nearest_exact(to: Builder, x: str, size: _Pair, scales: list[float] | None) -> str | None:
    """Each pixel as a square of it, or the one in the middle of every so many; None as above."""
    return _nearest(to, x, size, scales, exact=True)


def _nearest(
    to: Builder, x: str, size: _Pair, scales: list[float] | None, *, exact: bool
) -> str | None:
    shape = to.shapes[x]
    if not _reach_the_ends(shape, size, scales):
        return None
    larger, smaller = _factors(size, shape[1:3]), _factors(shape[1:3], size)
    if larger is not None and larger[0] == larger[1]:
        return enlarged(to, x, larger[0])
    if smaller is None:
        return None
    first = (smaller[0] // 2, smaller[1] // 2) if exact else (0, 0)
    return picked(to, x, first, smaller, size)


def bilinear(
    to: Builder, x: str, size: _Pair, scales: list[float] | None, *, align_corners: bool
) -> str | None:
    """Means of the four nearest pixels; None if the last ones are not where the picture ends."""
    shape = to.shapes[x]
    if size == shape[1:3]:
        return x
    if not (align_corners or _reach_the_ends(shape, size, scales)):
        return None
    return to.emit(ResizeBilinear(size, align_corners), x)


def bicubic(
    to: Builder, x: str, size: _Pair, scales: list[float] | None, *, align_corners: bool
) -> str | None:
    """Return sums of the sixteen nearest pixels, if whole times larger or smaller; else None."""
    shape = to.shapes[x]
    if align_corners or not _reach_the_ends(shape, size, scales):
        return None
    larger, smaller = _factors(size, shape[1:3]), _factors(shape[1:3], size)
    if larger is not None and larger[0] == larger[1]:
        return _blended(to, x, [_cubic(larger[0], place) for place in range(larger[0])])
    if smaller is None:
        return None
    # The first pixels are so far from the first ones of the picture, of which four count.
    starts = [math.floor((step - 1) / 2) - 1 for step in smaller]
    down, across = (_cubic_weights((step - 1) / 2 % 1) for step in smaller)
    after = [
        max(start + (count - 1) * step + 4 - whole, 0)
        for start, count, step, whole in zip(starts, size, smaller, shape[1:3], strict=True)
    ]
    before = [max(-start, 0) for start in starts]
    padded = replicated(to, x, Padding(before[0], after[0], before[1], after[1]))
    first = [start + more for start, more in zip(starts, before, strict=True)]
    reach = [(n - 1) * step + 4 for n, step in zip(size, smaller, strict=True)]
    block = (shape[0], *reach, shape[3])
    if block != to.shapes[padded]:
        padded = to.emit(ops.Slice((0, *first, 0), block), padded)
    taps = np.repeat(np.outer(down, across)[None, :, :, None], shape[3], axis=3)
    return to.emit(ops.DepthwiseConv2d(smaller), padded, to.constant(taps, "blend"))


def _blended(to: Builder, x: str, axes: list[list[float]]) -> str:
    """Return a picture as many times as large as there are `axes`, what pixels around count for."""
    channels, reach = to.shapes[x][3], len(axes[0]) // 2
    padded = replicated(to, x, Padding(reach, reach, reach, reach))
    phases = []
    for down, across in itertools.product(axes, axes):
        taps = np.repeat(np.outer(down, across)[None, :, :, None], channels, axis=3)
        phases.append(to.emit(ops.DepthwiseConv2d(), padded, to.constant(taps, "blend")))
    return to.emit(ops.DepthToSpace(len(axes)), to.concat(phases, 3))


def _cubic(block: int, place: int) -> list[float]:
    """Return what two pixels before, that at it and two behind count for the place-th new one."""
    away = (place + 0.5) / block - 0.5
    four = _cubic_weights(away % 1)
    return [*four, 0.0] if away < 0 else [0.0, *four]


def _cubic_weights(away: float) -> list[float]:
    """Return what four pixels count, of which the second is `away` from what is wanted.

    Keys 1981, of a slope of -0.75, as torch has it.
    """
    slope = -0.75
    near = [((slope + 2) * d - (slope + 3)) * d * d + 1 for d in (away, 1 - away)]
    far = [(((d - 5) * d + 8) * d - 4) * slope for d in (1 + away, 2 - away)]
    return [far[0], near[0], near[1], far[1]]


def _reach_the_ends(x: ops.Shape, size: _Pair, scales: list[float] | None) -> bool:
    """Return whether `scales`, if given, make `size` without a rest."""
    wanted = zip(x[1:3], scales or (), size, strict=False)
    return all(whole * scale == lines for whole, scale, lines in wanted)


def _factors(large: ops.Shape, small: ops.Shape) -> _Pair | None:
    """Return how many times one size is another, if it is whole times."""
    if any(m % n for m, n in zip(large, small, strict=True)):
        return None
    return large[0] // small[0], large[1] // small[1]


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
