"""Operators of torch that compare numbers and choose between them.

What is true is 1 and what is not is 0, as torch's own tensors of such are when they are made
floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Abs, Ceil, Div, Floor, Round
from coronet_deploy.export.aten import sums
from coronet_deploy.export.aten.composed import clamped
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Relation

Operand = Any
"""A number, a node, or the name of a value."""


def compared(relation: Relation, *, turned: bool = False) -> Callable[..., str]:
    """Return the translation of whether x is in a relation to y, or y to x if `turned`."""

    def translate(t: Translation, *, self: Operand, other: Operand) -> str:
        one, two = (other, self) if turned else (self, other)
        return sums.binary(Compare(relation))(t, self=one, other=two)

    return translate


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, int | float) and operand == 0


def opposite(t: Translation, *, self: Operand) -> str:
    """Whether it is not so."""
    return t.builder.emit(Not(), t.operand(self))


def floor(t: Translation, *, self: Operand) -> str:
    """Return the largest whole number that is not above x."""
    return t.builder.emit(Floor(), t.operand(self))


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


def both(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether both are so."""
    return sums.binary(Both())(t, self=self, other=other)


def either(t: Translation, *, self: Operand, other: Operand) -> str:
    """Whether one or the other is so."""
    return sums.binary(Either())(t, self=self, other=other)


def chosen(t: Translation, *, condition: Operand, self: Operand, other: Operand) -> str:
    """Return one of two numbers."""
    to, values = t.builder, [t.operand(operand) for operand in (condition, self, other)]
    constants = [to.constants[value] for value in values if value in to.constants]
    if not all(np.isfinite(numbers).all() for numbers in constants):
        raise Refused("chooses numbers that are not finite; -1e4 is as good as -inf for a softmax")
    if len(constants) == len(values):
        raise Refused("chooses between learnt tensors by one")
    return to.emit(Choose(), *values)


def filled(t: Translation, *, self: Operand, mask: Operand, value: Operand) -> str:
    """Return the numbers, but `value` where the mask is so."""
    return chosen(t, condition=mask, self=value, other=self)


def soft_shrunk(t: Translation, *, self: Operand, lambd: float = 0.5) -> str:
    """x, nearer to 0 by `lambd`: less what of it lies within, which is exact."""
    to, x = t.builder, t.operand(self)
    return to.emit(ops.Sub(), x, clamped(to, x, -lambd, lambd)) if lambd else x


def hard_shrunk(t: Translation, *, self: Operand, lambd: float = 0.5) -> str:
    """x, but 0 where it is not farther from 0 than `lambd`."""
    size = t.builder.emit(Abs(), t.operand(self))
    return chosen(t, condition=_above(t, size, lambd), self=self, other=0.0)


def above_threshold(t: Translation, *, self: Operand, threshold: float, value: float) -> str:
    """x, but `value` where it is not above the threshold."""
    return chosen(t, condition=_above(t, t.operand(self), threshold), self=self, other=value)


def _above(t: Translation, x: str, number: float) -> str:
    return t.builder.emit(Compare(Relation.ABOVE), x, t.builder.constant([number]))
