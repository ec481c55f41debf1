"""What is known of a traced network on the way through its operators: values, weights, memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.weak import WeakTensorKeyDictionary

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.places import lines_of
from coronet_deploy.export.aten.reordering import tiled
from coronet_deploy.export.graph import Builder, FloatArray

_RANK = 4
_Found = TypeVar("_Found")


def way_out(rank: int) -> str:
    """Return what to do instead of making weights of the picture, of more axes than it has."""
    told = "; if weights depend on the picture, scale its channels before and after instead"
    return told if rank > _RANK else ""


class Refused(Exception):
    """Why an operator cannot be translated."""


@dataclass(frozen=True)
class Moved:
    """Numbers of a value in another order: `index`, in torch's shape, counts them as NCHW lies."""

    value: str
    index: Tensor


@dataclass(frozen=True)
class Factor:
    """A vector of the picture's, (1, 1, 1, C), and which of its numbers scales each of others."""

    vector: str
    places: Tensor


@dataclass(frozen=True)
class Modulated:
    """Learnt numbers in torch's shape, each scaled by one number of each of some vectors."""

    learnt: Tensor
    factors: tuple[Factor, ...]


class Translation:
    """Nodes of a traced network as values of the graph in `builder`, as its learnt tensors.

    `weights` holds too what is computed of learnt tensors alone, several tensors as a list.
    """

    def __init__(self, input_shape: ops.Shape) -> None:
        self.builder = Builder(input_shape)
        self.values: dict[fx.Node, str | Moved | Modulated | list[str | Moved]] = {}
        self.weights: dict[fx.Node, Any] = {}
        self.kernels: set[fx.Node] = set()  # what weights of convolutions are made of
        self.spread: dict[fx.Node, ops.Shape] = {}  # to what arithmetic would spread a value
        self._learnt: set[int] = set()  # where the numbers of the network's own tensors stand
        self._kernels: dict[tuple[Any, ...], str] = {}
        self._lines: MutableMapping[Tensor, tuple[Tensor, ...] | None] = WeakTensorKeyDictionary()
        self._planes: dict[tuple[ops.Shape, bytes], str] = {}
        self._known: dict[Hashable, Any] = {}

    def lines_of(self, index: Tensor) -> tuple[Tensor, ...] | None:
        """Return the lines that places are sums of (see `places.lines_of`), found once."""
        if index not in self._lines:
            self._lines[index] = lines_of(index)
        return self._lines[index]

    def known(
        self, what: Callable[..., _Found], lines: Sequence[Tensor], *arguments: Hashable
    ) -> _Found:
        """Return what a function of lines and `arguments` gives, computed once for equal ones.

        Layers that follow one another have the same. What is given is not to be written to.
        """
        key = what, tuple(line.numpy().tobytes() for line in lines), arguments
        if key not in self._known:
            self._known[key] = what(lines, *arguments)
        found: _Found = self._known[key]
        return found

    def own(self, node: fx.Node, tensor: Tensor) -> None:
        """Note that `node` is one of the network's own tensors."""
        self.weights[node] = tensor
        self._learnt.add(tensor.untyped_storage().data_ptr())

    def compute(self, node: fx.Node) -> None:
        """Let torch compute what no picture goes into, or no more of it than its shape."""
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags and not _draws_nothing(node):
            raise Refused("is random: each picture would have other numbers; a buffer keeps some")
        for spec, given in zip(target._schema.arguments, node.args, strict=False):  # noqa: SLF001 - torch's only way
            written = spec.alias_info is not None and spec.alias_info.is_write
            if written and self.is_own(given):
                raise Refused("changes a tensor of the network while it draws")
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._tensor)
        with torch.no_grad():
            made = target(*args, **kwargs)
        if isinstance(made, int | float):  # as `item` gives
            made = node.meta["val"] = torch.tensor(float(made))
        self.weights[node] = made

    def _tensor(self, node: fx.Node) -> Any:  # noqa: ANN401 - one tensor or several
        return self.weights[node] if node in self.weights else torch.zeros(node.meta["val"].shape)

    def is_own(self, argument: Any) -> bool:  # noqa: ANN401 - whatever torch passes
        """Return whether a tensor is, or shows, one of the network's own."""
        tensor = self.weights[argument]
        return tensor.untyped_storage().data_ptr() in self._learnt

    def is_picture(self, argument: object) -> bool:
        """Return whether an operand depends on the picture: a node, or the name of a value."""
        return isinstance(argument, str) or argument in self.values

    def value(self, argument: Any) -> str:  # noqa: ANN401 - whatever torch passes
        """Return the name of a picture-like operand; a plain number becomes a constant."""
        if isinstance(argument, str):
            return argument
        if isinstance(argument, fx.Node) and argument in self.values:
            value = self.values[argument]
            if isinstance(value, list):
                raise Refused("takes several tensors where a picture is expected")
            if isinstance(value, Modulated):
                raise Refused("takes weights that the picture scales, which convolutions alone do")
            if isinstance(value, Moved):
                if (found := self.as_picture(value)) is not None:
                    self.values[argument] = found
                    return found
                raise Refused(f"takes {tuple(value.index.shape)} in an order that no picture has")
            if argument in self.spread:
                ones = self.builder.constant(np.ones(self.spread[argument]), "ones")
                return self.builder.emit(ops.Mul(), value, ones)
            return value
        if isinstance(argument, int | float):
            return self.builder.constant([argument])
        raise Refused("takes a tensor of the network's own where a picture is expected")

    def as_picture(self, held: Moved) -> str | None:
        """Return the value of a picture whose numbers were permuted, if it is one."""
        if held.index.ndim != _RANK or held.index.shape[0] != 1:
            return None
        return tiled(self.builder, held.value, held.index)

    def has_channels_last(self, node: fx.Node) -> bool:
        """Return whether the last axis of torch's tensor are the channels of a value."""
        held = self.values[node]
        if not isinstance(held, Moved) or held.index.shape[-1] == 1:
            return False
        _, height, width, _ = self.builder.shapes[held.value]
        last = held.index[(0,) * (held.index.ndim - 1)]
        return not bool(((last - last[0]) % (height * width)).any())

    def is_whole(self, shape: ops.Shape, value: str) -> bool:
        """Return whether a tensor is a picture, or is broadcast as one: (C, 1, 1), or (H, W)."""
        n, h, w, c = self.builder.shapes[value]
        return len(shape) == _RANK or (1,) * (_RANK - len(shape)) + shape == (n, c, h, w)

    def fits(self, shape: ops.Shape, value: str) -> bool:
        """Return whether a value has torch's shape, or holds a number a channel in any shape."""
        n, h, w, c = self.builder.shapes[value]
        if (1,) * (_RANK - len(shape)) + shape == (n, c, h, w):
            return True
        one_pixel = h * w == 1 and max(shape, default=1) == math.prod(shape) == c
        return len(shape) != _RANK and one_pixel

    def operand(self, argument: Any) -> str:  # noqa: ANN401 - whatever torch passes
        """Return the name of what goes into arithmetic: a value, a number, or a learnt tensor."""
        if isinstance(argument, fx.Node) and argument in self.weights:
            return self.plane(self.array(argument))
        if isinstance(argument, fx.Node) and argument in self.spread:
            return str(self.values[argument])
        return self.value(argument)

    def plane(self, tensor: FloatArray, batch: int = 1) -> str:
        """Return the name of a learnt tensor that goes into arithmetic, by torch's broadcasting.

        It goes with values of as many as `batch`. Equal ones, as masks of windows are, are one.
        """
        if tensor.size == 1:
            tensor = tensor.reshape(1)
        if tensor.ndim > _RANK or (tensor.ndim == _RANK and tensor.shape[0] not in {1, batch}):
            raise Refused(
                f"takes a learnt tensor of shape {list(tensor.shape)}{way_out(tensor.ndim)}"
            )
        key = tensor.shape, hashlib.sha256(tensor.tobytes()).digest()
        if key not in self._planes:
            self._planes[key] = self._plane(tensor)
        return self._planes[key]

    def _plane(self, tensor: FloatArray) -> str:
        spread = tensor.reshape((1,) * (_RANK - tensor.ndim) + tensor.shape).transpose(0, 2, 3, 1)
        plain = spread.shape[:3] == (1, 1, 1)
        return self.builder.constant(spread.reshape(-1) if plain else spread, "constant")

    def array(self, argument: fx.Node) -> FloatArray:
        """Return a learnt tensor as an array of its own; training on does not reach the graph."""
        tensor = self.weights.get(argument)
        if not isinstance(tensor, Tensor):
            raise Refused(
                "takes weights that the picture goes into; scale its channels before and after "
                "instead, or add up what several learnt ones draw"
            )
        return tensor.detach().cpu().numpy().copy()

    def constants(self, **tensors: FloatArray | None) -> list[str]:
        """Return the names of the tensors that are there."""
        return [self.builder.constant(t, name) for name, t in tensors.items() if t is not None]

    def kernel(self, weight: fx.Node, axes: tuple[int, ...], bias: fx.Node | None) -> list[str]:
        """Return the names of a convolution's weight, its axes permuted, and of its bias.

        A layer that is used twice has its weight once.
        """
        array = self.array(weight)
        tensor = self.weights[weight]
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), axes
        if key not in self._kernels:
            (self._kernels[key],) = self.constants(weight=array.transpose(axes))
        shift = None if bias is None else self.array(bias)
        return [self._kernels[key], *self.constants(bias=shift)]


