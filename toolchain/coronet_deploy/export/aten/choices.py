"""Operators of torch that compare numbers and choose between them.

What is true is 1 and what is not is 0, as torch's own tensors of such are when they are made
floats. So one of two numbers is the sum of both, each times whether it is the one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Ceil, Div, Maximum, Round
from coronet_deploy.export.aten import sums
from coronet_deploy.export.aten.finite import finite_elsewhere
from coronet_deploy.export.aten.translation import Refused, Translation

Operand = Any
"""A number, a node, or the name of a value."""


def compared(*, turned: bool = False, otherwise: bool = False) -> Callable[..., str]:
    """Return the translation of x > y, of y > x if `turned`, of the opposite if `otherwise`."""

    def translate(t: Translation, *, self: Operand, other: Operand) -> str:
        one, two = (other, self) if turned else (self, other)
        above = _above(t, one, two)
        return _opposite(t, above) if otherwise else above

    return translate


def _above(t: Translation, one: Operand, two: Operand) -> str:
    """Whether one is larger than two: their difference, in [0, 1], rounded up."""
    to = t.builder
    apart = t.operand(one) if _is_zero(two) else sums.binary(ops.Sub())(t, self=one, other=two)
    below_one = to.emit(ops.Minimum(), to.emit(ops.Relu(), apart), to.constant([1.0]))
    return to.emit(Ceil(), below_one)


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, int | float) and operand == 0


def _opposite(t: Translation, true: str) -> str:
    """1 - x, of a constant too."""
    to = t.builder
    if true in to.constants:
        return to.constant(1 - to.constants[true], "opposite")
    return to.emit(ops.Sub(), to.constant([1.0]), true)


def opposite(t: Translation, *, self: Operand) -> str:
    """Whether it is not so."""
    return _opposite(t, t.operand(self))


def equal(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether neither is larger than the other."""
    return _opposite(t, unlike(t, self=self, other=other))


def unlike(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether one is larger than the other."""
    return t.builder.emit(ops.Add(), _above(t, self, other), _above(t, other, self))


def floor(t: Translation, *, self: Operand) -> str:
    """-ceil(-x)."""
    return sums.neg(t, self=t.builder.emit(Ceil(), sums.neg(t, self=self)))


def truncated(t: Translation, *, self: Operand) -> str:
    """Return the whole part: floor(x) where x is positive, else ceil(x)."""
    to, x = t.builder, t.operand(self)
    down = floor(t, self=to.emit(ops.Relu(), x))
    return to.emit(ops.Add(), down, to.emit(Ceil(), to.emit(ops.Minimum(), x, to.constant([0.0]))))


def fraction(t: Translation, *, self: Operand) -> str:
    """Return what is left without the whole part."""
    return t.builder.emit(ops.Sub(), t.operand(self), truncated(t, self=self))


def nearest(t: Translation, *, self: Operand, decimals: int = 0) -> str:
    """Return the nearest whole number, of two the even one."""
    if decimals:
        raise Refused(f"rounds to {decimals} decimals; scale by {10.0**decimals:g} before and back")
    return t.builder.emit(Round(), t.operand(self))


def remainder(t: Translation, *, self: Operand, other: Operand) -> str:
    """Return x - floor(x / y) * y."""
    whole = quotient(t, self=self, other=other, rounding_mode="floor")
    taken = sums.binary(ops.Mul())(t, self=whole, other=other)
    return sums.binary(ops.Sub())(t, self=self, other=taken)


def quotient(
    t: Translation, *, self: Operand, other: Operand, rounding_mode: str | None = None
) -> str:
    """Return x / y, rounded down or towards 0 if that is wanted."""
    if rounding_mode is None:
        return sums.div(t, self=self, other=other)
    if _is_zero(other):
        raise Refused("divides by zero")
    # Not times a reciprocal, which makes less than 1 of 41 / 41.
    value = t.builder.emit(Div(), t.operand(self), t.operand(other))
    return floor(t, self=value) if rounding_mode == "floor" else truncated(t, self=value)


def sign(t: Translation, *, self: Operand) -> str:
    """Whether it is above 0, less whether it is below."""
    return t.builder.emit(ops.Sub(), _above(t, self, 0), _above(t, 0, self))


def both(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether both are so."""
    return sums.binary(ops.Mul())(t, self=self, other=other)


def either(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether one or the other is so."""
    return t.builder.emit(Maximum(), t.operand(self), t.operand(other))


def chosen(t: Translation, *, condition: Operand, self: Operand, other: Operand) -> str:
    """Return one of two numbers."""
    true = t.operand(condition)
    parts = [
        _times(t, truth, operand)
        for truth, operand in ((true, self), (_opposite(t, true), other))
        if not _is_nothing(t, operand)
    ]
    if len(parts) == 1:
        return parts[0]
    to = t.builder
    if all(part in to.constants for part in parts):
        raise Refused("chooses between learnt tensors by one")
    return to.emit(ops.Add(), *parts)


def _times(t: Translation, truth: str, operand: Operand) -> str:
    to = t.builder
    value = t.operand(operand)
    if value not in to.constants:
        return to.emit(ops.Mul(), truth, finite_elsewhere(to, value, truth))
    numbers = to.constants[value]
    if not np.isfinite(numbers).all():
        raise Refused("chooses numbers that are not finite; -1e4 is as good as -inf for a softmax")
    if truth in to.constants:
        return to.constant(to.constants[truth] * numbers, "chosen")
    return truth if (numbers == 1).all() else to.emit(ops.Mul(), truth, value)


def _is_nothing(t: Translation, operand: Operand) -> bool:
    if isinstance(operand, fx.Node) and operand in t.weights:
        return not t.array(operand).any()
    return _is_zero(operand)


def filled(t: Translation, *, self: Operand, mask: Operand, value: Operand) -> str:
    """Return the numbers, but `value` where the mask is so."""
    return chosen(t, condition=mask, self=value, other=self)
