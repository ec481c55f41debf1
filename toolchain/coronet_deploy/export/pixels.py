"""Pictures whose pixels eight bits hold exactly.

A network takes the pixels 0 to 255 as -1 to 1, and real 0 lies between two of them: a format that
has 0 among its numbers, as every int8 one does, rounds each pixel by half a step. Half a step more
(`HALF_STEP`) puts all of them on steps; the convolutions that read the picture take it out again
by their biases.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import INPUT, OUTPUT, Edit, Graph, Node, rewrite
from coronet_deploy.export.permuting import Permute, Transpose
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.resizing import ResizeBilinear
from coronet_deploy.ranges import QMAX, QMIN, Range

HALF_STEP = 0.5 / 127.5

BRIGHTER = f"{INPUT}/brighter"
"""The picture with half a step more."""

PIXELS = Range((QMIN + 1) / 127.5, (QMAX + 1) / 127.5)
"""What `BRIGHTER` is in: int8 of a pixel is the pixel less 128."""

MOVING = (
    ops.Slice
    | ops.Concat
    | ops.Reshape
    | ops.ZeroPad
    | ops.ReflectPad
    | ops.DepthToSpace
    | MaxPool2d
    | ResizeBilinear
    | Permute
    | Transpose
)
"""Operators that give numbers they take, means of neighbours, and zeros."""


def moved_from(graph: Graph, value: str) -> frozenset[str]:
    """Return `value` and what is only moved from it."""
    moved = {value}
    for node in graph.nodes:
        if isinstance(node.op, MOVING) and moved.issuperset(node.inputs):
            moved.add(node.output)
    return frozenset(moved)


def takes_pixels(graph: Graph) -> bool:
    """Return whether the picture goes into convolutions and nowhere else."""
    moved = moved_from(graph, INPUT)
    readers = [node for node in graph.nodes if moved.intersection(node.inputs)]
    return all(
        node.output in moved or (isinstance(node.op, ops.Conv2d) and node.inputs[0] in moved)
        for node in readers
    )


def with_exact_pixels(graph: Graph) -> Graph:
    """Return a lowered graph whose first convolutions read the picture with half a step more.

    It draws the same picture. A graph that puts zeros around the picture is returned as it is:
    there the half step would be missing.
    """
    moved = moved_from(graph, INPUT)
    if OUTPUT in moved or not takes_pixels(graph) or _puts_zeros_around(graph, moved):
        return graph

    def visit(edit: Edit, node: Node) -> str | None:
        inputs = node.inputs
        if INPUT in inputs:
            if BRIGHTER not in edit.shapes:
                more = edit.constant(np.full(1, HALF_STEP, np.float32), "half_step")
                edit.emit(ops.Add(), INPUT, more, name=BRIGHTER)
            inputs = tuple(BRIGHTER if name == INPUT else name for name in inputs)
        if node.output in moved:
            return edit.emit(node.op, *inputs) if inputs != node.inputs else None
        if originals[node.output].inputs[0] not in moved:
            return None
        x, weight, *bias = inputs
        less = -HALF_STEP * edit.constants[weight].astype(np.float64).sum(axis=(1, 2, 3))
        old = edit.constants[bias[0]] if bias else np.zeros(1, np.float32)
        return edit.emit(node.op, x, weight, edit.constant(old + less, "bias"))

    originals = {node.output: node for node in graph.nodes}
    return rewrite(graph, visit)


def _puts_zeros_around(graph: Graph, moved: Collection[str]) -> bool:
    return any(
        isinstance(node.op, ops.ZeroPad | ops.Conv2d)
        and node.inputs[0] in moved
        and node.op.padding != ops.Padding()
        for node in graph.nodes
    )
