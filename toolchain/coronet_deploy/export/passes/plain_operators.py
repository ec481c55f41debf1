"""What ONNX Runtime alone is quick at, in operators that all runtimes and number types have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from coronet_deploy.export.arithmetic import GeluByTanh, HardSigmoid, ScaledElu
from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d, GroupNorm
from coronet_deploy.export.operators import (
    Add,
    Conv2d,
    Mean,
    Mul,
    Operator,
    Reshape,
    Rsqrt,
    Slice,
    Sub,
)
from coronet_deploy.export.passes.plain_choices import CHOICES
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.permuting import Mirror, Permute, PickChannels, factors
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.resizing import ResizeNearest
from coronet_deploy.export.several import (
    gate_of,
    gelu_by_tanh,
    grouped,
    lines,
    replicated,
    scaled_elu,
)

_WIDE = 32  # channels of a group, for which Winograd's convolutions are faster by themselves
_FEW_RUNS = 5  # of channels that are slices rather than a convolution
_MOST_PARTS = 16  # of a mirror image that change places at once


class PlainOperators(Rewrite):
    """Takes apart what goes over groups, pads, mirrors, picks, copies, chooses, and curves."""

    name: ClassVar[str] = "plain_operators"

    def __init__(self, *, keep_narrow: bool = False) -> None:
        """Take all groups apart, or leave narrow ones, which XNNPACK multiplies as fast."""
        self._keeps_narrow = keep_narrow

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return what stands for one of those."""
        if self._keeps_narrow and isinstance(node.op, GroupedConv2d):
            _, *taps, each = edit.shapes[node.inputs[1]]
            if each < _WIDE or taps == [1, 1]:
                return None
        form = _FORMS.get(type(node.op))
        return None if form is None else form(edit, node.op, *node.inputs)


def _apart(edit: Edit, op: GroupedConv2d, x: str, *learnt: str) -> str:
    """Return the convolutions of each group, joined."""
    weight, *bias = (edit.constants[name] for name in learnt)
    return grouped(edit, op.each, x, weight, bias[0] if bias else None, op.groups)


def _pooled(edit: Edit, op: MaxPool2d, x: str) -> str | None:
    """Repeat the pixels of the border beyond it, which are no larger."""
    if not op.padding:
        return None
    return edit.emit(MaxPool2d(op.kernel, op.stride), replicated(edit, x, op.padding))


def _turned(edit: Edit, op: Mirror, x: str) -> str:
    for axis in op.axes:
        x = _mirrored(edit, x, axis)
    return x


def _picked(edit: Edit, op: PickChannels, value: str) -> str:
    """Return slices of neighbours, if they are few, else a convolution of one tap a channel."""
    shape, order = edit.shapes[value], op.order
    runs = [
        [channel for _, channel in run]
        for _, run in itertools.groupby(enumerate(order), key=lambda pair: pair[1] - pair[0])
    ]
    if len(runs) > _FEW_RUNS:
        kernel = np.eye(shape[3])[list(order)][:, None, None, :]
        return edit.emit(Conv2d(), value, edit.constant(kernel, "picks"))
    parts = [edit.emit(Slice((0, 0, 0, run[0]), (*shape[:3], len(run))), value) for run in runs]
    return edit.concat(parts, 3)


def _mirrored(edit: Edit, value: str, axis: int) -> str:
    """Return `value` with its lines across `axis`, 1 or 2, in reverse.

    No runtime's fast path reverses; parts of a whole change places, then parts of those.
    """
    n, height, width, channels = shape = edit.shapes[value]
    left, across = shape[axis], (width if axis == 1 else 1) * channels
    done = 1 if axis == 1 else height
    for count in factors(left):
        left //= count
        if count > _MOST_PARTS:  # a prime: the last part, and the others in reverse
            value = edit.emit(Reshape((n, done, count, left * across)), value)
            others = _mirrored(edit, lines(edit, value, 2, 0, count - 1), 2)
            value = edit.concat([lines(edit, value, 2, count - 1, 1), others], 2)
        else:
            value = edit.emit(Reshape((n, done, count * left, across)), value)
            parts = [lines(edit, value, 2, place * left, left) for place in reversed(range(count))]
            value = edit.concat(parts, 2)
        done *= count
    return edit.emit(Reshape(shape), value)


