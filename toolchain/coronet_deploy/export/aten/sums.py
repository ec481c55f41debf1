"""Operators of torch that combine numbers one by one: sums, products, quotients, the larger one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Abs, Div, Maximum, Sqrt
from coronet_deploy.export.aten.composed import clamped
from coronet_deploy.export.aten.translation import Refused, Translation


def binary(op: ops.Operator) -> Callable[..., str]:
    """Return the translation of a sum, difference or product, of `alpha` times the other."""

    def translate(t: Translation, *, self: Any, other: Any, alpha: float = 1) -> str:  # noqa: ANN401
        return _combined(t, op, self, _times(t, other, alpha))

    return translate


def _combined(t: Translation, op: ops.Operator, one: Any, other: Any) -> str:  # noqa: ANN401
    if not (t.is_picture(one) or t.is_picture(other)):
        raise Refused("takes no picture")
    return t.builder.emit(op, t.operand(one), t.operand(other))


def _times(t: Translation, operand: Any, factor: float) -> Any:  # noqa: ANN401 - whatever torch passes
    """Return an operand, `factor` times as large: a number, a node, or the name of a value."""
    if factor == 1:
        return operand
    if isinstance(operand, int | float):
        return operand * factor
    if operand in t.weights:
        return t.plane(t.array(operand) * np.float32(factor))
    return t.builder.emit(ops.Mul(), t.operand(operand), t.builder.constant([factor]))


def rsub(t: Translation, *, self: fx.Node, other: Any, alpha: float = 1) -> str:  # noqa: ANN401
    """Other - alpha * x."""
    return _combined(t, ops.Sub(), other, _times(t, self, alpha))


def added(op: ops.Operator) -> Callable[..., str]:
    """Return the translation of a sum with `value` times a product or quotient of two others."""

    def translate(
        t: Translation,
        *,
        self: Any,  # noqa: ANN401 - nodes, or values' names
        tensor1: Any,  # noqa: ANN401
        tensor2: Any,  # noqa: ANN401
        value: float = 1,
    ) -> str:
        return _combined(t, ops.Add(), self, _times(t, _combined(t, op, tensor1, tensor2), value))

    return translate


def neg(t: Translation, *, self: Any) -> str:  # noqa: ANN401 - a node, or a value's name
    """-x."""
    return _combined(t, ops.Mul(), self, -1.0)


def div(t: Translation, *, self: Any, other: Any) -> str:  # noqa: ANN401 - numbers or tensors
    """By a number or a learnt tensor, its reciprocal times x."""
    if t.is_picture(other):
        return _quotient(t, t.operand(self), t.operand(other))
    divisor = np.asarray(other if isinstance(other, int | float) else t.array(other), np.float64)
    if not divisor.all():
        raise Refused("divides by zero")
    if not divisor.ndim:
        return _combined(t, ops.Mul(), self, 1 / float(divisor))
    return _combined(t, ops.Mul(), self, t.plane((1 / divisor).astype(np.float32)))


def lerp(t: Translation, *, self: Any, end: Any, weight: Any) -> str:  # noqa: ANN401
    """X + weight * (end - x)."""
    way = _combined(t, ops.Sub(), end, self)
    return _combined(t, ops.Add(), self, _combined(t, ops.Mul(), way, weight))


def reciprocal(t: Translation, *, self: fx.Node) -> str:
    """1 / x."""
    return _quotient(t, t.builder.constant([1.0]), t.value(self))


def _quotient(t: Translation, dividend: str, divisor: str) -> str:
    """Return a product with a reciprocal root, or with one number's reciprocal, where it is one."""
    to, maker = t.builder, t.builder.producer(divisor)
    if maker is not None and isinstance(maker.op, Sqrt):
        root = to.emit(ops.Rsqrt(), *maker.inputs)
        return root if _is_one(t, dividend) else to.emit(ops.Mul(), dividend, root)
    one_pixel = to.shapes[divisor][1:3] == (1, 1) and to.shapes[dividend][1:3] != (1, 1)
    if one_pixel and dividend not in to.constants:
        return to.emit(ops.Mul(), dividend, to.emit(Div(), to.constant([1.0]), divisor))
    return to.emit(Div(), dividend, divisor)


def _is_one(t: Translation, name: str) -> bool:
    return name in t.builder.constants and bool((t.builder.constants[name] == 1).all())


def larger(t: Translation, *, self: fx.Node, other: Any) -> str:  # noqa: ANN401 - a tensor or a number
    """max(x, y); of a number, as a clamp to it."""
    if (bound := _number(t, other)) is not None:
        return clamped(t.builder, t.value(self), bound, None)
    return _combined(t, Maximum(), self, other)


def smaller(t: Translation, *, self: fx.Node, other: Any) -> str:  # noqa: ANN401 - a tensor or a number
    """min(x, y); of a number, as a clamp to it."""
    if (bound := _number(t, other)) is not None:
        return clamped(t.builder, t.value(self), None, bound)
    return _combined(t, ops.Minimum(), self, other)


def _number(t: Translation, operand: Any) -> float | None:  # noqa: ANN401 - whatever torch passes
    """Return the one number that an operand is, if it is."""
    if isinstance(operand, int | float):
        return float(operand)
    if operand in t.weights:
        array = t.array(operand)
        if array.size and (array == array.flat[0]).all():
            return float(array.flat[0])
    return None


def magnitude(t: Translation, *, self: fx.Node) -> str:
    """max(x, -x)."""
    return t.builder.emit(Abs(), t.value(self))
