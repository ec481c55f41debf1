"""Convolutions to very few channels compute two pixels at once.

A matrix kernel fills its registers by output channels; the last 7x7 convolution of a ResNet
generator has three, so most of each register is idle. Two neighbouring pixels as channels of one
convolution of stride (1, 2), whose kernel is one column wider, use twice as many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Conv2d, Reshape
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 4  # output channels
_WIDE = 5  # kernel columns from which one more costs little


class PairPixels(Rewrite):
    """Rewrites stride-1 convolutions with a large kernel, few outputs and an even width."""

    name: ClassVar[str] = "pair_pixels"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the pairs, reshaped to pixels."""
        op = node.op
        if not isinstance(op, Conv2d) or op.stride != (1, 1) or op.padding:
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        _, height, width, outputs = op.infer(edit.shapes[x], kernel.shape)
        if outputs > _FEW or kernel.shape[2] < _WIDE or width % 2:
            return None
        left, right = (
            np.pad(kernel, ((0, 0), (0, 0), (shift, 1 - shift), (0, 0))) for shift in (0, 1)
        )
        weights = edit.constant(np.concatenate([left, right]), "weight")
        biases = [edit.constant(np.tile(edit.constants[name], 2), "bias") for name in bias]
        pairs = edit.emit(replace(op, stride=(1, 2)), x, weights, *biases)
        return edit.emit(Reshape((1, height, width, outputs)), pairs)
