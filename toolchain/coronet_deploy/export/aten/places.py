"""Places that are sums of lines of numbers, one line an axis.

A picture's numbers that are viewed, permuted and cut stand at such places, and of millions of
these some thousands in lines tell all: which axes they are, and where each number stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_RANK = 4


def lines_of(index: Tensor) -> tuple[Tensor, ...] | None:
    """Return what is added to the first place along each axis; None if places are no such sums."""
    first = total = index[(0,) * index.ndim]
    lines = []
    for axis in range(index.ndim):
        lines.append(index[tuple(slice(None) if a == axis else 0 for a in range(index.ndim))])
        lines[axis] = lines[axis] - first
        total = total[..., None] + lines[axis]
    return tuple(lines) if torch.equal(index, total) else None


def sums_of(lines: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
    """Return the sums of what some lines add, the last one's fastest."""
    total = torch.zeros(1, dtype=torch.int64)
    for axis in axes:
        total = (total[:, None] + lines[axis]).reshape(-1)
    return total


def grid(shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return where the numbers along some axes of a value stand, NCHW, in its order."""
    total = torch.zeros(1, dtype=torch.int64)
    for axis in axes:
        step = math.prod(shape[axis + 1 :])
        total = (total[:, None] + torch.arange(shape[axis]) * step).reshape(-1)
    return total


def filled(places: Tensor, shape: Sequence[int]) -> tuple[tuple[int, ...], Tensor] | None:
    """Return the axes of a value of which all is at `places`, and where each stands among that.

    None if there are such that are beside them, missing or there twice.
    """
    if int(places.min()) < 0 or int(places.max()) >= math.prod(shape):
        return None
    of = torch.unravel_index(places, tuple(shape))
    axes = tuple(axis for axis in range(_RANK) if bool(of[axis].any()))
    if math.prod(shape[axis] for axis in axes) != len(places):
        return None
    among = torch.zeros_like(places)
    for axis in axes:
        among = among * shape[axis] + of[axis]
    return (axes, among) if once_each(among) else None


def sums_filled(
    lines: Sequence[Tensor], along: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int, ...], Tensor] | None:
    """Return what is `filled` by the sums of some lines."""
    return filled(sums_of(lines, along), shape)


def once_each(places: Tensor) -> bool:
    """Return whether so many places are all from 0 on."""
    seen = torch.zeros(len(places), dtype=torch.bool)
    seen[places] = True
    return bool(seen.all())