def _draws_nothing(node: fx.Node) -> bool:
    """Return whether what may draw random numbers is told not to, as dropout in eval mode."""
    schema: Any = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    if "train" in given:
        return not given["train"]
    return "dropout_p" in {a.name for a in schema.arguments} and not given.get("dropout_p", 0)


class Memory:
    """Which nodes are one tensor, or parts of one, so that a write is seen wherever it shows."""

    def __init__(self, reads: Callable[[fx.Node, fx.Node], bool]) -> None:
        self._read_after = reads
        self._owner: dict[fx.Node, fx.Node] = {}
        self._view: dict[fx.Node, fx.Node] = {}

    def same(self, node: fx.Node, as_: fx.Node) -> None:
        """Note that `node` is the tensor that `as_` is."""
        self._owner[node] = self._owner.get(as_, as_)
        self._view[node] = self._view.get(as_, as_)

    def part(self, node: fx.Node, of: fx.Node) -> None:
        """Note that `node` is a part of the tensor `of`."""
        self._owner[node] = self._owner.get(of, of)

    def write(self, node: fx.Node, target: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
        """Return the nodes that are what the operator `node` makes of `target`, in place.

        Raises:
            Refused: what is read later is, or holds, another part of what was written to.

        """
        owner, view = self._owner.get(target, target), self._view.get(target, target)
        shared = [other for other in values if self._owner.get(other, other) is owner]
        same = [other for other in shared if self._view.get(other, other) is view]
        for other in shared:
            if other not in same and self._read_after(other, node):
                raise Refused(
                    "writes in place into memory that is read by another slice; let it make a "
                    "tensor of its own"
                )
        return [*same, target]
