"""Operators of torch that are powers, exponentials and logarithms."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Div, Exp, Log, Sqrt
from coronet_deploy.export.aten.translation import Refused, Translation

_MOST_FACTORS = 8
_LEAST_THRESHOLD = 15.0  # from which a softplus is its argument, to float32


def power(t: Translation, *, self: Any, exponent: Any) -> str:  # noqa: ANN401 - a number or a tensor
    """Return products for small whole powers, roots, and else exp(p * log(x))."""
    if not (t.is_picture(self) and isinstance(exponent, int | float)):
        raise Refused("takes a tensor for its exponent; only a number")
    if not math.isfinite(exponent):
        raise Refused(f"to the power of {exponent}, which is no number")
    to, x = t.builder, t.value(self)
    if exponent in {0.5, -0.5}:
        return to.emit(Sqrt() if exponent > 0 else ops.Rsqrt(), x)
    if exponent != int(exponent):
        scaled = to.emit(ops.Mul(), to.emit(Log(), x), to.constant([exponent]))
        return to.emit(Exp(), scaled)
    count = abs(int(exponent))
    if not 1 <= count <= _MOST_FACTORS:
        raise Refused(f"to the power of {exponent}; of whole ones only up to {_MOST_FACTORS}")
    made, square = "", x
    while count:
        if count % 2:
            made = to.emit(ops.Mul(), made, square) if made else square
        count //= 2
        square = to.emit(ops.Mul(), square, square) if count else square
    return to.emit(Div(), to.constant([1.0]), made) if exponent < 0 else made


def log1p(t: Translation, *, self: fx.Node) -> str:
    """log(1 + x)."""
    to = t.builder
    return to.emit(Log(), to.emit(ops.Add(), t.value(self), to.constant([1.0])))


def expm1(t: Translation, *, self: fx.Node) -> str:
    """exp(x) - 1."""
    to = t.builder
    return to.emit(ops.Sub(), to.emit(Exp(), t.value(self)), to.constant([1.0]))


def softplus(t: Translation, *, self: fx.Node, beta: float = 1, threshold: float = 20) -> str:
    """log(1 + exp(b x)) / b, which is relu(x) + log(1 + exp(-|b x|)) / b: no power overflows."""
    if threshold < _LEAST_THRESHOLD or beta <= 0:
        raise Refused(f"with a beta of {beta:g} and a threshold of {threshold:g} is not supported")
    to, x = t.builder, t.value(self)
    steep = x if beta == 1 else to.emit(ops.Mul(), x, to.constant([beta]))
    under = to.emit(ops.Minimum(), steep, to.emit(ops.Mul(), steep, to.constant([-1.0])))
    more = to.emit(Log(), to.emit(ops.Add(), to.emit(Exp(), under), to.constant([1.0])))
    if beta != 1:
        more = to.emit(ops.Mul(), more, to.constant([1 / beta]))
    return to.emit(ops.Add(), to.emit(ops.Relu(), x), more)


def log_sigmoid(t: Translation, *, self: fx.Node) -> str:
    """X - softplus(x)."""
    x = t.value(self)
    return t.builder.emit(ops.Sub(), x, softplus(t, self=self))
