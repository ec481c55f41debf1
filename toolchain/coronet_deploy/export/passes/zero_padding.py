"""TFLite's convolutions know VALID and SAME padding only; any other becomes an operator."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import (
    Conv2d,
    DepthwiseConv2d,
    Padding,
    Shape,
    ZeroPad,
    reach,
)
from coronet_deploy.export.passes.rewriting import Rewrite


def same_padding(x: Shape, kernel: Shape, stride: tuple[int, int]) -> Padding:
    """Return the zeros that TFLite's SAME puts around `x` (1, H, W, C); the odd one comes last."""
    rows, columns = (
        same_lines(size, k, step) for size, k, step in zip(x[1:3], kernel, stride, strict=True)
    )
    return Padding(*rows, *columns)


def same_lines(size: int, span: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after an axis of `size` lines, for kernels that reach `span`."""
    lines = max((-(-size // stride) - 1) * stride + span - size, 0)
    return lines // 2, lines - lines // 2


class SplitZeroPadding(Rewrite):
    """Puts a ZeroPad before a convolution whose padding is neither; XNNPACK fuses it back."""

    name: ClassVar[str] = "split_zero_padding"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution of the padded value."""
        if not isinstance(node.op, Conv2d | DepthwiseConv2d) or not node.op.padding:
            return None
        x, weight, *rest = node.inputs
        kernel = reach(edit.shapes[weight], node.op.dilation)
        if node.op.padding == same_padding(edit.shapes[x], kernel, node.op.stride):
            return None
        padded = edit.emit(ZeroPad(node.op.padding), x)
        return edit.emit(replace(node.op, padding=Padding()), padded, weight, *rest)
