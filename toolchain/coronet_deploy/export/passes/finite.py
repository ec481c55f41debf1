"""Branches of a choice, so computed that they are finite where they are not chosen.

A choice is a sum of both numbers, each times whether it is the one, and zero times infinity is no
number. So a logarithm, a root, an exponential or a quotient in a branch is one of 1 wherever the
other branch is chosen; where its own is, it is what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Div, Exp, Log, Sqrt
from coronet_deploy.export.graph import Builder, Node
from coronet_deploy.export.operators import Broadcast, Elementwise, Operator

_MAY_BE_INFINITE: Mapping[type[Operator], int] = {Log: 0, Sqrt: 0, ops.Rsqrt: 0, Exp: 0, Div: 1}
"""Operators that are finite of 1, and which of their operands that goes for."""

_FARTHEST = 32  # operators back from a branch


def finite_elsewhere(to: Builder, value: str, truth: str) -> str:
    """Return `value` where `truth` is 1; where that is 0, something finite."""
    return _Guard(to, truth).of(value, _FARTHEST)


class _Guard:
    """Computes numbers anew from what is given where they are chosen, and of 1 elsewhere."""

    def __init__(self, to: Builder, truth: str) -> None:
        self._to, self._truth = to, truth
        self._made: dict[str, str] = {}
        self._elsewhere: str | None = None

    def of(self, value: str, left: int) -> str:
        """Return what stands for `value`, looking `left` operators back."""
        node = self._to.producer(value)
        if node is None or not left or not _is_number_by_number(node):
            return value
        if value not in self._made:
            inputs = [self.of(name, left - 1) for name in node.inputs]
            place = _MAY_BE_INFINITE.get(type(node.op))
            if place is not None and not self._is_harmless(node, place):
                inputs[place] = self._or_one(inputs[place])
            same = tuple(inputs) == node.inputs
            self._made[value] = value if same else self._to.emit(node.op, *inputs)
        return self._made[value]

    def _is_harmless(self, node: Node, place: int) -> bool:
        x = node.inputs[place]
        if x in self._to.constants:
            return True
        return not isinstance(node.op, Exp) and self._is_above_zero(x)

    def _is_above_zero(self, value: str) -> bool:
        """Return whether it is what is not negative and an epsilon, as under a norm's root."""
        node = self._to.producer(value)
        if node is None or not isinstance(node.op, ops.Add):
            return False
        one, other = node.inputs
        if one in self._to.constants:
            one, other = other, one
        least = self._to.constants.get(other)
        return least is not None and bool((least > 0).all()) and self._is_not_negative(one)

    def _is_not_negative(self, value: str) -> bool:
        node = self._to.producer(value)
        if node is None:
            return False
        if isinstance(node.op, ops.Mean):
            return self._is_not_negative(node.inputs[0])
        square = isinstance(node.op, ops.Mul) and len(set(node.inputs)) == 1
        return square or isinstance(node.op, ops.Relu | ops.Sigmoid | Sqrt | Exp)

    def _or_one(self, x: str) -> str:
        to = self._to
        if self._elsewhere is None:
            one = to.constant([1.0])
            self._elsewhere = (
                to.constant(1 - to.constants[self._truth], "elsewhere")
                if self._truth in to.constants
                else to.emit(ops.Sub(), one, self._truth)
            )
        return to.emit(ops.Add(), to.emit(ops.Mul(), x, self._truth), self._elsewhere)


def _is_number_by_number(node: Node) -> bool:
    return isinstance(node.op, Elementwise | Broadcast) and not isinstance(
        node.op, ops.InstanceNorm
    )
