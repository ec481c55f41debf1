"""Operators of torch that make one pixel of a window: pooling by the mean and by the maximum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Maximum
from coronet_deploy.export.aten import sums
from coronet_deploy.export.aten.means import mean_over
from coronet_deploy.export.aten.resized import every
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.operators import Padding
from coronet_deploy.export.pooling import MaxPool2d

_Pair = tuple[int, int]


def _pair(given: list[int], default: _Pair = (1, 1)) -> _Pair:
    return (given[0], given[-1]) if given else default


def max_pool2d(
    t: Translation,
    *,
    self: Any,  # noqa: ANN401 - a node, or a value's name
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> str:
    """Return the maxima."""
    if any(d != 1 for d in dilation):
        raise Refused(f"dilation {dilation} is not supported")
    kernel = _pair(kernel_size)
    to, step, x = t.builder, _pair(stride, kernel), t.value(self)
    around = _around(to.shapes[x], kernel, step, _pair(padding), ceil_mode=ceil_mode)
    apart = any(s > k for s, k in zip(step, kernel, strict=True))
    if max(kernel) > 1:
        x = to.emit(MaxPool2d(kernel, (1, 1) if apart else step, around), x)
    # XNNPACK skips no pixels while it pools.
    return every(to, x, step) if apart else x


def avg_pool2d(
    t: Translation,
    *,
    self: fx.Node,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> str:
    """Return the means, by a depthwise convolution of equal weights."""
    kernel = _pair(kernel_size)
    return _averaged(
        t,
        t.value(self),
        kernel,
        _pair(stride, kernel),
        _pair(padding),
        ceil_mode=ceil_mode,
        zeros_count=count_include_pad,
        divisor=divisor_override,
    )


def averaged(t: Translation, x: str, kernel: _Pair) -> str:
    """Return the means of windows of one size that fill the picture."""
    return _averaged(t, x, kernel, kernel, (0, 0))


def amax(t: Translation, *, self: Any, dim: list[int], keepdim: bool = False) -> str:  # noqa: ANN401 - a node, or a value's name
    """Return the largest number over some axes of a picture, or over all."""
    del keepdim
    return _largest_over(t, self, dim or list(range(4)))


def largest(
    t: Translation,
    *,
    self: fx.Node,
    dim: int | None = None,
    other: Any = None,  # noqa: ANN401 - whatever torch passes
    keepdim: bool = False,
) -> str | list[str]:
    """Return the largest number over an axis or over all, or the larger of two."""
    if other is not None:
        return sums.larger(t, self=self, other=other)
    if dim is None:
        return _largest_over(t, self, list(range(4)))
    del keepdim
    return [_largest_over(t, self, [dim])]  # and not where it stands


def amin(t: Translation, *, self: Any, dim: list[int], keepdim: bool = False) -> str:  # noqa: ANN401 - the same
    """Return the smallest number, -max(-x), over some axes of a picture, or over all."""
    less = sums.neg(t, self=self)
    return sums.neg(t, self=amax(t, self=less, dim=dim, keepdim=keepdim))


def smallest(
    t: Translation,
    *,
    self: fx.Node,
    dim: int | None = None,
    other: Any = None,  # noqa: ANN401 - whatever torch passes
    keepdim: bool = False,
) -> str | list[str]:
    """Return the smallest number over an axis or over all, or the smaller of two."""
    if other is not None:
        return sums.smaller(t, self=self, other=other)
    found = amin(t, self=self, dim=[] if dim is None else [dim], keepdim=keepdim)
    return found if dim is None else [found]  # and not where it stands


def adaptive_max_pool2d(t: Translation, *, self: fx.Node, output_size: list[int]) -> list[str]:
    """Return the maxima of windows that fill the picture, if all can be of one size."""
    x = t.value(self)
    kernel = _filling(t.builder.shapes[x], output_size)
    return [t.builder.emit(MaxPool2d(kernel, kernel), x)]


def _largest_over(t: Translation, tensor: Any, dims: list[int]) -> str:  # noqa: ANN401
    to, x = t.builder, t.value(tensor)
    axes = {dim % 4 for dim in dims}
    if 1 in axes:
        x = _largest_channel(to, x)
    for place, kernel in ((3, (1, to.shapes[x][2])), (2, (to.shapes[x][1], 1))):
        if place in axes and max(kernel) > 1:
            x = to.emit(MaxPool2d(kernel, (1, 1)), x)
    return x


def _largest_channel(to: Builder, x: str) -> str:
    """Return the largest of each pixel's channels: of halves, which may share one, in turn."""
    while (channels := to.shapes[x][3]) > 1:
        half = -(-channels // 2)
        size = (*to.shapes[x][:3], half)
        halves = (to.emit(ops.Slice((0, 0, 0, c), size), x) for c in (0, channels - half))
        x = to.emit(Maximum(), *halves)
    return x


def _filling(x: ops.Shape, output_size: list[int]) -> _Pair:
    """Return the size of the windows that fill the picture."""
    _, height, width, _ = x
    rows, columns = (n or m for n, m in zip(output_size, (height, width), strict=True))
    if height % rows or width % columns:
        raise Refused(f"pools {height}x{width} pixels to {rows}x{columns}, in unlike windows")
    return height // rows, width // columns


def _around(x: ops.Shape, kernel: _Pair, step: _Pair, pad: _Pair, *, ceil_mode: bool) -> Padding:
    """Return the lines around `x` that windows reach: `pad`, and what a last one lacks."""
    ends = []
    for size, k, s, p in zip(x[1:3], kernel, step, pad, strict=True):
        lines = (size + 2 * p - k) // s + 1
        if ceil_mode and lines * s < size + p and (size + 2 * p - k) % s:
            lines += 1  # if it begins within the picture
        ends.append((p, max((lines - 1) * s + k - size - p, 0)))
    return Padding(*ends[0], *ends[1])


def _averaged(
    t: Translation,
    x: str,
    kernel: _Pair,
    step: _Pair,
    pad: _Pair,
    *,
    ceil_mode: bool = False,
    zeros_count: bool = True,
    divisor: int | None = None,
) -> str:
    to = t.builder
    shape = to.shapes[x]
    if kernel == shape[1:3] and not any(pad) and divisor is None:
        return mean_over(to, x, (2, 3))
    around = _around(shape, kernel, step, pad, ceil_mode=ceil_mode)
    weight = np.full((1, *kernel, shape[3]), 1 / (divisor or math.prod(kernel)))
    y = to.emit(ops.DepthwiseConv2d(step, around), x, to.constant(weight, "mean"))
    if divisor is not None:
        return y
    counted = pad if zeros_count else (0, 0)
    rows, columns = (
        _counts(*axis)
        for axis in zip(shape[1:3], to.shapes[y][1:3], kernel, step, pad, counted, strict=True)
    )
    share = math.prod(kernel) / np.outer(rows, columns)
    return y if (share == 1).all() else to.emit(ops.Mul(), y, to.constant(share[None, ..., None]))


def _counts(size: int, lines: int, k: int, step: int, pad: int, counted: int) -> list[int]:
    """Return how many lines of each window divide its sum: in the picture, and `counted` beyond."""
    starts = [line * step - pad for line in range(lines)]
    return [min(start + k, size + counted) - max(start, -counted) for start in starts]
