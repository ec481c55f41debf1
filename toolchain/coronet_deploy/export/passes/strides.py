"""A convolution of which every so many-th pixel alone is read makes only these.

What computes pixel by pixel in between, as activations and sums do, computes on these alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import (
    Abs,
    Ceil,
    Clamp,
    Div,
    Exp,
    Floor,
    GeluByTanh,
    HardSigmoid,
    HardSwish,
    Log,
    Maximum,
    Round,
    ScaledElu,
    Sqrt,
)
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Sign
from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Activation, Conv2d, DepthwiseConv2d, Padding
from coronet_deploy.export.passes.rewriting import Rewrite

_EACH_PIXEL = (
    *(ops.Add, ops.BatchNorm, ops.Elu, ops.Gelu, ops.LeakyRelu, ops.Minimum, ops.Mul, ops.PRelu),
    *(ops.Relu, ops.Rsqrt, ops.Sigmoid, ops.Sub, ops.Tanh),
    *(Abs, Ceil, Clamp, Div, Exp, Floor, GeluByTanh, HardSigmoid, HardSwish, Log, Maximum, Round),
    *(ScaledElu, Sqrt, Both, Choose, Compare, Either, Not, Sign),
)
"""Operators by whose every pixel no other pixel of what they take counts."""

_CONVOLUTIONS = Conv2d, DepthwiseConv2d, GroupedConv2d
_Pair = tuple[int, int]


class StrideConvolutions(Rewrite):
    """Gives a convolution the stride of the pixels that are picked of it."""

    name: ClassVar[str] = "stride_convolutions"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution that makes what is picked, and what is computed of that."""
        step, (x, *ones) = _picks(edit, node), node.inputs
        if step is None:
            return None
        makers = _makers(edit, x)
        if not any(isinstance(maker.op, _CONVOLUTIONS) for maker in makers.values()):
            return None
        return _Picked(edit, makers, step, ones[0]).of(x)


def _makers(edit: Edit, x: str) -> dict[str, Node]:
    """Return what makes `x` pixel by pixel, and nothing else, by its values."""
    makers: dict[str, Node] = {}
    wanted = [x]
    while wanted:
        value = wanted.pop()
        maker = edit.producer(value)
        if maker is not None and value not in makers:
            makers[value] = maker
            wanted += maker.inputs if isinstance(maker.op, _EACH_PIXEL) else ()
    while True:
        reads = Counter([x])
        for maker in makers.values():
            reads.update(maker.inputs if isinstance(maker.op, _EACH_PIXEL) else ())
        # A value that was just put between two others has no readers yet.
        alone = {value: m for value, m in makers.items() if edit.readers[value] <= reads[value]}
        if len(alone) == len(makers):
            return alone
        makers = alone


class _Picked:
    """Makes every so many-th pixel of values, each once."""

    def __init__(self, edit: Edit, makers: dict[str, Node], step: _Pair, ones: str) -> None:
        self._edit, self._makers, self._step, self._ones = edit, makers, step, ones
        self._made: dict[str, str] = {}

    def of(self, x: str) -> str:
        """Return these of `x`: of what it is made of, or by a kernel of one tap."""
        if x not in self._made:
            self._made[x] = self._make(x)
        return self._made[x]

    def _make(self, x: str) -> str:
        edit, step, shape = self._edit, self._step, self._edit.shapes[x]
        if len(shape) < 4 or shape[1:3] == (1, 1):  # noqa: PLR2004 - NHWC
            return x
        if x in edit.constants:
            return edit.constant(edit.constants[x][:, :: step[0], :: step[1]], "picked")
        maker = self._makers.get(x)
        op, inputs = (None, ()) if maker is None else (maker.op, maker.inputs)
        if isinstance(op, _EACH_PIXEL):
            return edit.emit(op, *map(self.of, inputs))
        if isinstance(op, GroupedConv2d):
            wider = replace(op.each, stride=_by(op.each.stride, step))
            return edit.emit(replace(op, each=wider), *inputs)
        if isinstance(op, Conv2d | DepthwiseConv2d):
            return edit.emit(replace(op, stride=_by(op.stride, step)), *inputs)
        return edit.emit(DepthwiseConv2d(step), x, _ones(edit, shape[3], self._ones))


def _ones(edit: Edit, channels: int, ones: str) -> str:
    kernel = edit.constants[ones]
    if kernel.shape[3] == channels:
        return ones
    return edit.constant(kernel[..., :1].repeat(channels, axis=3), "ones")


def _by(stride: _Pair, step: _Pair) -> _Pair:
    return stride[0] * step[0], stride[1] * step[1]


def _picks(edit: Edit, node: Node) -> _Pair | None:
    """Return the step of a node that is a convolution of one tap, 1, over every so many pixels."""
    op = node.op
    if not isinstance(op, DepthwiseConv2d) or op.stride == (1, 1) or len(node.inputs) > 2:  # noqa: PLR2004 - a bias
        return None
    bare = (op.padding, op.multiplier, op.activation) == (Padding(), 1, Activation.NONE)
    kernel = edit.constants[node.inputs[1]]
    return op.stride if bare and kernel.shape[1:3] == (1, 1) and (kernel == 1).all() else None
