"""Operators of torch that put numbers around a tensor, along any of its axes, or take some off.

Zeros before and after an axis of a picture's lines are a `ZeroPad`. Those beside a single number,
as they are put between pixels to enlarge a picture (Karras et al. 2019, arXiv 1912.04958), are
channels that a depthwise convolution without weights makes; what convolves them multiplies none
(see `passes.known_zeros`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export import several
from coronet_deploy.export.aten.settled import settled
from coronet_deploy.export.aten.spans import as_moved, checked, nchw, spanning
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.operators import Padding

_RANK, _CHANNEL = 4, 1
_LINES = {2, 3}
_PICTURE = 3  # axes without channels that come last


def pad(
    t: Translation,
    node: fx.Node,
    *,
    pad: list[int],
    mode: str = "constant",
    value: float | None = None,
    **picture: fx.Node,
) -> str | Moved:
    """Return the tensor with `pad` around it: the last axis first, before and after."""
    (x,) = picture.values()  # `self` or `input`, by the operator
    held = as_moved(t, x)
    rank = held.index.ndim
    ends = {rank - 1 - i: (pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)}
    ends = {axis: both for axis, both in ends.items() if any(both)}
    if rank == _RANK and set(ends) <= _LINES and (of := _picture(t, x, held)) is not None:
        return _around(t, of, [*ends.get(2, (0, 0)), *ends.get(3, (0, 0))], mode, value)
    if (mode != "constant" or value) and ends:
        raise Refused(f"pads {tuple(held.index.shape)} by {pad}; but for height and width by zeros")
    held = _cropped(held, ends)
    for axis, both in ends.items():  # the last one first
        before, after = (max(end, 0) for end in both)
        if before or after:
            held = _extended(t, held, axis, before, after)
    return checked(t, node.meta["val"], held.value, held.index)


def _picture(t: Translation, x: fx.Node, held: Moved) -> str | None:
    """Return the value of what is a picture, or is put into the order of one."""
    return str(t.values[x]) if isinstance(t.values[x], str) else t.as_picture(held)


def _around(t: Translation, x: str, pad: Sequence[int], mode: str, value: float | None) -> str:
    """Return a picture with lines at its top, bottom, left and right; less than none are cut."""
    if min(pad) < 0 and mode != "constant":
        raise Refused(f"negative padding {list(pad)} is not supported in mode {mode!r}")
    to, (top, bottom, left, right) = t.builder, (max(-end, 0) for end in pad)
    n, height, width, channels = to.shapes[x]
    size = n, height - top - bottom, width - left - right, channels
    if size != to.shapes[x]:
        x = to.emit(ops.Slice((0, top, left, 0), size), x)
    padding = Padding(*(max(end, 0) for end in pad))
    if mode == "reflect":
        return to.emit(ops.ReflectPad(padding), x)
    if mode == "replicate":
        return several.replicated(to, x, padding)
    if mode == "circular":
        return several.continued(to, x, padding)
    if mode != "constant" or not math.isfinite(value or 0):
        raise Refused(f"padding mode {mode!r} with value {value} is not supported")
    if not padding:
        return x
    y = to.emit(ops.ZeroPad(padding), x)
    if not value:
        return y
    border = np.full((1, *to.shapes[y][1:3], 1), value)
    border[:, padding.top :, padding.left :][:, : size[1], : size[2]] = 0
    return to.emit(ops.Add(), y, to.constant(border, "border"))


def reflection_pad2d(t: Translation, *, self: fx.Node, padding: list[int]) -> str:
    """Mirror a picture around its border pixels."""
    left, right, top, bottom = padding
    return _around(t, t.value(self), (top, bottom, left, right), "reflect", None)


def replication_pad2d(t: Translation, *, self: fx.Node, padding: list[int]) -> str:
    """Repeat a picture's border pixels."""
    left, right, top, bottom = padding
    return _around(t, t.value(self), (top, bottom, left, right), "replicate", None)


def _cropped(held: Moved, ends: Mapping[int, tuple[int, int]]) -> Moved:
    """Return what is left where less than none is put before and after."""
    index = held.index
    for axis, (before, after) in ends.items():
        first, less = max(-before, 0), max(-before, 0) + max(-after, 0)
        index = index.narrow(axis, first, index.shape[axis] - less)
    return Moved(held.value, index)


def _extended(t: Translation, held: Moved, axis: int, before: int, after: int) -> Moved:
    """Return numbers with zeros before and after along an axis."""
    to, index = t.builder, held.index
    if index.shape[axis] == 1:
        x, count = held.value, math.prod(to.shapes[held.value])
        value = to.emit(ops.Concat(3), *_zeros(to, x, before), x, *_zeros(to, x, after))
        places = [index + count * place for place in range(before + 1 + after)]
        return Moved(value, torch.cat(places, axis))
    held = _laid_out(t, held)
    held, axes, _ = spanning(t, held, [axis])
    if axes == (2, 3):  # all pixels, which are one line as well
        n, height, width, channels = to.shapes[held.value]
        line = to.emit(ops.Reshape((n, 1, height * width, channels)), held.value)
        held, axes = Moved(line, held.index), (3,)
    if len(axes) != 1:
        raise Refused(f"puts zeros along axis {axis}, which is no whole axis of a picture")
    (along,) = axes
    shape = list(nchw(t, held.value))
    if along == _CHANNEL:
        one = to.emit(ops.Slice((0, 0, 0, 0), (*to.shapes[held.value][:3], 1)), held.value)
        ends = _zeros(to, one, before), _zeros(to, one, after)
        value = to.emit(ops.Concat(3), *ends[0], held.value, *ends[1])
    else:
        lines = (before, after, 0, 0) if along == 2 else (0, 0, before, after)  # noqa: PLR2004 - H
        value = _zero_padded(to, held.value, Padding(*lines))
    # Where the first along the axis stood are now so many in a row.
    first = [*torch.unravel_index(held.index.select(axis, 0), tuple(shape))]
    shape[along] += before + after
    steps = torch.arange(shape[along]) * math.prod(shape[along + 1 :])
    start = torch.zeros_like(first[0])
    for size, place in zip(shape, first, strict=True):
        start = start * size + place
    return Moved(value, (start[..., None] + steps).movedim(-1, axis))


def _laid_out(t: Translation, held: Moved) -> Moved:
    """Return planes of numbers as the picture that they are, if they are one."""
    shape = held.index.shape
    planes = [size for size in shape if size > 1]
    if len(planes) == _PICTURE:
        value = settled(t.builder, held.value, held.index.reshape(1, *planes))
        if isinstance(value, str):
            return Moved(value, torch.arange(held.index.numel()).reshape(shape))
    return held


def _zeros(to: Builder, x: str, times: int) -> list[str]:
    """Return so many times as many channels as `x` has, all zero: one value, or none."""
    if not times:
        return []
    nothing = np.zeros((1, 1, 1, to.shapes[x][3] * times))
    op = ops.DepthwiseConv2d(multiplier=times)
    return [to.emit(op, x, to.constant(nothing, "nothing"))]


def _zero_padded(to: Builder, x: str, more: Padding) -> str:
    """Return `x` with zeros around it, together with those that it has."""
    maker = to.producer(x)
    if maker is None or not isinstance(maker.op, ops.ZeroPad):
        return to.emit(ops.ZeroPad(more), x)
    return to.emit(ops.ZeroPad(several.together(maker.op.padding, more)), *maker.inputs)


TRANSLATIONS: Mapping[str, Callable[..., Any]] = {
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
}
