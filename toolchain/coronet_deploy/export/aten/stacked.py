"""Tensors stacked, and what goes over as few as are: values joined along their channels."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, fx

from coronet_deploy.export.aten.orders import beside
from coronet_deploy.export.aten.reordering import cut
from coronet_deploy.export.aten.spans import as_moved, checked, spanned
from coronet_deploy.export.aten.translation import Moved, Refused, Translation

_MOST_PARTS = 8
_CHANNEL = 3


def stack(t: Translation, node: fx.Node, *, tensors: list[fx.Node], dim: int) -> str | Moved:
    """Return tensors along an axis of their own."""
    if not all(map(t.is_picture, tensors)):
        raise Refused("takes a learnt tensor; only what the picture goes into")
    held = [as_moved(t, tensor) for tensor in tensors]
    values = [beside(t, one, held[0]) for one in held]
    shapes = {t.builder.shapes[value] for value in values}
    if len(shapes) > 1 or next(iter(shapes))[0] > 1:
        raise Refused(f"takes values of unlike shapes {sorted(shapes)}")
    return checked(t, node.meta["val"], *joined(t, values, held[0].index, dim))


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
