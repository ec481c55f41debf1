"""Convolutions to very few channels compute four or two pixels at once.

A matrix kernel fills its registers by output channels; the last 7x7 convolution of a ResNet
generator has three, so most of each register is idle. A square of four pixels as channels of one
convolution of stride 2, whose kernel is a row and a column larger, uses four times as many, of
which DepthToSpace makes pixels again. Where the height is odd, two neighbours do so, of stride
(1, 2), which are pixels as they lie. Twelve channels, a square in colour, are filled up to sixteen
for XNNPACK (see `filling`).

Such a kernel is even in width and steps by two columns, so that two neighbours of the input may be
read as one pixel of twice as many channels (see `stem`): half as many taps, each of which a matrix
kernel sets up anew, for the same sums in the same order.

In registers of 16 numbers (AVX, half-precision and most 8-bit kernels of ARM) four pixels take 64
steps a pixel and channel, two 112; in registers of 8 (float32 on ARM) four take 64, two 56.
ONNX Runtime lays out channels in blocks of 8 or 16, of which three fill a part as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Conv2d, DepthToSpace, Reshape
from coronet_deploy.export.passes.filling import filled, idle_channels, rows_apart
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 4  # output channels
_LARGE = 5  # kernel rows and columns from which one more costs little


class QuadPixels(Rewrite):
    """Rewrites stride-1 convolutions with a large kernel, few outputs, an even height and width."""

    name: ClassVar[str] = "quad_pixels"

    def __init__(self, *, join_inputs: bool = True, fill: bool = False) -> None:
        self._join_inputs = join_inputs  # whether neighbours lie together: not in NCHW
        self._fill = fill  # whether the runtime is slow where channels are some less than 16

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the squares, taken apart to pixels."""
        squares = _at_once(edit, node, rows=2, join_inputs=self._join_inputs, fill=self._fill)
        if squares is None:
            return None
        outputs = edit.constants[node.inputs[1]].shape[0]
        if edit.shapes[squares][3] == 4 * outputs:
            return edit.emit(DepthToSpace(2), squares)
        return rows_apart(edit, squares, 2, 2 * outputs, outputs)


class PairPixels(Rewrite):
    """Rewrites stride-1 convolutions with a large kernel, few outputs and an even width."""

    name: ClassVar[str] = "pair_pixels"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the pairs, reshaped to pixels."""
        pairs = _at_once(edit, node, rows=1)
        if pairs is None:
            return None
        one, height, across, channels = edit.shapes[pairs]
        return edit.emit(Reshape((one, height, 2 * across, channels // 2)), pairs)


def _at_once(
    edit: Edit, node: Node, rows: int, *, join_inputs: bool = True, fill: bool = False
) -> str | None:
    """Return `rows` x 2 pixels of the result as channels; None if they do not fit or do not pay.

    With `fill`, zeros follow each row of pixels where a kernel's registers would not be full.
    """
    op = node.op
    if not isinstance(op, Conv2d) or not op.steps_by_one or op.padding:
        return None
    x, weight, *bias = node.inputs
    kernel = edit.constants[weight]
    _, height, width, outputs = op.infer(edit.shapes[x], kernel.shape)
    small = kernel.shape[2] < _LARGE or (rows > 1 and kernel.shape[1] < _LARGE)
    if outputs > _FEW or small or width % 2 or height % rows:
        return None
    shifted = [
        np.pad(kernel, ((0, 0), (i, rows - 1 - i), (j, 1 - j), (0, 0)))
        for i in range(rows)
        for j in range(2)
    ]
    idle = idle_channels(len(shifted) * outputs, rows) if fill else 0
    weights, columns = filled(np.concatenate(shifted), rows, idle), 2
    _, lines, across, channels = edit.shapes[x]
    # What several operators read would be copied.
    if join_inputs and weights.shape[2] % 2 == across % 2 == 0 and edit.read_once(x):
        x = edit.emit(Reshape((1, lines, across // 2, 2 * channels)), x)
        weights = weights.reshape(*weights.shape[:2], -1, 2 * channels)
        columns = 1
    each = [filled(np.tile(edit.constants[b], 2 * rows), rows, idle) for b in bias]
    biases = [edit.constant(values, "bias") for values in each]
    paired = replace(op, stride=(rows, columns))
    return edit.emit(paired, x, edit.constant(weights, "weight"), *biases)
