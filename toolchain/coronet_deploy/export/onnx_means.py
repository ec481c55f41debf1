"""Means and norms in an ONNX file (see `onnx`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import Node
from coronet_deploy.export.groups import GroupNorm
from coronet_deploy.export.onnx_axes import TO_NCHW, nchw

if TYPE_CHECKING:
    from coronet_deploy.export.onnx import Writer

_CHANNELS = (3,)
_LINES = ops.Mean((2,)), ops.Mean((1,))  # the means of lines, and of these
_FEW, _FEW_OF_GROUPS = 128, 64  # numbers that one sum is of; less time each for what it takes


def batch_norm(writer: Writer, op: ops.BatchNorm, node: Node) -> None:
    """Normalise by what was learnt."""
    x, *vectors = node.inputs
    inputs = [x, *writer.vectors(tuple(vectors))]
    writer.node("BatchNormalization", inputs, node, epsilon=op.epsilon)


def instance_norm(writer: Writer, op: ops.InstanceNorm, node: Node) -> None:
    """Normalise each channel by its picture."""
    x, *affine = node.inputs
    vectors = writer.vectors(tuple(affine)) or _unchanged(writer, writer.graph.shapes[x][3])
    writer.node("InstanceNormalization", [x, *vectors], node, epsilon=op.epsilon)


def group_norm(writer: Writer, op: GroupNorm, node: Node) -> None:
    """Centre the groups, and let a BatchNormalization scale them by the variance that is left.

    An InstanceNormalization of the groups takes less time, and loses a small deviation beside a
    large mean.
    """
    (x, *affine), name = node.inputs, node.output
    shape, groups = nchw(writer.graph.shapes[x]), op.groups
    size, each = math.prod(shape) // groups, shape[1] // groups
    vectors = writer.vectors(tuple(affine)) or _unchanged(writer, shape[1])
    x = writer.inner("Reshape", [x, writer.integers([groups, size])], f"{name}/groups")
    few = _FEW_OF_GROUPS
    mean = _mean_of_rows(writer, x, groups, size, f"{name}/mean", few)
    centred = writer.inner("Sub", [x, mean], f"{name}/centred")
    squares = _mean_of_rows(writer, centred, groups, size, f"{name}/variance", few, squared=True)
    first = _stages(size, few)[0]
    shares = np.full((groups, each), 1 / first)
    share = writer.floats(f"shares/{groups}x{each}/{first}", shares)
    spread = writer.inner("Mul", [squares, share], f"{name}/each")
    spread = writer.inner("Reshape", [spread, writer.integers([shape[1]])], f"{name}/spread")
    zeros = writer.floats(f"zeros/{shape[1]}", np.zeros(shape[1]))
    centred = writer.inner("Reshape", [centred, writer.integers(shape)], f"{name}/channels")
    inputs = [centred, *vectors, zeros, spread]
    writer.node("BatchNormalization", inputs, node, epsilon=op.epsilon)


def _unchanged(writer: Writer, channels: int) -> list[str]:
    """Return a norm's scale and shift that leave numbers as they are."""
    return [
        writer.floats(f"ones/{channels}", np.ones(channels)),
        writer.floats(f"zeros/{channels}", np.zeros(channels)),
    ]


def mean(writer: Writer, op: ops.Mean, node: Node) -> None:
    """Reduce axes; channels of many pixels as a product, in a fifth of ReduceMean's time."""
    (x,), name = node.inputs, node.output
    n, channels, height, width = nchw(writer.graph.shapes[x])
    plain = writer.integer or writer.half
    if op.axes == _CHANNELS and height * width > 1 and not plain:
        flat = writer.integers([channels, height * width])
        shares = writer.floats(f"shares/{channels}", np.full((1, channels), 1 / channels))
        flat = writer.inner("Reshape", [x, flat], f"{name}/flat")
        product = writer.inner("MatMul", [shares, flat], f"{name}/product")
        writer.node("Reshape", [product, writer.integers([1, 1, height, width])], node)
        return
    if not plain and any(_are_of_planes(writer, node, r) for r in writer.readers.get(name, [])):
        return
    lines = writer.makers.get(x)
    if lines is not None and not plain and _are_of_planes(writer, lines, node):
        (x,), size = lines.inputs, height * writer.graph.shapes[lines.inputs[0]][2]
        rows = writer.integers([n * channels, size])
        x = writer.inner("Reshape", [x, rows], f"{name}/planes")
        x = _mean_of_rows(writer, x, n * channels, size, name)
        writer.node("Reshape", [x, writer.integers([n, channels, 1, 1])], node)
        return
    axes = writer.integers([TO_NCHW[axis] for axis in op.axes])
    writer.node("ReduceMean", [x, axes], node, keepdims=1)


def _are_of_planes(writer: Writer, lines: Node, planes: Node) -> bool:
    """Return whether means of lines are taken for those of whole planes, and for nothing else."""
    return (lines.op, planes.op) == _LINES and writer.readers[lines.output] == [planes]


def _mean_of_rows(
    writer: Writer,
    x: str,
    rows: int,
    size: int,
    name: str,
    few: int = _FEW,
    *,
    squared: bool = False,
) -> str:
    """Return the mean of each of `rows` of `size` numbers, (rows, 1).

    By means of at most `few` neighbours, and of those, which float32 rounds less than one long
    sum. Over the last of two axes ONNX Runtime takes half the time that it takes over a picture's.
    If `squared` it is that of squares, as many times as large as the first stage has numbers:
    their sum is one sweep, squares and their mean are two.
    """
    axis = writer.integers([1])
    for stage, together in enumerate(_stages(size, few)):
        size //= together
        shape = writer.integers([rows * size, together])
        x = writer.inner("Reshape", [x, shape], f"{name}/{2 * stage}")
        kind = "ReduceMean" if stage or not squared else "ReduceSumSquare"
        x = writer.inner(kind, [x, axis], f"{name}/{2 * stage + 1}", keepdims=1)
    return x


def _stages(size: int, few: int) -> list[int]:
    """Return factors of `size`, larger than 1, of at most `few` where it has such."""
    found = []
    while size > 1:
        most = max(n for n in range(1, min(size, few) + 1) if size % n == 0)
        found.append(most if most > 1 else size)
        size //= found[-1]
    return found
