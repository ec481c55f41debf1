"""Comparisons and choices in operators that every runtime and number type has.

What is true is 1 and what is not is 0, so one of two numbers is the sum of both, each times whether
it is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from coronet_deploy.export.arithmetic import Abs, Ceil, Floor, Maximum
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Relation, Sign
from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Add, Minimum, Mul, Operator, Relu, Sub
from coronet_deploy.export.passes.finite import finite_elsewhere
from coronet_deploy.export.passes.rewriting import Rewrite


class PlainChoices(Rewrite):
    """Takes apart comparisons and choices, magnitudes and what is rounded down."""

    name: ClassVar[str] = "plain_choices"

    def __init__(self, *, learnt: bool = False) -> None:
        """Take all apart, or choices by a learnt mask, which is as quick a factor anywhere."""
        self._learnt = learnt

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return what stands for one of those."""
        by_mask = isinstance(node.op, Choose) and node.inputs[0] in edit.constants
        if self._learnt and not by_mask:
            return None
        form = CHOICES.get(type(node.op))
        return None if form is None else form(edit, node.op, *node.inputs)


def _compared(edit: Edit, op: Compare, one: str, other: str) -> str:
    if op.relation is Relation.ABOVE:
        return _above(edit, one, other)
    if op.relation is Relation.AT_LEAST:
        return _opposite(edit, _above(edit, other, one))
    unlike = edit.emit(Add(), _above(edit, one, other), _above(edit, other, one))
    return unlike if op.relation is Relation.UNLIKE else _opposite(edit, unlike)


def _above(edit: Edit, one: str, other: str) -> str:
    """Whether one is larger than the other: their difference, in [0, 1], rounded up."""
    apart = one if _is_nothing(edit, other) else edit.emit(Sub(), one, other)
    below_one = edit.emit(Minimum(), edit.emit(Relu(), apart), edit.constant([1.0]))
    return edit.emit(Ceil(), below_one)


def _is_nothing(edit: Edit, value: str) -> bool:
    return value in edit.constants and not edit.constants[value].any()


def _opposite(edit: Edit, true: str) -> str:
    """1 - x, of a constant too."""
    if true in edit.constants:
        return edit.constant(1 - edit.constants[true], "opposite")
    return edit.emit(Sub(), edit.constant([1.0]), true)


def _chosen(edit: Edit, op: Choose, true: str, one: str, other: str) -> str:
    parts = [
        _times(edit, truth, value)
        for truth, value in ((true, one), (_opposite(edit, true), other))
        if not _is_nothing(edit, value)
    ]
    y = edit.emit(Add(), *parts) if len(parts) == 2 else (parts or [true])[0]  # noqa: PLR2004 - both
    whole = op.infer(*(edit.shapes[value] for value in (true, one, other)))
    if not parts or edit.shapes[y] != whole:
        spread = np.full(whole, 1.0 if parts else 0.0)
        y = edit.emit(Mul(), y, edit.constant(spread, "spread"))
    return y


def _times(edit: Edit, truth: str, value: str) -> str:
    if value not in edit.constants:
        return edit.emit(Mul(), truth, finite_elsewhere(edit, value, truth))
    numbers = edit.constants[value]
    if truth in edit.constants:
        return edit.constant(edit.constants[truth] * numbers, "chosen")
    return truth if (numbers == 1).all() else edit.emit(Mul(), truth, value)


def _down(edit: Edit, _: Floor, x: str) -> str:
    """-ceil(-x)."""
    return _minus(edit, edit.emit(Ceil(), _minus(edit, x)))


def _minus(edit: Edit, x: str) -> str:
    return edit.emit(Mul(), x, edit.constant([-1.0]))


def _signed(edit: Edit, _: Sign, x: str) -> str:
    """Whether it is above 0, less whether it is below."""
    zero = edit.constant([0.0])
    return edit.emit(Sub(), _above(edit, x, zero), _above(edit, zero, x))


CHOICES: Mapping[type[Operator], Callable[..., str]] = {
    Compare: _compared,
    Not: lambda edit, _, x: _opposite(edit, x),
    Both: lambda edit, _, a, b: edit.emit(Mul(), a, b),
    Either: lambda edit, _, a, b: edit.emit(Maximum(), a, b),
    Choose: _chosen,
    Sign: _signed,
    Floor: _down,
    Abs: lambda edit, _, x: edit.emit(Maximum(), x, _minus(edit, x)),
}
