"""Tensors stacked, and what goes over as few as are: values joined along their channels."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.orders import beside
from coronet_deploy.export.aten.reordering import cut, permuted, some_channels
from coronet_deploy.export.aten.spans import as_moved, checked, nchw, numbers_by, spanned
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.permuting import PickChannels

_MOST_PARTS = 8
_CHANNEL = 3
_TOKENS = 3  # axes


def stack(t: Translation, node: fx.Node, *, tensors: list[fx.Node], dim: int) -> str | Moved:
    """Return tensors along an axis of their own."""
    first = as_moved(t, next(filter(t.is_picture, tensors)))
    held = [
        as_moved(t, tensor)
        if t.is_picture(tensor)
        else Moved(_all_of(t, tensor, first), first.index)
        for tensor in tensors
    ]
    return checked(t, node.meta["val"], *together(t, held, dim))


def together(t: Translation, held: list[Moved], dim: int) -> tuple[str, Tensor]:
    """Return one value of several, and the places of their numbers along an axis of their own."""
    whole = [_before_picking(t, one) for one in held]
    if all(one.value == whole[0].value for one in whole):  # which has them together already
        return whole[0].value, torch.stack([one.index for one in whole], dim)
    first, *_ = held = [without_others(t, one) for one in held]
    values = [beside(t, one, first) for one in held]
    shapes = {t.builder.shapes[value] for value in values}
    if len(shapes) > 1 or next(iter(shapes))[0] > 1:
        raise Refused(f"takes values of unlike shapes {sorted(shapes)}")
    return joined(t, values, first.index, dim)


def without_others(t: Translation, held: Moved) -> Moved:
    """Return numbers as those of a part of their value that has no others, if there is one."""
    for part in (cut, some_channels):
        found = part(t.builder, held.value, held.index)
        if found is not None:
            return Moved(*found)
    return held


def _before_picking(t: Translation, held: Moved) -> Moved:
    """Return the numbers of some channels of a value as numbers of that value."""
    node = t.builder.producer(held.value)
    shape = t.builder.shapes
    if node is None or shape[held.value][0] > 1:
        return held
    if isinstance(node.op, PickChannels):
        channels = torch.tensor(node.op.order)
    elif isinstance(node.op, ops.Slice) and shape[node.inputs[0]][:3] == shape[held.value][:3]:
        channels = torch.arange(node.op.size[_CHANNEL]) + node.op.begin[_CHANNEL]
    else:
        return held
    pixels = math.prod(shape[held.value][:3])
    places = channels[held.index // pixels] * pixels + held.index % pixels
    return Moved(node.inputs[0], places)


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