def _copied(edit: Edit, op: ResizeNearest, x: str) -> str:
    """Return lines of pixels as convolutions of one tap, whose channels these are for a while."""
    lie = "HWC"
    for axis, lines_made, between in (("H", op.rows, "CWH"), ("W", op.columns, "CHW")):
        count = edit.shapes[x][1 + lie.index(axis)]
        if lines_made != tuple(range(count)):
            x, lie = _turned_to(edit, x, lie, between), between
            kernel = np.eye(count)[list(lines_made)][:, None, None, :]
            x = edit.emit(Conv2d(), x, edit.constant(kernel, "lines"))
    return _turned_to(edit, x, lie, "HWC")


def _turned_to(edit: Edit, x: str, lie: str, wanted: str) -> str:
    """Return a value whose axes behind N are `lie` with them as `wanted`."""
    if lie == wanted:
        return x
    sizes = ((), *((size,) for size in edit.shapes[x][1:]))
    return edit.emit(Permute(sizes, ((), *((lie.index(axis),) for axis in wanted))), x)


def _normed(edit: Edit, op: GroupNorm, x: str, *learnt: str) -> str:
    """Return d * rsqrt(mean(d * d) + epsilon), where d = x - mean(x), of each group's channels."""
    channels = edit.shapes[x][3]
    centred = edit.emit(Sub(), x, _spread(edit, _group_means(edit, x, op.groups), channels))
    variance = _group_means(edit, edit.emit(Mul(), centred, centred), op.groups)
    shifted = edit.emit(Add(), variance, edit.constant([op.epsilon], "epsilon"))
    factor = _spread(edit, edit.emit(Rsqrt(), shifted), channels)
    if not learnt:
        return edit.emit(Mul(), centred, factor)
    scale, shift = learnt
    y = edit.emit(Mul(), centred, edit.emit(Mul(), factor, scale))
    return edit.emit(Add(), y, shift)


def _group_means(edit: Edit, x: str, groups: int) -> str:
    """Return the mean of each group of the channels of `x`: (1, groups, 1, 1).

    Both this shape and that of a number a channel are the same numbers in a row in every layout,
    so that no runtime has to move any. float32 rounds sums of W, then of H numbers less than one
    of H * W.
    """
    channels = edit.shapes[x][3]
    for axis in (2, 1, 3) if groups == 1 else (2, 1):
        if edit.shapes[x][axis] > 1:
            x = edit.emit(Mean((axis,)), x)
    if groups == 1:
        return x
    apart = edit.emit(Reshape((1, groups, channels // groups, 1)), x)
    return edit.emit(Mean((2,)), apart)


def _spread(edit: Edit, of_groups: str, channels: int) -> str:
    """Return a number a group as one a channel, (1, 1, 1, channels)."""
    groups = edit.shapes[of_groups][1]
    if groups == 1:  # which every operator spreads
        return of_groups
    ones = edit.constant(np.ones((1, 1, channels // groups, 1)), "ones")
    each = edit.emit(Mul(), of_groups, ones)
    return edit.emit(Reshape((1, 1, 1, channels)), each)


_FORMS: Mapping[type[Operator], Callable[..., str | None]] = {
    **CHOICES,
    GroupedConv2d: _apart,
    GroupNorm: _normed,
    MaxPool2d: _pooled,
    Mirror: _turned,
    PickChannels: _picked,
    ResizeNearest: _copied,
    HardSigmoid: lambda edit, _, x: gate_of(edit, x),
    GeluByTanh: lambda edit, _, x: gelu_by_tanh(edit, x),
    ScaledElu: lambda edit, op, x: scaled_elu(edit, x, op),
}
