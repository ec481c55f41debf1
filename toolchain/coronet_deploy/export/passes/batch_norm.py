"""BatchNorm in eval mode is a scale and a shift: fold it into the convolution before it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import (
    Add,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    DepthwiseConv2d,
    Mul,
)
from coronet_deploy.export.passes.rewriting import Rewrite


class FoldBatchNorm(Rewrite):
    """Multiplies weights and bias, in float64; a multiply and an add where none comes before."""

    name: ClassVar[str] = "fold_batch_norm"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the scaled convolution's value in a BatchNorm's place."""
        if not isinstance(node.op, BatchNorm):
            return None
        x = node.inputs[0]
        gamma, beta, mean, variance = (
            edit.constants[name].astype(np.float64) for name in node.inputs[1:]
        )
        scale = gamma / np.sqrt(variance + node.op.epsilon)
        shift = beta - mean * scale
        source = edit.producer(x)
        if source is not None and edit.read_once(x):
            folded = _folded(edit, source, scale, shift)
            if folded is not None:
                return folded
        scaled = edit.emit(Mul(), x, edit.constant(scale, "scale"))
        return edit.emit(Add(), scaled, edit.constant(shift, "shift"))


def _folded(
    edit: Edit,
    source: Node,
    scale: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    shift: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> str | None:
    if not isinstance(source.op, Conv2d | GroupedConv2d | ConvTranspose2d | DepthwiseConv2d):
        return None
    x, weight, *biases = source.inputs
    # The output channels are the first axis of OHWI, the last of a depthwise 1HWO.
    depthwise = isinstance(source.op, DepthwiseConv2d)
    axis = (1, 1, 1, -1) if depthwise else (-1, 1, 1, 1)
    weights = edit.constants[weight].astype(np.float64) * scale.reshape(axis)
    bias = shift + (edit.constants[biases[0]] * scale if biases else 0)
    edit.scope = source.output
    return edit.amend(
        source, source.op, x, edit.constant(weights, "weight"), edit.constant(bias, "bias")
    )
