"""Tensors stacked, and what goes over as few as are: values joined along their channels."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, fx

from coronet_deploy.export.aten.orders import beside
from coronet_deploy.export.aten.reordering import cut, permuted
from coronet_deploy.export.aten.spans import as_moved, checked, nchw, numbers_by, spanned
from coronet_deploy.export.aten.translation import Moved, Refused, Translation

_MOST_PARTS = 8
_CHANNEL = 3
_TOKENS = 3  # axes


def stack(t: Translation, node: fx.Node, *, tensors: list[fx.Node], dim: int) -> str | Moved:
    """Return tensors along an axis of their own."""
    first = as_moved(t, next(filter(t.is_picture, tensors)))
    values = [
        beside(t, as_moved(t, tensor), first) if t.is_picture(tensor) else _all_of(t, tensor, first)
        for tensor in tensors
    ]
    shapes = {t.builder.shapes[value] for value in values}
    if len(shapes) > 1 or next(iter(shapes))[0] > 1:
        raise Refused(f"takes values of unlike shapes {sorted(shapes)}")
    return checked(t, node.meta["val"], *joined(t, values, first.index, dim))


def _all_of(t: Translation, learnt: fx.Node, first: Moved) -> str:
    """Return a learnt tensor as a constant of as many numbers as `first` has, in their order."""
    shape = nchw(t, first.value)
    plane = numbers_by(t, torch.from_numpy(t.array(learnt)), shape, first.index)
    if plane is None:
        raise Refused("takes a learnt tensor in an order that what it stands beside has not")
    return t.builder.constant(plane.expand(shape).permute(0, 2, 3, 1).numpy(), "beside")


def tokens(t: Translation, node: fx.Node, *, tensors: list[fx.Node], dim: int) -> Any:  # noqa: ANN401 - a value
    """Return (1, L, C) joined to others, learnt ones too, on one line; None if they are no such."""
    if any(len(x.meta["val"].shape) != _TOKENS or x.meta["val"].shape[0] != 1 for x in tensors):
        return None
    values = [_on_a_line(t, tensor) for tensor in tensors]
    value = t.builder.concat(values, (0, 2, _CHANNEL)[dim])
    _, _, length, channels = t.builder.shapes[value]
    index = torch.arange(length * channels).reshape(1, channels, length).transpose(1, 2)
    return checked(t, node.meta["val"], value, index)


def _on_a_line(t: Translation, tensor: fx.Node) -> str:
    """Return (1, L, C) as a picture of one line."""
    if not t.is_picture(tensor):
        return t.builder.constant(t.array(tensor)[:, None], "beside")
    held = as_moved(t, tensor)
    value = permuted(t.builder, held.value, held.index.transpose(1, 2)[:, :, None])
    if value is None:
        raise Refused(f"takes {tuple(held.index.shape)} in an order that no line has")
    return value


def joined(t: Translation, values: list[str], index: Tensor, dim: int) -> tuple[str, Tensor]:
    """Return one value of several, each with its numbers at `index`, along an axis of their own."""
    count = math.prod(t.builder.shapes[values[0]])
    places = torch.stack([index + count * i for i in range(len(values))], dim)
    return t.builder.concat(values, _CHANNEL), places


def few_parts(t: Translation, held: Moved, dims: list[int]) -> tuple[list[str], Tensor] | None:
    """Return the values that stand along an axis which is none of a picture, and their places."""
    if len(dims) != 1 or not 1 < held.index.shape[dims[0]] <= _MOST_PARTS:
        return None
    with contextlib.suppress(Refused):
        spanned(t, held, dims)
        return None
    parts = [cut(t.builder, held.value, index) for index in held.index.unbind(dims[0])]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    values, places = zip(*found, strict=True)
    alike = len({t.builder.shapes[value] for value in values}) == 1
    if not alike or any(not torch.equal(place, places[0]) for place in places):
        return None
    return list(values), places[0]
