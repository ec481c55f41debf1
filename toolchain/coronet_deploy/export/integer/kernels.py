"""What TFLite's integer kernels cannot compute as they are asked to, put so that they can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import (
    Ceil,
    Clamp,
    Div,
    Exp,
    HardSwish,
    Log,
    Maximum,
    Round,
    Sqrt,
)
from coronet_deploy.export.graph import Edit, Graph, Node, rewrite
from coronet_deploy.export.integer.formats import Format
from coronet_deploy.export.passes.plain_choices import PlainChoices
from coronet_deploy.export.products import MatMul, Softmax
from coronet_deploy.export.several import clamped_by_relus, gate_of
from coronet_deploy.ranges import Seen

_MOST_16 = (1 << 15) - 1
_FINEST_SUM = 2.0**-13  # of its larger summand's steps; the kernel takes what is above 2^-14
_STEEP = 1024  # steps below which a reciprocal root may be too steep to interpolate
_FINER = 64  # steps in one of those


def without_prelu(graph: Graph) -> Graph:
    """Return `graph` with relu(x) - slope * relu(-x) for each PReLU, which has no 16-bit kernel."""

    def visit(edit: Edit, node: Node) -> str | None:
        if not isinstance(node.op, ops.PRelu):
            return None
        x, slope = node.inputs
        under = edit.emit(ops.Relu(), edit.emit(ops.Mul(), x, edit.constant([-1.0])))
        sloping = edit.emit(ops.Mul(), under, slope)
        return edit.emit(ops.Sub(), edit.emit(ops.Relu(), x), sloping)

    return rewrite(graph, visit)


def with_integer_kernels(graph: Graph) -> Graph:
    """Return `graph` by operators that compute in integers too.

    The larger of two numbers is the one, and what the other is above it. What stands beside a value
    as a constant has to come from an operator, whose integers are those of the whole.

    Raises:
        ConversionFailed: roots, exponentials, logarithms, comparisons, quotients and attention, of
            which no runtime has such.

    """

    def visit(edit: Edit, node: Node) -> str | None:
        if isinstance(node.op, Sqrt | Exp | Log | Ceil | Round | Div | MatMul | Softmax):
            raise ConversionFailed(
                f"{node.output} is a {node.op.kind}, which computes in no integers",
                hint="take int8, which leaves it in float",
            )
        if isinstance(node.op, Clamp):
            return clamped_by_relus(edit, node.inputs[0], node.op)
        if isinstance(node.op, HardSwish):
            (x,) = node.inputs
            return edit.emit(ops.Mul(), x, gate_of(edit, x))
        if isinstance(node.op, Maximum | ops.Minimum):
            one, other = node.inputs
            above = isinstance(node.op, Maximum)
            over = edit.emit(ops.Sub(), *((other, one) if above else (one, other)))
            return edit.emit(ops.Add() if above else ops.Sub(), one, edit.emit(ops.Relu(), over))
        if isinstance(node.op, ops.Concat) and any(name in edit.constants for name in node.inputs):
            return edit.emit(node.op, *_all_made(edit, node.inputs))
        return None

    return rewrite(PlainChoices().run(graph), visit)


def _all_made(edit: Edit, names: Sequence[str]) -> list[str]:
    """Return values for constants: what they add to nothing of a value beside them."""
    beside = next(name for name in names if name not in edit.constants)
    one = edit.emit(ops.Slice((0, 0, 0, 0), (*edit.shapes[beside][:3], 1)), beside)
    nothing = edit.emit(ops.Mul(), one, edit.constant([0.0]))
    return [
        edit.emit(ops.Add(), nothing, name) if name in edit.constants else name for name in names
    ]


def without_depth_to_space(graph: Graph) -> Graph:
    """Return `graph` with reshapes and a concatenation for each DepthToSpace.

    The channels of a pixel's row are pixels of their own beside each other as they lie; those of
    the next row go below them, line by line.
    """

    def visit(edit: Edit, node: Node) -> str | None:
        if not isinstance(node.op, ops.DepthToSpace):
            return None
        (x,), block = node.inputs, node.op.block
        n, height, width, channels = edit.shapes[x]
        size, line = (n, height, width, channels // block), width * channels // block
        rows = []
        for row in range(block):
            part = edit.emit(ops.Slice((0, 0, 0, row * size[3]), size), x)
            rows.append(edit.emit(ops.Reshape((n, height, 1, line)), part))
        below = edit.concat(rows, 2)
        return edit.emit(ops.Reshape(node.op.infer(edit.shapes[x])), below)

    return rewrite(graph, visit)


def above_zero(graph: Graph, formats: Mapping[str, Format]) -> Graph:
    """Let no reciprocal root see a 0, for which the kernel stops.

    What is added to a variance is raised to one step of the sum, which is far below any variance
    but that of a constant channel.
    """
    under = {n.inputs[0] for n in graph.nodes if isinstance(n.op, ops.Rsqrt)}

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in under or not isinstance(node.op, ops.Add):
            return None
        inputs = [
            edit.constant(np.maximum(edit.constants[name], formats[node.output].scale), "epsilon")
            if name in edit.constants
            else name
            for name in node.inputs
        ]
        return edit.emit(node.op, *inputs)

    return rewrite(graph, visit) if under else graph


def with_room_for_sums(
    graph: Graph, formats: Mapping[str, Format], groups: Iterable[Sequence[str]]
) -> dict[str, Format]:
    """Return `formats`, no sum's steps so much finer than its summands' that the kernel aborts.

    It multiplies 2^15 steps of the larger summand by less than 1. Where summands all but cancel
    out, what is left is below their own rounding. `groups` are values that share a format.
    """
    roomy = dict(formats)
    together = {name: group for group in groups for name in group}
    for node in graph.nodes:
        if not isinstance(node.op, ops.Add) or node.output not in formats:
            continue
        scales = [
            float(np.abs(graph.constants[name]).max()) / _MOST_16
            if name in graph.constants
            else float(roomy[name].scale)
            for name in node.inputs
        ]
        least = np.float32(_FINEST_SUM * max(scales))
        if roomy[node.output].scale < least:
            roomy |= {name: replace(roomy[name], scale=least) for name in together[node.output]}
    return roomy


def with_finer_roots(
    graph: Graph, formats: Mapping[str, Format], seen: Mapping[str, Seen]
) -> tuple[Graph, dict[str, Format]]:
    """Take reciprocal roots of small numbers twice, once in finer steps, and the smaller one.

    The kernel interpolates between every 128th step, which near 0, where the root is steep, gives
    up to twice what it should. What it gives is never too small. In steps a `_FINER`th as large,
    small numbers are far from 0; larger ones saturate, whose root is then too large, so that the
    other one is taken.
    """
    stored = dict(formats)

    def visit(edit: Edit, node: Node) -> str | None:
        if not isinstance(node.op, ops.Rsqrt):
            return None
        (x,) = node.inputs
        if float(seen[x].samples.min()) >= _STEEP * float(formats[x].scale):
            return None
        fine = edit.emit(ops.Requantize(16), x, name=f"{x}/fine")
        stored[fine] = replace(formats[x], scale=np.float32(formats[x].scale / _FINER))
        roots = [edit.emit(node.op, value, name=f"{value}/rsqrt") for value in (x, fine)]
        stored.update(dict.fromkeys(roots, formats[node.output]))
        return edit.emit(ops.Minimum(), *roots)

    return rewrite(graph, visit), stored
