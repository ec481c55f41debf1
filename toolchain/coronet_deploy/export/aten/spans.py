"""Which axes of a value torch's are, of a tensor that holds its numbers in another order."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from coronet_deploy.export.aten.places import grid, once_each, sums_filled, sums_of
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.settled import settled
from coronet_deploy.export.aten.translation import Moved, Refused, Translation, way_out

_RANK = 4
_CHANNELS = 1  # the axis of a picture, NCHW


def as_moved(t: Translation, source: fx.Node) -> Moved:
    """Return what `source` holds, numbers as they lie too."""
    held = t.values[source]
    if isinstance(held, Moved):
        return held
    shape = tuple(source.meta["val"].shape)
    return Moved(t.value(source), torch.arange(math.prod(shape)).reshape(shape))


def nchw(t: Translation, value: str) -> tuple[int, ...]:
    """Return the shape of a value as torch has it."""
    n, height, width, channels = t.builder.shapes[value]
    return n, channels, height, width


def checked(t: Translation, made: Tensor, value: str, index: Tensor) -> str | Moved:
    """Return what torch makes: the numbers of `value` at `index`, in the shape that torch says."""
    if made.numel() != index.numel():
        raise Refused(f"gives {tuple(made.shape)} of {tuple(index.shape)}")
    if made.dtype not in {torch.float32, torch.bool}:
        raise Refused(f"gives {made.dtype}; everything is captured in float32")
    return settled(t.builder, value, index.reshape(made.shape))


def spanned(t: Translation, held: Moved, dims: list[int]) -> tuple[tuple[int, ...], Tensor]:
    """Return the axes of the value, NCHW, that torch's `dims` of `held` are; the rest's places.

    Raises:
        Refused: they are no whole axes, in the order in which they lie.

    """
    shape, rank = nchw(t, held.value), held.index.ndim
    over = sorted(dim % rank for dim in dims)
    rest = [dim for dim in range(rank) if dim not in over]
    lines = t.lines_of(held.index)
    if lines is not None:
        first = int(held.index[(0,) * rank])
        found = t.known(_by_lines, lines, first, tuple(over), tuple(rest), shape)
    else:
        apart = _apart(held.index, over, rest)
        found = None if apart is None else _whole_axes(*apart, shape)
    if found is None:
        raise Refused(f"works over axes {tuple(dims)}, which are no whole axes of a picture")
    return found


def _by_lines(
    lines: Sequence[Tensor],
    first: int,
    over: tuple[int, ...],
    rest: tuple[int, ...],
    shape: tuple[int, ...],
) -> tuple[tuple[int, ...], Tensor] | None:
    return _whole_axes(first + sums_of(lines, rest), sums_of(lines, over), shape)


def _whole_axes(
    starts: Tensor, steps: Tensor, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Tensor] | None:
    """Return the axes of a value that rows are, and where each row stands among the rest."""
    for count in range(_RANK):
        for axes in itertools.combinations(range(1, _RANK), count):
            inside = grid(shape, axes)
            if not torch.equal(inside, steps):
                continue
            begins = grid(shape, [axis for axis in range(_RANK) if axis not in axes])
            # Where each beginning stands among all of them.
            places = torch.searchsorted(begins, starts).clamp(max=len(begins) - 1)
            if torch.equal(begins[places], starts):
                return axes, places
    return None


def _apart(index: Tensor, over: list[int], rest: list[int]) -> tuple[Tensor, Tensor] | None:
    """Return where rows over some axes begin, and what is added along each, if it is the same."""
    rows = index.permute(*rest, *over).reshape(-1, math.prod(index.shape[dim] for dim in over))
    steps = rows[0] - rows[0, 0]
    alike = torch.equal(rows, rows[:, :1] + steps)
    return (rows[:, 0].contiguous(), steps) if alike else None


def spanning(
    t: Translation, held: Moved, dims: list[int], *, channels: bool = False
) -> tuple[Moved, tuple[int, ...], Tensor]:
    """Return what `spanned` tells, of `held` or of its numbers with those of `dims` for channels.

    With `channels` only these will do.
    """
    with contextlib.suppress(Refused):
        axes, rest = spanned(t, held, dims)
        if axes == (_CHANNELS,) or not channels:
            return held, axes, rest
    rank, shape = held.index.ndim, held.index.shape
    over = sorted(dim % rank for dim in dims)
    order = [*(dim for dim in range(rank) if dim not in over), *over]
    count = math.prod(shape[dim] for dim in over)
    rows = held.index.permute(order)
    # The last one of the rest is kept apart, so that what goes over it still is a whole axis.
    last = next((shape[dim] for dim in reversed(order[: -len(over)]) if shape[dim] > 1), 1)
    lines = rows.reshape(1, -1, last, count).permute(0, 3, 1, 2)
    value = permuted(t.builder, held.value, lines)
    if value is None:
        return held, *spanned(t, held, dims)
    places = torch.arange(lines.numel()).reshape(count, -1).T.reshape(rows.shape)
    laid = Moved(value, places.permute([order.index(dim) for dim in range(rank)]))
    return laid, *spanned(t, laid, dims)


def as_lies(
    t: Translation,
    array: np.ndarray[Any, Any],
    beside: Moved,
    shape: tuple[int, ...] | None = None,
) -> str:
    """Return a learnt tensor in the order of the value beside whose numbers torch has it.

    `shape`, NCHW, is what is made of both, if other than the value's.
    """
    shape, tensor = shape or nchw(t, beside.value), torch.from_numpy(array)
    plane = numbers_by(t, tensor, shape, beside.index)
    if plane is None:
        told = f"{list(array.shape)} beside {tuple(beside.index.shape)}"
        raise Refused(f"takes a learnt tensor of shape {told}{way_out(array.ndim)}")
    return t.plane(plane.numpy(), batch=shape[0])


def numbers_by(
    t: Translation, tensor: Tensor, shape: tuple[int, ...], index: Tensor
) -> Tensor | None:
    """Return numbers in the order of a value of `shape`, NCHW, each where `index` has its own.

    Along axes over which they are the same they are there once, but for the channels.
    """
    plane = _along_axes(t, tensor, shape, index)
    if plane is None:
        plane = _one_by_one(tensor, shape, index)
    if plane is None:
        return None
    for axis in (0, 2, 3):
        once = plane.narrow(axis, 0, 1)
        plane = once if torch.equal(plane, once.expand(plane.shape)) else plane
    return plane


def _along_axes(
    t: Translation, tensor: Tensor, shape: tuple[int, ...], index: Tensor
) -> Tensor | None:
    """Return numbers by the axes of the value that those of the tensor are, if they are whole."""
    sizes = (1,) * (index.ndim - tensor.ndim) + tuple(tensor.shape)
    small = tensor.numel() < index.numel() == math.prod(shape)
    if not small or any(n not in {1, m} for n, m in zip(sizes, index.shape, strict=False)):
        return None
    lines = t.lines_of(index) if len(sizes) == index.ndim else None
    if lines is None or int(index[(0,) * index.ndim]):
        return None
    over, rest = ([a for a, n in enumerate(sizes) if (n > 1) is wide] for wide in (True, False))
    found, others = (t.known(sums_filled, lines, tuple(dims), shape) for dims in (over, rest))
    if found is None or others is None or set(found[0]) & set(others[0]):
        return None
    axes, places = found
    plane = torch.empty(tensor.numel(), dtype=tensor.dtype)
    plane[places] = tensor.reshape(-1)
    plane = plane.reshape([size if axis in axes else 1 for axis, size in enumerate(shape)])
    return plane if _CHANNELS in axes else plane.expand(-1, shape[_CHANNELS], -1, -1)


def _one_by_one(tensor: Tensor, shape: tuple[int, ...], index: Tensor) -> Tensor | None:
    try:
        spread = tensor.expand(index.shape).reshape(-1)
    except RuntimeError:  # of shapes that do not spread to each other's
        return None
    places = index.reshape(-1)
    if len(places) != math.prod(shape) or not once_each(places):
        return None
    plane = torch.empty_like(spread)
    plane[places] = spread
    return plane.reshape(shape)
