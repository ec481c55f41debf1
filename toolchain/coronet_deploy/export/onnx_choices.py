"""Comparisons and choices in an ONNX file (see `onnx`).

ONNX compares to booleans, and chooses by these; they are made numbers where something else reads
what is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Relation
from coronet_deploy.export.graph import Node

if TYPE_CHECKING:
    from coronet_deploy.export.onnx import Writer

TOLD = Compare | Not | Both | Either
"""What gives truths."""

_RELATIONS = {
    Relation.ABOVE: "Greater",
    Relation.AT_LEAST: "GreaterOrEqual",
    Relation.EQUAL: "Equal",
    Relation.UNLIKE: "Equal",
}


def write(writer: Writer, node: Node, operand: Callable[[str], str], name: str) -> None:
    """Write a node that compares or chooses, its value as `name`.

    `operand` tells the names of what it reads, by its inputs'.
    """
    op = node.op
    if isinstance(op, Choose):
        truth, *values = node.inputs
        condition = _truth(writer, node, truth, operand, f"{name}/condition")
        writer.inner("Where", [condition, *map(operand, values)], name)
        return
    told = f"{name}/true"
    if isinstance(op, Compare):
        unlike = op.relation is Relation.UNLIKE
        made = f"{name}/alike" if unlike else told
        writer.inner(_RELATIONS[op.relation], list(map(operand, node.inputs)), made)
        if unlike:
            writer.inner("Not", [made], told)
    else:
        kind = "Not" if isinstance(op, Not) else "And" if isinstance(op, Both) else "Or"
        truths = [
            _truth(writer, node, value, operand, f"{name}/{place}")
            for place, value in enumerate(node.inputs)
        ]
        writer.inner(kind, truths, told)
    readers = writer.readers.get(node.output, [])
    if not readers or not all(_takes_truth(writer, reader, node) for reader in readers):
        writer.cast(told, name)


def _truth(
    writer: Writer, reader: Node, value: str, operand: Callable[[str], str], name: str
) -> str:
    """Return the booleans of a value that `reader` takes for truths, made as `name` if need be."""
    maker = writer.makers.get(value)
    if maker is not None and isinstance(maker.op, TOLD) and _lie_alike(writer, maker, reader):
        return f"{operand(value)}/true"
    return writer.cast(operand(value), name, to_truth=True)


def _takes_truth(writer: Writer, reader: Node, told: Node) -> bool:
    """Return whether a node reads another's booleans, and not the numbers that these are."""
    chooses = isinstance(reader.op, Choose) and told.output not in reader.inputs[1:]
    combines = isinstance(reader.op, Not | Both | Either)
    return (chooses or combines) and _lie_alike(writer, told, reader)


def _lie_alike(writer: Writer, one: Node, other: Node) -> bool:
    return (one.output in writer.in_lines) == (other.output in writer.in_lines)
