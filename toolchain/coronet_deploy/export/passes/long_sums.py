"""Long sums of strided convolutions in two halves, for kernels that add in float16.

Such a sum is rounded at each step, by what it has reached so far: in the encoder of a U-Net it is
hundreds to thousands of steps long, and where the picture's loss comes from. A convolution of each
half of the channels makes sums of half as many steps. They begin at half the bias, which is far
from nothing where it takes back what the products add up to.

Convolutions of stride 1 are left alone: what is not Winograd's is parts of transposed ones, which
lose a tenth as much and are four at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Activation, Add, Conv2d, Slice
from coronet_deploy.export.passes.rewriting import Rewrite

_LONG = 600  # products
_TOGETHER = 4  # channels that GPUs lay out as one


class SplitLongSums(Rewrite):
    """Rewrites strided convolutions of many products as the sum of two."""

    name: ClassVar[str] = "split_long_sums"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the sum of the halves."""
        op = node.op
        if not isinstance(op, Conv2d) or op.stride == (1, 1):
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        _, height, width, channels = edit.shapes[x]
        if kernel[0].size < _LONG or channels < 2 * _TOGETHER:
            return None
        plain = replace(op, activation=Activation.NONE)
        biases = [edit.constant(edit.constants[name] / 2, "bias") for name in bias]
        middle = channels // (2 * _TOGETHER) * _TOGETHER

        def part(first: int, last: int) -> str:
            half = edit.emit(Slice((0, 0, 0, first), (1, height, width, last - first)), x)
            read = edit.constant(kernel[..., first:last], "weight")
            return edit.emit(plain, half, read, *biases)

        return edit.emit(Add(op.activation), part(0, middle), part(middle, channels))
