"""Depthwise convolutions of a large kernel are sums of those by bands of it.

XNNPACK has depthwise kernels of up to 25 taps. A larger one it computes as one convolution a
channel, each of a single input and a single output, which takes five to ten times as long. A band
of a kernel is the same convolution of the picture, moved by as many lines as there are before it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Activation,
    Add,
    DepthwiseConv2d,
    Padding,
    Shape,
)
from coronet_deploy.export.passes.rewriting import Rewrite, cropped

_MOST_TAPS = 25

_Band = tuple[FloatArray, Padding]


class SplitDepthwise(Rewrite):
    """Rewrites depthwise convolutions whose kernel has more taps than XNNPACK's kernels."""

    name: ClassVar[str] = "split_depthwise"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the sum of the bands, the first of which has the bias."""
        op = node.op
        if not isinstance(op, DepthwiseConv2d):
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        taps = kernel.shape[1:3]
        if math.prod(taps) <= _MOST_TAPS or min(taps) > _MOST_TAPS:
            return None
        axis = 0 if taps[1] <= _MOST_TAPS else 1
        each, shape, bands = _MOST_TAPS // taps[1 - axis], edit.shapes[x], list[_Band]()
        lines = op.infer(shape, kernel.shape)[1 + axis]
        for first in range(0, taps[axis], each):
            part = kernel.take(range(first, min(first + each, taps[axis])), 1 + axis)
            around = _around(op, shape, lines, axis, first, part.shape[1 + axis])
            ends = (around.top, around.bottom) if axis == 0 else (around.left, around.right)
            if max(-end for end in ends) < shape[1 + axis]:  # else it meets nothing but zeros
                bands.append((part, around))
        values = []
        for place, (part, around) in enumerate(bands):
            seen, padding = cropped(edit, x, around)
            alone = op.activation if len(bands) == 1 else Activation.NONE
            numbers = [edit.constant(part, "weight"), *(() if place else bias)]
            values.append(edit.emit(replace(op, padding=padding, activation=alone), seen, *numbers))
        while len(values) > 1:
            one, other, *rest = values
            values = [edit.emit(Add(Activation.NONE if rest else op.activation), one, other), *rest]
        return values[0]


def _around(
    op: DepthwiseConv2d, x: Shape, lines: int, axis: int, first: int, count: int
) -> Padding:
    """Return the zeros around `x` for `count` lines of the kernel from `first` on, of `axis`.

    `lines` is how many come out there; less than no zeros are a crop.
    """
    p = op.padding
    before = (p.top, p.left)[axis] - first * op.dilation[axis]
    last = (lines - 1) * op.stride[axis] + (count - 1) * op.dilation[axis] - before
    behind = last - (x[1 + axis] - 1)
    if axis == 0:
        return Padding(before, behind, p.left, p.right)
    return Padding(p.top, p.bottom, before, behind)
