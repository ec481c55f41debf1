"""A bias before an InstanceNorm moves the channel's mean, which the norm subtracts again."""

from __future__ import annotations

from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import (
    Conv2d,
    ConvTranspose2d,
    DepthwiseConv2d,
    InstanceNorm,
)
from coronet_deploy.export.passes.rewriting import Rewrite


class DropDeadBiases(Rewrite):
    """Leaves the bias out of a convolution that only an InstanceNorm reads."""

    name: ClassVar[str] = "drop_dead_biases"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the norm of the convolution without its bias."""
        x = node.inputs[0]
        source = edit.producer(x)
        if (
            not isinstance(node.op, InstanceNorm)
            or source is None
            or not isinstance(source.op, Conv2d | GroupedConv2d | ConvTranspose2d | DepthwiseConv2d)
            or len(source.inputs) < 3  # noqa: PLR2004 - picture, weight, bias
            or not edit.read_once(x)
        ):
            return None
        edit.amend(source, source.op, *source.inputs[:2])
        return edit.emit(node.op, *node.inputs)
