"""Convolutions with more weights than a cache holds compute some of their outputs at a time.

A matrix kernel goes over all weights for each few pixels (five, on AVX2). Weights that have left
the cache by then are read from memory once more for every such row of pixels: for 64 pixels, and
the 16 MiB of a U-Net's inner layers, thirteen times. A part of the outputs has weights few enough
to stay until the last pixel has read them. The sums are the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.passes.rewriting import Rewrite

_LARGE = 4 << 20  # bytes of float32 that are too many
_PART = 2 << 20  # bytes of a part
_LANES = 16  # outputs that a matrix kernel computes at once
_ROW = 5  # pixels that it computes at once


class SplitLargeWeights(Rewrite):
    """Rewrites convolutions of more than a few pixels with large weights as parts side by side."""

    name: ClassVar[str] = "split_large_weights"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the parts' outputs, joined."""
        if not isinstance(node.op, Conv2d):
            return None
        x, weight, *biases = node.inputs
        kernel = edit.constants[weight]
        _, height, width, outputs = node.op.infer(edit.shapes[x], kernel.shape)
        if kernel.size * 4 <= _LARGE or height * width <= _ROW:
            return None
        # Whole registers each; the last part has what is left.
        each = max(_PART // (kernel[0].size * 4) // _LANES, 1) * _LANES
        if each >= outputs:
            return None
        ends = [*range(0, outputs, each), outputs]

        def part(first: int, last: int) -> str:
            constants = [edit.constant(kernel[first:last], "weight")]
            constants += [edit.constant(edit.constants[b][first:last], "bias") for b in biases]
            return edit.emit(node.op, x, *constants)

        return edit.concat([part(*pair) for pair in pairwise(ends)], 3)
