"""Which axes of a value torch's are, of a tensor that holds its numbers in another order."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

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
    rows = held.index.permute(*rest, *over).reshape(
        -1, math.prod(held.index.shape[dim] for dim in over)
    )
    places = torch.arange(math.prod(shape)).reshape(shape)
    for count in range(_RANK):
        for axes in itertools.combinations(range(1, _RANK), count):
            inside = places[tuple(slice(None) if a in axes else slice(0, 1) for a in range(_RANK))]
            if inside.numel() != rows.shape[1]:
                continue
            begins = places[tuple(slice(0, 1) if a in axes else slice(None) for a in range(_RANK))]
            whole = torch.isin(rows[:, 0], begins).all()
            if whole and torch.equal(rows, rows[:, :1] + inside.reshape(1, -1)):
                # Where each beginning stands among all of them.
                return axes, torch.searchsorted(
                    begins.flatten().contiguous(), rows[:, 0].contiguous()
                )
    raise Refused(f"works over axes {tuple(dims)}, which are no whole axes of a picture")


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


def as_lies(t: Translation, array: np.ndarray[Any, Any], beside: Moved) -> str:
    """Return a learnt tensor in the order of the value beside whose numbers torch has it."""
    shape, tensor = nchw(t, beside.value), torch.from_numpy(array)
    plane = numbers_by(tensor, shape, beside.index)
    if plane is None:
        told = f"{list(array.shape)} beside {tuple(beside.index.shape)}"
        raise Refused(f"takes a learnt tensor of shape {told}{way_out(array.ndim)}")
    return t.plane(plane.numpy(), batch=shape[0])


def _once_each(places: Tensor) -> bool:
    seen = torch.zeros(len(places), dtype=torch.bool)
    seen[places] = True
    return bool(seen.all())


def numbers_by(tensor: Tensor, shape: tuple[int, ...], index: Tensor) -> Tensor | None:
    """Return numbers in the order of a value of `shape`, NCHW, each where `index` has its own.

    Along axes over which they are the same they are there once, but for the channels.
    """
    try:
        spread = tensor.expand(index.shape).reshape(-1)
    except RuntimeError:  # of shapes that do not spread to each other's
        return None
    places = index.reshape(-1)
    if len(places) != math.prod(shape) or not _once_each(places):
        return None
    plane = torch.empty_like(spread)
    plane[places] = spread
    plane = plane.reshape(shape)
    for axis in (0, 2, 3):
        once = plane.narrow(axis, 0, 1)
        plane = once if torch.equal(plane, once.expand(plane.shape)) else plane
    return plane
