"""A small graph of one picture's way through a generator: NHWC, static shapes, SSA, in order.

A `Graph` is immutable; passes write a new one with `rewrite`, which walks the nodes in order and
lets a visitor put something else in a node's place. Unread nodes and constants fall away.

Values are float32 arrays at run time and named; each is written once, before it is read. The
picture comes in as "input" (1, H, W, C) and leaves as "output". Constants are float32 arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.operators import Concat, Operator, Shape

FloatArray = npt.NDArray[np.float32]

INPUT, OUTPUT = "input", "output"

FLOAT16_MAX = float(np.finfo(np.float16).max)

_MOST_CONCATENATED = 4  # XNNPACK takes concatenations of at most five inputs
_SMALL = 4096  # numbers; larger constants are not compared


@dataclass(frozen=True)
class Node:
    """One operation: `inputs` and `output` are names of values; an input may be a constant."""

    op: Operator
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run, the constants they read, and every shape."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, FloatArray]
    shapes: Mapping[str, Shape]

    def __post_init__(self) -> None:
        known = {INPUT, *self.constants}
        for node in self.nodes:
            if unknown := [name for name in node.inputs if name not in known]:
                raise ValueError(f"graph: {node.output!r} reads {unknown[0]!r} before it is made")
            if node.output in known:
                raise ValueError(f"graph: {node.output!r} is made twice")
            known.add(node.output)
        if not self.nodes or self.nodes[-1].output != OUTPUT:
            raise ValueError(f"graph: the last node does not make {OUTPUT!r}")

    @property
    def input_shape(self) -> Shape:
        """(1, H, W, C) of the picture that comes in."""
        return self.shapes[INPUT]

    @property
    def output_shape(self) -> Shape:
        """(1, H, W, C) of the picture that leaves."""
        return self.shapes[OUTPUT]

    @cached_property
    def readers(self) -> Counter[str]:
        """How many inputs of nodes read each value or constant."""
        return Counter(name for node in self.nodes for name in node.inputs)

    def count(self) -> dict[str, int]:
        """Return how many nodes of each kind there are, by name."""
        return dict(sorted(Counter(node.op.kind for node in self.nodes).items()))


def _content(array: FloatArray) -> tuple[Shape, bytes] | None:
    return (array.shape, array.tobytes()) if array.size <= _SMALL else None


class Builder:
    """Makes a graph node by node, naming values and inferring shapes on the way."""

    def __init__(self, input_shape: Shape) -> None:
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.constants: dict[str, FloatArray] = {}
        self.scope = ""  # what the names of unnamed values start with
        self._nodes: dict[str, Node] = {}
        self._by_content: dict[tuple[Shape, bytes], str] = {}

    def _unique(self, name: str) -> str:
        taken = self.shapes
        if name not in taken and name != OUTPUT:
            return name
        number = 1
        while f"{name}_{number}" in taken:
            number += 1
        return f"{name}_{number}"

    def constant(self, values: npt.ArrayLike, name: str = "constant") -> str:
        """Return the name of a float32 constant; equal small constants are one."""
        array = np.ascontiguousarray(values, dtype=np.float32)
        key = _content(array)
        if key is not None and key in self._by_content:
            return self._by_content[key]
        unique = self._unique(f"{self.scope}/{name}" if self.scope else name)
        self._own(unique, array)
        return unique

    def _own(self, name: str, array: FloatArray) -> None:
        self.constants[name] = array
        self.shapes[name] = array.shape
        if (key := _content(array)) is not None:
            self._by_content.setdefault(key, name)

    def emit(self, op: Operator, *inputs: str, name: str | None = None) -> str:
        """Append a node and return the name of its value; ValueError if the shapes do not fit."""
        shape = op.infer(*(self.shapes[value] for value in inputs))
        if name is None:
            name = f"{self.scope}/{op.kind}" if self.scope else op.kind
        output = self._unique(name)
        self.shapes[output] = shape
        self._nodes[output] = Node(op, inputs, output)
        return output

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Return `values` joined along `axis`, in a tree of small concatenations."""
        level = list(values)
        while len(level) > 1:
            chunks = [
                level[i : i + _MOST_CONCATENATED] for i in range(0, len(level), _MOST_CONCATENATED)
            ]
            level = [c[0] if len(c) == 1 else self.emit(Concat(axis), *c) for c in chunks]
        return level[0]

    def producer(self, value: str) -> Node | None:
        """Return the node that makes `value`; None for the picture and for constants."""
        return self._nodes.get(value)

    def amend(self, node: Node, op: Operator, *inputs: str) -> str:
        """Put another operator in the place of `node`, whose value keeps its name; return that."""
        self.shapes[node.output] = op.infer(*(self.shapes[value] for value in inputs))
        self._nodes[node.output] = Node(op, inputs, node.output)
        return node.output

    def __len__(self) -> int:
        return len(self._nodes)

    def rename(self, value: str, name: str) -> str:
        """Give the value of the newest node the name `name`, and return it."""
        newest = next(reversed(self._nodes), None)
        if value != newest or name in self.shapes:
            return value
        self._nodes[name] = replace(self._nodes.pop(value), output=name)
        self.shapes[name] = self.shapes.pop(value)
        return name

    def finish(self, output: str) -> Graph:
        """Return the graph that makes `output`, without whatever nothing reads."""
        live, nodes = {output}, []
        for node in reversed(self._nodes.values()):
            if node.output in live:
                live.update(node.inputs)
                nodes.append(node)
        renamed = {output: OUTPUT}
        kept = tuple(
            Node(
                node.op,
                tuple(renamed.get(name, name) for name in node.inputs),
                renamed.get(node.output, node.output),
            )
            for node in reversed(nodes)
        )
        constants = {name: array for name, array in self.constants.items() if name in live}
        shapes = {renamed.get(k, k): v for k, v in self.shapes.items() if k in live or k == INPUT}
        return Graph(kept, MappingProxyType(constants), MappingProxyType(shapes))


class Edit(Builder):
    """A builder that writes a new graph beside an old one (see `rewrite`)."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.input_shape)
        for name, array in graph.constants.items():
            self._own(name, array)
        self.readers: Counter[str] = Counter({INPUT: graph.readers[INPUT]})

    def read_once(self, value: str) -> bool:
        """Return whether one node of the old graph reads what is now `value`."""
        return self.readers[value] == 1


def rewrite(graph: Graph, visit: Callable[[Edit, Node], str | None]) -> Graph:
    """Return `graph` with nodes replaced.

    `visit(edit, node)` is called for each node in order, its inputs already those of the new
    graph. It may emit nodes into `edit` and return the value that stands for the node's output,
    or None to keep the node as it is. What is emitted last takes the node's name.
    """
    edit = Edit(graph)
    now: dict[str, str] = {}
    for old in graph.nodes:
        node = replace(old, inputs=tuple(now.get(name, name) for name in old.inputs))
        edit.scope, emitted = old.output, len(edit)
        value = visit(edit, node)
        if value is None:
            value = edit.emit(node.op, *node.inputs, name=old.output)
        if len(edit) > emitted:
            value = edit.rename(value, old.output)
        now[old.output] = value
        edit.readers[value] += graph.readers[old.output]
    return edit.finish(now[OUTPUT])
