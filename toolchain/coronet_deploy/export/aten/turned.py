"""Pictures turned by right angles, and the numbers of a picture whose lines are to be mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.settled import settled
from coronet_deploy.export.aten.spans import as_moved, checked
from coronet_deploy.export.aten.translation import Moved, Translation

_RANK = 4
_TURNS = 4


def rotated(
    t: Translation, node: fx.Node, *, self: fx.Node, k: int, dims: list[int]
) -> str | Moved:
    """Return a tensor turned `k` times: lines mirrored first, then lines for columns.

    What is mirrored is a picture again, of which the other is a `Permute`.
    """
    first, second = dims
    held, turns = of_picture(t, self), k % _TURNS
    mirrored = {0: [], 1: [second], 2: [first, second], 3: [first]}[turns]
    found = settled(t.builder, held.value, held.index.flip(mirrored))
    if isinstance(found, str):
        found = Moved(found, torch.arange(held.index.numel()).reshape(held.index.shape))
    index = found.index.transpose(first, second) if turns % 2 else found.index
    return checked(t, node.meta["val"], found.value, index)


def of_picture(t: Translation, source: fx.Node) -> Moved:
    """Return what `source` holds of a picture, whose channels may come last in torch's tensor."""
    held, last = as_moved(t, source), t.has_channels_last(source)
    index = held.index
    if index.ndim != _RANK or len(index) != 1:
        return held
    planes = index.permute(0, 3, 1, 2) if last else index
    value = permuted(t.builder, held.value, planes)
    if value is None:
        return held
    places = torch.arange(planes.numel()).reshape(planes.shape)
    return Moved(value, places.permute(0, 2, 3, 1) if last else places)


TRANSLATIONS: Mapping[str, Callable[..., str | Moved]] = {"aten.rot90": rotated}
