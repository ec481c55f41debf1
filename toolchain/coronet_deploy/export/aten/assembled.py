"""Tensors that pictures are written into, part by part: y = zeros(...); y[:, :, ::2] = x.

torch says which of a tensor's numbers a view of it has. So each part written notes whose numbers
stand there, in all views of that memory; as soon as all of it is written, it is a value's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from coronet_deploy.export.aten.settled import settled
from coronet_deploy.export.aten.spans import as_moved
from coronet_deploy.export.aten.translation import Refused, Translation

_CHANNEL = 3
_UNKNOWN = -1


@dataclass
class _Memory:
    """Of each number of a tensor's memory, which part it is of, and where it stands in that."""

    part: Tensor
    place: Tensor
    values: list[str] = field(default_factory=list)


class Assembly:
    """What was written into tensors that no picture went into before."""

    def __init__(self, t: Translation) -> None:
        self._to = t
        self._memories: dict[int, _Memory] = {}  # by where they begin

    def write(self, node: fx.Node, target: fx.Node, source: fx.Node) -> None:
        """Note that `node` writes the numbers of `source` over those of `target`."""
        t, tensor = self._to, self._to.weights[target]
        if t.is_own(target):
            raise Refused("changes a tensor of the network while it draws")
        if tensor.dtype != torch.float32:
            raise Refused(f"writes to {tensor.dtype}; everything is captured in float32")
        storage, held = tensor.untyped_storage(), as_moved(t, source)
        blank = torch.full((storage.nbytes() // tensor.element_size(),), _UNKNOWN)
        memory = self._memories.setdefault(storage.data_ptr(), _Memory(blank, blank.clone()))
        shapes = {t.builder.shapes[value][:_CHANNEL] for value in (*memory.values, held.value)}
        if len(shapes) > 1 or next(iter(shapes))[0] > 1:
            raise Refused("writes parts of unlike sizes; torch.cat makes one of them")
        _seen_as(memory.part, tensor).fill_(len(memory.values))
        _seen_as(memory.place, tensor).copy_(held.index.expand(tensor.shape))
        memory.values.append(held.value)
        t.weights[node] = tensor
        if bool((memory.part != _UNKNOWN).all()):
            self._finish(storage.data_ptr())

    def _finish(self, begin: int) -> None:
        """Let all that is seen of a memory be the value's that its parts make."""
        t, memory = self._to, self._memories.pop(begin)
        # Joined in the order in which they come, so that these count up.
        parts = sorted(
            map(int, torch.unique(memory.part)),
            key=lambda part: int((memory.part == part).int().argmax()),
        )
        values = [memory.values[part] for part in parts]
        before = torch.zeros(len(memory.values), dtype=torch.int64)
        for i, part in enumerate(parts):
            before[part] = sum(math.prod(t.builder.shapes[value]) for value in values[:i])
        places, value = memory.place + before[memory.part], t.builder.concat(values, _CHANNEL)
        for node, tensor in list(t.weights.items()):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() == begin:
                del t.weights[node]
                t.values[node] = settled(t.builder, value, _seen_as(places, tensor).contiguous())

    def require_whole(self, nodes: Iterable[fx.Node]) -> None:
        """Refuse to read what is written to in part."""
        for node in nodes:
            tensor = self._to.weights.get(node)
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._memories:
                raise Refused("reads what is written to in part; torch.cat makes one of parts")


def _seen_as(memory: Tensor, view: Tensor) -> Tensor:
    return memory.as_strided(view.shape, view.stride(), view.storage_offset())
