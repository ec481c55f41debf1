"""A convolution to few channels, of values that lie side by side as channels, is a sum of some.

To lie side by side they are copied. Where the convolution makes few channels of many, as the last
one of a U-Net does of the picture it made and the one it skipped to, that takes longer than to
convolve each where it lies and to add what comes out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Activation, Add, Concat, Conv2d
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 2  # values
_FEWER = 3  # times as many numbers must come in as go out


class SumJoinedInputs(Rewrite):
    """Rewrites convolutions of two values that are joined for them alone."""

    name: ClassVar[str] = "sum_joined_inputs"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the sum of a convolution of each."""
        op = node.op
        if not isinstance(op, Conv2d):
            return None
        x, weight, *bias = node.inputs
        joined, kernel = edit.producer(x), edit.constants[weight]
        if joined is None or joined.op != Concat(3) or not edit.read_once(x):
            return None
        if any(value in edit.constants for value in joined.inputs):
            return None  # what is learnt is not convolved anew for each picture
        size = op.infer(edit.shapes[x], kernel.shape)
        if len(joined.inputs) > _FEW or math.prod(edit.shapes[x]) < _FEWER * math.prod(size):
            return None
        channels = [edit.shapes[value][3] for value in joined.inputs]
        plain = replace(op, activation=Activation.NONE)
        parts = [
            edit.emit(
                plain,
                value,
                edit.constant(kernel[..., end - width : end], "weight"),
                *(bias if end == kernel.shape[3] else ()),
            )
            for value, width, end in zip(joined.inputs, channels, accumulate(channels), strict=True)
        ]
        return edit.emit(Add(op.activation), *parts)
