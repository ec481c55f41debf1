"""From numbers that were moved about back to a picture, if they stand as one's do (see `moved`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.translation import Moved
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.permuting import Mirror, PickChannels
from coronet_deploy.export.several import enlarged, lines

_RANK = 4
_FEW_RUNS = 5  # of lines


def settled(to: Builder, value: str, index: Tensor) -> str | Moved:
    """Return the value that has the numbers of `value` at `index`, in torch's shape, if one has.

    It may pick, repeat and shuffle channels, leave out, roll and mirror lines, and take squares
    apart or together.
    """
    n, height, width, channels = to.shapes[value]
    shape = tuple(index.shape)
    as_it_lies = index.numel() == n * height * width * channels and in_order(index)
    padded = (1,) * (_RANK - len(shape)) + shape
    one_pixel = height * width == 1 and max(shape, default=1) == channels
    if as_it_lies and (
        padded == (n, channels, height, width) or (one_pixel and len(shape) < _RANK)
    ):
        return value
    if as_it_lies and len(shape) == _RANK and shape[:2] == (n, channels):
        return to.emit(ops.Reshape((n, *shape[2:], channels)), value)
    if len(shape) == _RANK and shape[0] == n == 1:
        found = (
            _together(to, value, index[0])
            or picked(to, value, index[0])
            or _in_other_lines(to, value, index[0])
        )
        if found is not None:
            return found
        if shape[3] == channels:
            return _channels_last(to, value, index)
    return Moved(value, index)


def _channels_last(to: Builder, value: str, index: Tensor) -> Moved:
    """Return numbers with channels last, (1, H, W, C): of other lines, if `index` has such."""
    planes = index[0].permute(2, 0, 1)
    if not in_order(planes):
        found = picked(to, value, planes) or _in_other_lines(to, value, planes)
        if found is not None:
            places = torch.arange(planes.numel()).reshape(planes.shape)
            return Moved(found, places.permute(1, 2, 0)[None])
    return Moved(value, index)


def in_order(index: Tensor) -> bool:
    """Return whether numbers count up from 0 by 1."""
    first = index[tuple(slice(0, 1) for _ in index.shape[:-1])].reshape(-1)[:2]  # at little cost
    return torch.equal(first, torch.arange(len(first))) and torch.equal(
        index.reshape(-1), torch.arange(index.numel())
    )


def _together(to: Builder, value: str, index: Tensor) -> str | None:
    """Return squares of pixels made of channels, if `index` (C, H, W) is such."""
    _, height, width, channels = to.shapes[value]
    outputs, rows, columns = index.shape
    block = rows // height
    if block < 2 or (rows, columns) != (height * block, width * block):  # noqa: PLR2004 - larger
        return None
    cells = index.reshape(outputs, height, block, width, block).permute(2, 4, 0, 1, 3)
    planes = cells.reshape(-1, height, width)
    first = planes[:, :1, :1]
    inside = torch.arange(height * width).reshape(height, width)
    if not torch.equal(planes, first + inside) or bool((first % (height * width)).any()):
        return None
    order = (first // (height * width)).reshape(-1)
    if torch.equal(order, torch.arange(channels).repeat(block**2)):
        return enlarged(to, value, block)
    return to.emit(ops.DepthToSpace(block), reordered(to, value, order.tolist()))


def picked(to: Builder, value: str, index: Tensor) -> str | None:
    """Return pixels a whole number of lines apart of channels in any order, if `index` is such."""
    n, height, width, channels = to.shapes[value]
    outputs, rows, columns = index.shape
    first = index[:, 0, 0]
    down = int(index[0, 1, 0] - first[0]) if rows > 1 else width
    across = int(index[0, 0, 1] - first[0]) if columns > 1 else 1
    if down <= 0 or across <= 0 or down % width:
        return None
    step = down // width, across
    lines = torch.arange(rows)[:, None] * down + torch.arange(columns) * across
    if not torch.equal(index, first[:, None, None] + lines):
        return None
    source, within = first // (height * width), first % (height * width)
    tops, lefts = within // width, within % width
    reach = (rows - 1) * step[0] + 1, (columns - 1) * step[1] + 1
    if int(tops.max()) + reach[0] > height or int(lefts.max()) + reach[1] > width:
        return None
    top, left = int(tops.min()), int(lefts.min())
    taps = int(tops.max()) - top + 1, int(lefts.max()) - left + 1
    block = (n, reach[0] + taps[0] - 1, reach[1] + taps[1] - 1, channels)
    if block != to.shapes[value]:
        value = to.emit(ops.Slice((0, top, left, 0), block), value)
    if taps == step == (1, 1):
        return reordered(to, value, source.tolist())
    places: Any = (tops - top).numpy(), (lefts - left).numpy(), source.numpy()
    multiple, rest = divmod(outputs, channels)
    if not rest and torch.equal(source, torch.arange(outputs) // multiple):
        kernel = np.zeros((1, *taps, outputs))
        kernel[0, places[0], places[1], np.arange(outputs)] = 1
        op: ops.Operator = ops.DepthwiseConv2d(step, multiplier=multiple)
    else:
        kernel = np.zeros((outputs, *taps, channels))
        kernel[np.arange(outputs), places[0], places[1], places[2]] = 1
        op = ops.Conv2d(step)
    return to.emit(op, value, to.constant(kernel, "picks"))


def _in_other_lines(to: Builder, value: str, index: Tensor) -> str | None:
    """Return the lines and columns of `value` in another order, if `index` (C, H, W) has them so.

    An order is a few runs of neighbours, each upwards or downwards.
    """
    _, height, width, _ = to.shapes[value]
    pixels = height * width
    order = index[:, 0, 0] // pixels, index[0, :, 0] % pixels // width, index[0, 0, :] % width
    down, across = order[0][:, None, None] * pixels + order[1][:, None] * width, order[2]
    last = torch.equal(index[:, -1], down[:, -1] + across)  # at little cost
    if not last or not torch.equal(index, down + across):
        return None
    planned = [(axis, _runs(order[axis].tolist())) for axis in (1, 2)]
    if any(len(runs) > _FEW_RUNS for _, runs in planned):
        return None
    upwards = {axis: [list(range(to.shapes[value][axis]))] for axis, _ in planned}
    turned = [a for a, runs in planned if [run[::-1] for run in runs] == upwards[a] != runs]
    if turned:
        value = to.emit(Mirror(tuple(turned)), value)
    for axis, runs in planned:
        if axis not in turned and runs != upwards[axis]:
            value = to.concat([_run(to, value, axis, run) for run in runs], axis)
    return reordered(to, value, order[0].tolist())


def _runs(order: list[int]) -> list[list[int]]:
    """Return `order` cut where the step from one to the next is another than the one before."""
    runs: list[list[int]] = []
    for place in order:
        last = runs[-1] if runs else []
        step = place - last[-1] if last else 0
        if abs(step) == 1 and (len(last) == 1 or step == last[1] - last[0]):
            last.append(place)
        else:
            runs.append([place])
    return runs


def _run(to: Builder, value: str, axis: int, run: list[int]) -> str:
    """Return neighbouring lines of `value` across `axis`, upwards or downwards."""
    if len(run) != to.shapes[value][axis]:
        value = lines(to, value, axis, min(run), len(run))
    return to.emit(Mirror((axis,)), value) if run[-1] < run[0] else value


def reordered(to: Builder, value: str, order: list[int]) -> str:
    """Return the channels of `value` in `order`."""
    shape = to.shapes[value]
    if order == list(range(shape[3])):
        return value
    if order == list(range(order[0], order[0] + len(order))):
        return to.emit(ops.Slice((0, 0, 0, order[0]), (*shape[:3], len(order))), value)
    return to.emit(PickChannels(tuple(order)), value)
