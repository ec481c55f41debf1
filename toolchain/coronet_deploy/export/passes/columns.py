"""Convolutions of many channels to very few compute one column of the kernel after the other.

A matrix kernel fills its registers by output channels; the last 7x7 convolution of a ResNet
generator has three, so most of each register is idle. Its kernel is therefore taken apart: a
convolution of 7x1 taps gives, of every pixel, what each of the seven columns makes of the lines
above and below it, 21 numbers that fill their registers; and a picture's pixel is the sum of seven
such numbers of neighbours, a convolution of 1x7 taps whose weights are one and zero. The products
are the same, and so are the sums but for their order.

Where 8 numbers are computed at once (XNNPACK for float32 on 64-bit ARM, ONNX Runtime's blocks on
AVX2) that takes 168 steps a pixel and channel, and four pixels at once (see `tail`) 256; where 16
are (XNNPACK on AVX2), 224 and 256. XNNPACK's sums take 672 more: two pixels at once, from
pairs of neighbours that are read as one, for they lie so. ONNX Runtime's take 1344.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import Conv2d, Reshape
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 4  # output channels
_WIDE = 5  # kernel columns from which their sums cost little
_MANY = 24  # input channels from which it pays
_LANES = (
    8  # channels that ONNX Runtime lays out together; of other numbers it does so late or never
)


class SumColumns(Rewrite):
    """Rewrites stride-1 convolutions with a large kernel, many inputs and few outputs."""

    name: ClassVar[str] = "sum_columns"

    def __init__(self, *, pairs: bool = True) -> None:
        self._pairs = pairs  # whether neighbours lie together: not in NCHW

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the columns' sums, reshaped to pixels."""
        op = node.op
        if not isinstance(op, Conv2d) or not op.steps_by_one or op.padding:
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        outputs, rows, columns, inputs = kernel.shape
        shape = op.infer(edit.shapes[x], kernel.shape)
        if outputs > _FEW or min(rows, columns) < _WIDE or inputs < _MANY:
            return None
        if self._pairs and (columns % 2 == 0 or shape[2] % 2):
            return None
        each = kernel.transpose(2, 0, 1, 3).reshape(columns * outputs, rows, 1, inputs)
        sums = _sums(outputs, columns)
        if not self._pairs:
            idle = -len(each) % _LANES
            each = np.pad(each, ((0, idle), (0, 0), (0, 0), (0, 0)))
            sums = np.pad(sums, ((0, 0), (0, 0), (0, 0), (0, idle)))
        apart = edit.emit(Conv2d(), x, edit.constant(each, "weight"))
        summed = Conv2d(activation=op.activation)
        if not self._pairs:
            return edit.emit(summed, apart, edit.constant(sums, "weight"), *bias)
        one, height, across, channels = edit.shapes[apart]
        pairs = edit.emit(Reshape((one, height, across // 2, 2 * channels)), apart)
        shifted = [np.pad(sums, ((0, 0), (0, 0), (i, 1 - i), (0, 0))) for i in range(2)]
        paired = np.concatenate(shifted).reshape(2 * outputs, 1, -1, 2 * channels)
        biases = [edit.constant(np.tile(edit.constants[b], 2), "bias") for b in bias]
        y = edit.emit(summed, pairs, edit.constant(paired, "weight"), *biases)
        return edit.emit(Reshape(shape), y)


def _sums(outputs: int, columns: int) -> FloatArray:
    """Return the kernel (outputs, 1, columns, columns * outputs) that adds up the columns."""
    ones = np.zeros((outputs, 1, columns, columns, outputs), np.float32)
    for column in range(columns):
        ones[:, 0, column, column] = np.eye(outputs)
    return ones.reshape(outputs, 1, columns, -1)
