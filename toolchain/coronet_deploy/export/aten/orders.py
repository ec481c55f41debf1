"""Numbers of one value put into the order in which those of another lie that they stand beside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.settled import picked, reordered
from coronet_deploy.export.aten.spans import nchw, numbers_by
from coronet_deploy.export.aten.translation import Moved, Refused, Translation


def leads(t: Translation, held: Moved) -> tuple[int, bool]:
    """Return what is larger for a value in whose order others are put: pictures', not lines'."""
    n, height, *_ = shape = t.builder.shapes[held.value]
    return math.prod(shape), n == 1 and height > 1


def spread(t: Translation, held: Moved, made: ops.Shape) -> tuple[Moved, ops.Shape]:
    """Return what is made of numbers by others beside each of them, and its shape, NCHW.

    Of a number a channel, and so many times as many others, each channel is a line.
    """
    shape, index = nchw(t, held.value), held.index
    times = math.prod(made) // index.numel()
    if times == 1 or shape != (1, index.numel(), 1, 1):
        return held, shape
    sizes = (1,) * (len(made) - index.ndim) + tuple(index.shape)
    others = torch.arange(times).reshape(
        [n if size == 1 else 1 for n, size in zip(made, sizes, strict=True)]
    )
    return Moved(held.value, index.reshape(sizes) * times + others), (*shape[:3], times)


def beside(t: Translation, one: Moved, other: Moved, shape: ops.Shape | None = None) -> str:
    """Return the value of `one` with its numbers where those of `other` are that they stand by.

    `shape`, NCHW, is what is made of both, if other than the value's of `other`.
    """
    if _stands_as(t, one, other):
        return _on_lines_of(t, one, other)
    places = numbers_by(t, one.index, shape or nchw(t, other.value), other.index)
    if places is not None:
        found = permuted(t.builder, one.value, places)
        if found is None and len(places) == 1:  # channels that stand beside several each
            found = picked(t.builder, one.value, places[0]) or _repeated(t, one.value, places[0])
        if found is not None:
            return found
    raise Refused("takes numbers in unlike orders")


def _repeated(t: Translation, value: str, places: Tensor) -> str | None:
    """Return numbers that several channels (C, H, W) of another value stand beside, as of heads."""
    once, order = torch.unique(places, dim=0, return_inverse=True)
    found = permuted(t.builder, value, once[None])
    if found is None or len(once) == 1:  # which every operator spreads
        return found
    return reordered(t.builder, found, order.tolist())


def _on_lines_of(t: Translation, one: Moved, other: Moved) -> str:
    """Return a value on as many lines as another, if both hold as many pixels."""
    shape, wanted = t.builder.shapes[one.value], t.builder.shapes[other.value]
    if shape == wanted or not _same_but_for_lines(shape, wanted):
        return one.value
    return t.builder.emit(ops.Reshape(wanted), one.value)


def _same_but_for_lines(one: ops.Shape, other: ops.Shape) -> bool:
    return one[0] == other[0] and one[3] == other[3] and math.prod(one) == math.prod(other)


def _stands_as(t: Translation, one: Moved, other: Moved) -> bool:
    """Return whether each number of `one` stands beside that of `other` that it lies beside."""
    shapes = t.builder.shapes
    if _same_but_for_lines(shapes[one.value], shapes[other.value]):
        return torch.equal(one.index, other.index)
    wide, small = nchw(t, other.value), nchw(t, one.value)
    if any(n not in {1, m} for n, m in zip(small, wide, strict=True)):
        return False
    rest, wanted, step = other.index, torch.zeros_like(other.index), 1
    for n, m in zip(reversed(small), reversed(wide), strict=True):
        wanted = wanted + (rest % m) * (step if n > 1 else 0)
        rest, step = rest // m, step * n
    try:
        return torch.equal(one.index.expand(wanted.shape), wanted)
    except RuntimeError:  # of shapes that do not spread to each other's
        return False
