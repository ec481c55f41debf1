"""Convolutions of very few input channels read two neighbouring pixels as one.

A matrix kernel runs through a window tap by tap, and sets up each tap anew; of a picture, a tap has
three numbers to give. The lines of a picture lie in memory pixel by pixel, so that two neighbours
are one pixel of twice as many channels, without a copy: half as many taps give twice as many
numbers each. Two results are then computed at once, as channels, by kernels that have a column of
zeros more: the same sums in the same order.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Conv2d, Reshape
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 4  # input channels
_WIDE = 5  # kernel columns from which one more costs little
# Outputs that leave half of a register of 16 empty when there are twice as many: up to 1.1 of the
# time, where fewer or more take 0.65 to 1.0.
_HALVED = range(9, 17)


class PairInputs(Rewrite):
    """Rewrites unpadded stride-1 convolutions with a large kernel, few inputs and even widths."""

    name: ClassVar[str] = "pair_inputs"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution of pairs, reshaped to pixels."""
        op = node.op
        if not isinstance(op, Conv2d) or not op.steps_by_one or op.padding:
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        outputs, _, columns, channels = kernel.shape
        _, lines, across, _ = edit.shapes[x]
        shape = op.infer(edit.shapes[x], kernel.shape)
        if channels > _FEW or columns < _WIDE or across % 2 or shape[2] % 2 or outputs in _HALVED:
            return None
        shifted = [np.pad(kernel, ((0, 0), (0, 0), (i, 1 - i), (0, 0))) for i in range(2)]
        pairs = np.concatenate(shifted).reshape(2 * outputs, -1, (columns + 1) // 2, 2 * channels)
        biases = [edit.constant(np.tile(edit.constants[b], 2), "bias") for b in bias]
        paired = edit.emit(Reshape((1, lines, across // 2, 2 * channels)), x)
        y = edit.emit(op, paired, edit.constant(pairs, "weight"), *biases)
        return edit.emit(Reshape(shape), y)
