"""TFLite's convolutions know VALID and SAME padding only; any other becomes an operator."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d
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
        op = node.op.each if isinstance(node.op, GroupedConv2d) else node.op
        if not isinstance(op, Conv2d | DepthwiseConv2d) or not op.padding:
            return None
        x, weight, *rest = node.inputs
        kernel = reach(edit.shapes[weight], op.dilation)
        if op.padding == same_padding(edit.shapes[x], kernel, op.stride):
            return None
        padded, bare = edit.emit(ZeroPad(op.padding), x), replace(op, padding=Padding())
        if isinstance(node.op, GroupedConv2d) and isinstance(bare, Conv2d):
            return edit.emit(replace(node.op, each=bare), padded, weight, *rest)
        return edit.emit(bare, padded, weight, *rest)
