"""Operators of torch for which several of the graph's stand.

Most activation functions are sums and products of the graph's own, by identities that hold exactly
in real numbers. So every runtime, number type and rewrite takes them as it is.
"""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import (
    Clamp,
    GeluByTanh,
    HardSigmoid,
    HardSwish,
    Maximum,
    ScaledElu,
)
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.graph import Builder

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def hardtanh(t: Translation, *, self: fx.Node, min_val: float, max_val: float) -> str:
    """max(min(x, high), low), which nn.ReLU6 is too."""
    return clamped(t.builder, t.value(self), min_val, max_val)


def relu6(t: Translation, *, self: fx.Node) -> str:
    """max(min(x, 6), 0)."""
    return clamped(t.builder, t.value(self), 0.0, 6.0)


def clamp(t: Translation, *, self: fx.Node, **ends: Any) -> str:  # noqa: ANN401 - a number, None or a tensor
    """max(min(x, max), min), either of which may be missing."""
    low, high = ends.get("min"), ends.get("max")
    if not all(end is None or isinstance(end, int | float) for end in (low, high)):
        value = t.operand(self)
        for op, end in ((Maximum(), low), (ops.Minimum(), high)):
            value = value if end is None else t.builder.emit(op, value, t.operand(end))
        return value
    return clamped(t.builder, t.value(self), low, high)


def clamped(to: Builder, x: str, low: float | None, high: float | None) -> str:
    """Return max(min(x, high), low)."""
    lowest, highest = -math.inf if low is None else low, math.inf if high is None else high
    if not lowest <= highest:
        raise Refused(f"clamps to [{low}, {high}], which is empty")
    if math.isinf(highest) and not lowest:
        return to.emit(ops.Relu(), x)
    if math.isinf(highest) and math.isinf(lowest):
        return x
    return to.emit(Clamp(lowest, highest), x)


def prelu(t: Translation, *, self: fx.Node, weight: fx.Node) -> str:
    """With one slope for all channels, a leaky ReLU."""
    to, x, slopes = t.builder, t.value(self), t.array(weight)
    if (slopes == slopes[0]).all():
        return to.emit(ops.LeakyRelu(float(slopes[0])) if slopes[0] else ops.Relu(), x)
    return to.emit(ops.PRelu(), x, to.constant(slopes, "slope"))


def elu(
    t: Translation,
    *,
    self: fx.Node,
    alpha: float = 1.0,
    scale: float = 1.0,
    input_scale: float = 1.0,
) -> str:
    """Scale * x where positive, else scale * alpha * (exp(x) - 1)."""
    if input_scale != 1:
        raise Refused(f"with an input_scale of {input_scale} is not supported")
    op = ops.Elu() if alpha == scale == 1 else ScaledElu(alpha, scale)
    return t.builder.emit(op, t.value(self))


def selu(t: Translation, *, self: fx.Node) -> str:
    """Return the ELU of the numbers that keep a deviation of 1 (arXiv 1706.02515)."""
    return elu(t, self=self, alpha=_SELU_ALPHA, scale=_SELU_SCALE)


def celu(t: Translation, *, self: fx.Node, alpha: float = 1.0) -> str:
    """Alpha * elu(x / alpha)."""
    to, x = t.builder, t.value(self)
    if alpha == 1:
        return to.emit(ops.Elu(), x)
    y = to.emit(ops.Elu(), to.emit(ops.Mul(), x, to.constant([1 / alpha])))
    return to.emit(ops.Mul(), y, to.constant([alpha]))


def mish(t: Translation, *, self: fx.Node) -> str:
    """X * tanh(log(1 + exp(x))), which is x * s * (2 - s) / (1 + (1 - s)^2) with s = sigmoid(x)."""
    to, x = t.builder, t.value(self)
    gate = to.emit(ops.Sigmoid(), x)
    rest = to.emit(ops.Sub(), to.constant([1.0]), gate)
    under = to.emit(ops.Add(), to.emit(ops.Mul(), rest, rest), to.constant([1.0]))
    root = to.emit(ops.Rsqrt(), under)
    over = to.emit(ops.Mul(), gate, to.emit(ops.Sub(), to.constant([2.0]), gate))
    share = to.emit(ops.Mul(), over, to.emit(ops.Mul(), root, root))
    return to.emit(ops.Mul(), x, share)


def square(t: Translation, *, self: fx.Node) -> str:
    """Return x * x."""
    x = t.value(self)
    return t.builder.emit(ops.Mul(), x, x)


def silu(t: Translation, *, self: fx.Node) -> str:
    """Swish: x * sigmoid(x)."""
    x = t.value(self)
    return t.builder.emit(ops.Mul(), x, t.builder.emit(ops.Sigmoid(), x))


def gelu(t: Translation, *, self: fx.Node, approximate: str) -> str:
    """By the error function, or approximately, by a tanh."""
    op = GeluByTanh() if approximate == "tanh" else ops.Gelu()
    return t.builder.emit(op, t.value(self))


def hardsigmoid(t: Translation, *, self: fx.Node) -> str:
    """max(min(x / 6 + 1/2, 1), 0)."""
    return t.builder.emit(HardSigmoid(), t.value(self))


def hardswish(t: Translation, *, self: fx.Node) -> str:
    """Return x * max(min(x / 6 + 1/2, 1), 0)."""
    return t.builder.emit(HardSwish(), t.value(self))
