"""Kernel rows and columns that only ever meet zero padding multiply nothing: leave them out.

The innermost convolutions of a U-Net see 2x2 pixels and its first transposed convolution one
pixel, through 4x4 kernels; three quarters of their weights, the largest of the network, are dead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Conv2d, Padding, reach
from coronet_deploy.export.passes.rewriting import Rewrite


class TrimTaps(Rewrite):
    """Cuts such outer rows and columns off a convolution's kernel, and the padding with them."""

    name: ClassVar[str] = "trim_taps"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution with the smaller kernel."""
        op = node.op
        if not isinstance(op, Conv2d) or not op.padding:
            return None
        x, weight, *bias = node.inputs
        kernel, p = edit.constants[weight], op.padding
        outputs = op.infer(edit.shapes[x], kernel.shape)[1:3]
        rows, columns = (
            _live(op, i, kernel.shape[1 + i], before, edit.shapes[x][1 + i], outputs[i])
            for i, before in enumerate((p.top, p.left))
        )
        trimmed = kernel[:, rows.start : rows.stop, columns.start : columns.stop]
        if trimmed.shape == kernel.shape:
            return None
        size = reach(trimmed.shape, op.dilation)
        ends = [(outputs[i] - 1) * op.stride[i] + size[i] - edit.shapes[x][1 + i] for i in (0, 1)]
        top, left = p.top - rows.start * op.dilation[0], p.left - columns.start * op.dilation[1]
        padding = Padding(top, ends[0] - top, left, ends[1] - left)
        if min(padding.top, padding.bottom, padding.left, padding.right) < 0:
            return None
        smaller = replace(op, padding=padding)
        return edit.emit(smaller, x, edit.constant(trimmed, "weight"), *bias)


def _live(op: Conv2d, axis: int, taps: int, before: int, size: int, outputs: int) -> range:
    """Return the taps from the first to the last that meet a pixel at some output."""
    step, apart = op.stride[axis], op.dilation[axis]
    live = [
        k
        for k in range(taps)
        if any(0 <= i * step + k * apart - before < size for i in range(outputs))
    ]
    return range(live[0], live[-1] + 1) if live else range(1)
