"""Windows laid over one another, F.fold: what they add up to at each pixel.

Windows that lie side by side only move. Else lines are summed first along one axis, then along the
other: those that a tap of every window writes are a block of channels, shifted by the tap's place.
With a stride each tap meets every so-manieth pixel alone, and these phases are interleaved after.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.spans import as_moved, checked
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.operators import Padding

_LINES, _COLUMNS, _CHANNELS = 1, 2, 3  # of (1, H, W, C)


@dataclass(frozen=True)
class _Axis:
    """How windows lie along an axis, of `size` pixels."""

    axis: int
    size: int
    taps: int
    dilation: int
    padding: int
    stride: int

    @property
    def windows(self) -> int:
        """How many there are."""
        reach = self.dilation * (self.taps - 1) + 1
        return (self.size + 2 * self.padding - reach) // self.stride + 1

    @property
    def side_by_side(self) -> bool:
        """Whether they fill the axis and none reaches into another."""
        even = self.taps == self.stride and self.dilation == 1 and not self.padding
        return even and self.size == self.windows * self.stride


def windows_summed(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    output_size: list[int],
    kernel_size: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> str | Moved:
    """Return what windows, (1, C * taps, places), add up to, (1, C, H, W)."""
    held = as_moved(t, self)
    given = zip(output_size, kernel_size, dilation, padding, stride, strict=True)
    down, across = (
        _Axis(axis, *numbers) for axis, numbers in zip((_LINES, _COLUMNS), given, strict=True)
    )
    sizes = -1, down.taps, across.taps, down.windows, across.windows
    index = held.index.reshape(sizes)
    channels = held.index.shape[-2] // (down.taps * across.taps)
    if len(index) > channels:
        raise Refused("takes windows of several pictures; only of one")
    if down.side_by_side and across.side_by_side:
        return checked(t, node.meta["val"], held.value, index.permute(0, 3, 1, 4, 2))
    to = t.builder
    rows = index.permute(1, 2, 0, 3, 4).reshape(1, -1, down.windows, across.windows)
    value = permuted(to, held.value, rows)
    if value is None:
        raise Refused(f"takes windows of {tuple(held.index.shape)} in an order that none have")
    phases = [part for line in _summed(to, value, down) for part in _summed(to, line, across)]
    y = _interleaved(to, to.concat(phases, _CHANNELS), down.stride, across.stride)
    whole = (1, down.size, across.size, channels)
    if to.shapes[y] != whole:
        y = to.emit(ops.Slice((0, 0, 0, 0), whole), y)
    return checked(t, node.meta["val"], y, torch.arange(math.prod(whole)))


def _summed(to: Builder, x: str, along: _Axis) -> list[str]:
    """Return what the taps, each a block of channels, add up to at each phase of a stride."""
    n, *size, channels = to.shapes[x]
    block = channels // along.taps
    lines = -(-along.size // along.stride)
    phases: list[list[str]] = [[] for _ in range(along.stride)]
    for tap in range(along.taps):
        part = to.emit(ops.Slice((0, 0, 0, tap * block), (n, *size, block)), x)
        shift, phase = divmod(tap * along.dilation - along.padding, along.stride)
        phases[phase].append(_placed(to, part, along.axis, shift, lines))
    # A phase that no tap meets is as large, and empty.
    nothing = to.constant([0.0])
    some = next(parts[0] for parts in phases if parts)
    return [
        functools.reduce(lambda a, b: to.emit(ops.Add(), a, b), parts)
        if parts
        else to.emit(ops.Mul(), some, nothing)
        for parts in phases
    ]


def _placed(to: Builder, x: str, axis: int, shift: int, lines: int) -> str:
    """Return `x`, its first line at `shift`, on so many lines; beyond it are zeros."""
    begin, size = [0, 0, 0, 0], list(to.shapes[x])
    before, after = shift, lines - shift - size[axis]
    begin[axis] = max(-before, 0)
    size[axis] += min(before, 0) + min(after, 0)
    if size[axis] <= 0:  # all of it lies beyond
        nothing = to.constant([0.0])
        return _placed(to, to.emit(ops.Mul(), x, nothing), axis, 0, lines)
    if tuple(size) != to.shapes[x]:
        x = to.emit(ops.Slice(tuple(begin), tuple(size)), x)
    ends = max(before, 0), max(after, 0)
    if not any(ends):
        return x
    around = Padding(*ends) if axis == _LINES else Padding(0, 0, *ends)
    return to.emit(ops.ZeroPad(around), x)


def _interleaved(to: Builder, x: str, down: int, across: int) -> str:
    """Return the phases of strides, blocks of channels, as pixels beside each other."""
    if down == across:
        return x if down == 1 else to.emit(ops.DepthToSpace(down), x)
    _, height, width, channels = to.shapes[x]
    apart: Tensor = torch.arange(channels * height * width)
    apart = apart.reshape(down, across, -1, height, width).permute(2, 3, 0, 4, 1)
    found = permuted(to, x, apart.reshape(1, -1, height * down, width * across))
    if found is None:
        raise Refused(f"has strides of {down} and {across}, which come apart in no known order")
    return found
