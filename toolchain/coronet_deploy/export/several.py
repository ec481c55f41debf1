"""Several operators of the graph that stand for one, as captures and rewrites alike emit them."""

from __future__ import annotations

import math

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Clamp, ScaledElu
from coronet_deploy.export.graph import Builder, FloatArray
from coronet_deploy.export.operators import Padding

_GELU_SLOPE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


def clamped_by_relus(to: Builder, x: str, clamp: Clamp) -> str:
    """min(x, h) = h - relu(h - x), and max(x, l) = relu(x - l) + l."""
    bounded = math.isfinite(clamp.low)
    offset = clamp.low if bounded else 0.0
    if math.isfinite(clamp.high):
        over = to.emit(ops.Relu(), to.emit(ops.Sub(), to.constant([clamp.high]), x))
        x = to.emit(ops.Sub(), to.constant([clamp.high - offset]), over)
    elif offset:
        x = to.emit(ops.Sub(), x, to.constant([offset]))
    x = to.emit(ops.Relu(), x) if bounded else x
    return to.emit(ops.Add(), x, to.constant([offset])) if offset else x


def gelu_by_tanh(to: Builder, x: str) -> str:
    """Return x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    square = to.emit(ops.Mul(), to.emit(ops.Mul(), x, x), to.constant([_GELU_CUBE * _GELU_SLOPE]))
    slope = to.emit(ops.Add(), square, to.constant([_GELU_SLOPE]))
    gate = to.emit(ops.Sigmoid(), to.emit(ops.Mul(), x, slope))
    return to.emit(ops.Mul(), x, gate)


def scaled_elu(to: Builder, x: str, op: ScaledElu) -> str:
    """Return scale * alpha * elu(x) + scale * (1 - alpha) * relu(x)."""
    y = to.emit(ops.Mul(), to.emit(ops.Elu(), x), to.constant([op.scale * op.alpha]))
    if op.alpha == 1:
        return y
    factor = to.constant([op.scale * (1 - op.alpha)])
    return to.emit(ops.Add(), y, to.emit(ops.Mul(), to.emit(ops.Relu(), x), factor))


def gate_of(to: Builder, x: str) -> str:
    """Return max(min(x / 6 + 1/2, 1), 0)."""
    sixth = to.emit(ops.Mul(), x, to.constant([1 / 6]))
    over = to.emit(ops.Relu(), to.emit(ops.Sub(), to.constant([0.5]), sixth))
    return to.emit(ops.Relu(), to.emit(ops.Sub(), to.constant([1.0]), over))


def enlarged(to: Builder, x: str, block: int) -> str:
    """Return `x` with each pixel as a square of `block` x `block`."""
    if block == 1:
        return x
    return to.emit(ops.DepthToSpace(block), to.concat([x] * block**2, 3))


def replicated(to: Builder, x: str, padding: Padding) -> str:
    """Return `x` with its border pixels repeated around it."""
    ends = (padding.top, padding.bottom), (padding.left, padding.right)
    for axis, (before, after) in enumerate(ends, start=1):
        last = to.shapes[x][axis] - 1
        head, tail = ([line(to, x, axis, i)] * n for i, n in ((0, before), (last, after)))
        x = to.concat([*head, x, *tail], axis)
    return x


def continued(to: Builder, x: str, padding: Padding) -> str:
    """Return `x` as part of a plane tiled with it, a border of which comes from the other side."""
    ends = (padding.top, padding.bottom), (padding.left, padding.right)
    for axis, (before, after) in enumerate(ends, start=1):
        whole = to.shapes[x][axis]
        tail = [lines(to, x, axis, whole - before, before)] if before else []
        head = [lines(to, x, axis, 0, after)] if after else []
        x = to.concat([*tail, x, *head], axis)
    return x


def together(one: Padding, other: Padding) -> Padding:
    """Return the padding that both are, one around the other."""
    return Padding(
        one.top + other.top,
        one.bottom + other.bottom,
        one.left + other.left,
        one.right + other.right,
    )


def line(to: Builder, x: str, axis: int, index: int) -> str:
    """Return one line of `x` across `axis`, the `index`-th."""
    return lines(to, x, axis, index, 1)


def lines(to: Builder, x: str, axis: int, first: int, count: int) -> str:
    """Return lines of `x` across `axis`, from `first` on."""
    begin, size = [0, 0, 0, 0], list(to.shapes[x])
    begin[axis], size[axis] = first, count
    return to.emit(ops.Slice(tuple(begin), tuple(size)), x)


def grouped(
    to: Builder, op: ops.Operator, x: str, kernel: FloatArray, bias: FloatArray | None, groups: int
) -> str:
    """Return the convolutions of each group of channels by its part of `kernel`, OHWI, joined."""
    shape, made = to.shapes[x], []
    size = (*shape[:3], shape[3] // groups)
    biases = [None] * groups if bias is None else np.split(bias, groups)
    for place, (weight, shift) in enumerate(zip(np.split(kernel, groups), biases, strict=True)):
        part = x if groups == 1 else to.emit(ops.Slice((0, 0, 0, place * size[3]), size), x)
        numbers = [to.constant(weight, "weight")]
        numbers += [] if shift is None else [to.constant(shift, "bias")]
        made.append(to.emit(op, part, *numbers))
    return to.concat(made, 3)


def dilated(kernel: FloatArray, dilation: tuple[int, int]) -> FloatArray:
    """Return an OHWI kernel with zeros between its taps."""
    if dilation == (1, 1):
        return kernel
    rows, columns = ops.reach(kernel.shape, dilation)
    spread = np.zeros((kernel.shape[0], rows, columns, kernel.shape[3]), np.float32)
    spread[:, :: dilation[0], :: dilation[1]] = kernel
    return spread
