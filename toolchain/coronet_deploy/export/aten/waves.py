"""Operators of torch that are sines, and the error function: polynomials of the graph's own sums.

TFLite's fast path has neither. What these are off by is no more than float32 rounds off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Clamp, Div, Exp, Maximum, Round
from coronet_deploy.export.aten import sums
from coronet_deploy.export.aten.translation import Translation
from coronet_deploy.export.graph import Builder

# A turn in two parts: products of the first with whole numbers below 2^16 are exact in float32.
_TURN = 6.28125
_REST = 2 * math.pi - _TURN
# sin(x) / x by powers of x * x up to a right angle, fitted at Chebyshev's points: 7e-9 off at most.
_SINE = (
    *(0.999999995711591, -0.1666665796301767, 0.008333050449872358),
    *(-0.00019809033690114112, 2.6051369426787718e-06),
)
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: 1.5e-7 off at most.
_ERF_REACH = 0.3275911
_ERF = (0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_STEEP = 4096.0  # twice, which makes a sign of all but the smallest numbers


def sine(t: Translation, *, self: fx.Node) -> str:
    """sin(x), of what is left of whole turns, mirrored at right angles."""
    return sine_of(t, t.value(self))


def sine_of(t: Translation, angle: str) -> str:
    """Return the sines of a value."""
    to, x = t.builder, _within_a_turn(t.builder, angle)
    # sin(x) = sin(pi - x) = sin(-pi - x), of which one is within.
    right = to.emit(ops.Sub(), to.constant([math.pi]), x)
    left = to.emit(ops.Sub(), to.constant([-math.pi]), x)
    return _sine_of_acute(to, to.emit(Maximum(), to.emit(ops.Minimum(), x, right), left))


def cosine(t: Translation, *, self: fx.Node) -> str:
    """cos(x) = sin(pi / 2 - |x|), of what is left of whole turns."""
    return cosine_of(t, t.value(self))


def cosine_of(t: Translation, angle: str) -> str:
    """Return the cosines of a value."""
    to, x = t.builder, _within_a_turn(t.builder, angle)
    apart = to.emit(Maximum(), x, to.emit(ops.Mul(), x, to.constant([-1.0])))
    return _sine_of_acute(to, to.emit(ops.Sub(), to.constant([math.pi / 2]), apart))


def _within_a_turn(to: Builder, x: str) -> str:
    """Return what is left of an angle without whole turns, from -pi to pi."""
    turns = to.emit(Round(), to.emit(ops.Mul(), x, to.constant([1 / (2 * math.pi)])))
    for part in (_TURN, _REST):
        x = to.emit(ops.Sub(), x, to.emit(ops.Mul(), turns, to.constant([part])))
    return x


def _sine_of_acute(to: Builder, x: str) -> str:
    square = to.emit(ops.Mul(), x, x)
    return to.emit(ops.Mul(), x, _polynomial(to, square, _SINE))


def _polynomial(to: Builder, x: str, factors: Sequence[float]) -> str:
    """Return the sum of `factors` times powers of x, the lowest first."""
    *lower, highest = factors
    y = to.emit(ops.Mul(), x, to.constant([highest]))
    for factor in reversed(lower[1:]):
        y = to.emit(ops.Mul(), to.emit(ops.Add(), y, to.constant([factor])), x)
    return to.emit(ops.Add(), y, to.constant([lower[0]])) if lower[0] else y


def error_function(t: Translation, *, self: fx.Node) -> str:
    """erf(x): 1 - p(1 / (1 + r |x|)) exp(-x * x) of what is positive, else the negative of that."""
    to, x = t.builder, t.value(self)
    one, minus = to.constant([1.0]), to.constant([-1.0])
    apart = sums.magnitude(t, self=self)
    under = to.emit(ops.Add(), to.emit(ops.Mul(), apart, to.constant([_ERF_REACH])), one)
    share = _polynomial(to, to.emit(Div(), one, under), _ERF)
    fall = to.emit(Exp(), to.emit(ops.Mul(), to.emit(ops.Mul(), x, x), minus))
    sign = x
    for _ in range(2):
        sign = to.emit(Clamp(-1.0, 1.0), to.emit(ops.Mul(), sign, to.constant([_STEEP])))
    rest = to.emit(ops.Sub(), one, to.emit(ops.Mul(), share, fall))
    return to.emit(ops.Mul(), sign, rest)
