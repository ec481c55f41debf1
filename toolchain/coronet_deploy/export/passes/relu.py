"""ReLUs: moved up to where they can be fused, and fused into what comes before."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import (
    Activation,
    Add,
    Concat,
    Conv2d,
    ConvTranspose2d,
    DepthwiseConv2d,
    LeakyRelu,
    Mul,
    Relu,
    Sub,
)
from coronet_deploy.export.passes.rewriting import Rewrite


class HoistRelu(Rewrite):
    """relu(concat(a, b)) = concat(relu(a), relu(b)), and relu(leaky_relu(x)) = relu(x)."""

    name: ClassVar[str] = "hoist_relu"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the concatenation of ReLUs, or the ReLU of what is before a leaky one."""
        source = edit.producer(node.inputs[0])
        if not isinstance(node.op, Relu) or source is None:
            return None
        if isinstance(source.op, LeakyRelu) and source.op.slope >= 0:
            return edit.emit(node.op, *source.inputs)
        if isinstance(source.op, Concat) and edit.read_once(node.inputs[0]):
            return edit.emit(source.op, *(edit.emit(node.op, value) for value in source.inputs))
        return None


class FuseRelu(Rewrite):
    """Makes a ReLU the activation of the operator before it, if nothing else reads that."""

    name: ClassVar[str] = "fuse_relu"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the value of the operator with its activation."""
        source = edit.producer(node.inputs[0])
        if (
            not isinstance(node.op, Relu)
            or source is None
            or not isinstance(
                source.op, Conv2d | DepthwiseConv2d | ConvTranspose2d | Add | Sub | Mul
            )
            or not edit.read_once(node.inputs[0])
        ):
            return None
        return edit.amend(source, replace(source.op, activation=Activation.RELU), *source.inputs)
