"""A convolution of which every so many-th pixel alone is read makes only these."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Activation, Conv2d, DepthwiseConv2d, Padding
from coronet_deploy.export.passes.rewriting import Rewrite


class StrideConvolutions(Rewrite):
    """Gives a convolution the stride of the pixels that are picked of it."""

    name: ClassVar[str] = "stride_convolutions"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution that makes what is picked."""
        step, x = _picks(edit, node), node.inputs[0]
        maker = edit.producer(x)
        if step is None or maker is None or not edit.read_once(x):
            return None
        if isinstance(maker.op, GroupedConv2d):
            wider = replace(maker.op.each, stride=_by(maker.op.each.stride, step))
            return edit.emit(replace(maker.op, each=wider), *maker.inputs)
        if isinstance(maker.op, Conv2d | DepthwiseConv2d):
            return edit.emit(replace(maker.op, stride=_by(maker.op.stride, step)), *maker.inputs)
        return None


def _by(stride: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    return stride[0] * step[0], stride[1] * step[1]


def _picks(edit: Edit, node: Node) -> tuple[int, int] | None:
    """Return the step of a node that is a convolution of one tap, 1, over every so many pixels."""
    op = node.op
    if not isinstance(op, DepthwiseConv2d) or op.stride == (1, 1) or len(node.inputs) > 2:  # noqa: PLR2004 - a bias
        return None
    bare = (op.padding, op.multiplier, op.activation) == (Padding(), 1, Activation.NONE)
    kernel = edit.constants[node.inputs[1]]
    return op.stride if bare and kernel.shape[1:3] == (1, 1) and (kernel == 1).all() else None
