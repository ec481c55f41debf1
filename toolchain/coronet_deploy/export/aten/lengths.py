"""Operators of torch that tell how long vectors are: by squares, by magnitudes, by the largest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Abs, Div, Maximum, Sqrt
from coronet_deploy.export.aten import means, pooled
from coronet_deploy.export.aten.translation import Refused, Translation

_RANK = 4
_OVER = {1: means.total, math.inf: pooled.amax, -math.inf: pooled.amin}
"""What of the magnitudes a norm of each order is."""


def vector_norm(
    t: Translation,
    *,
    self: fx.Node | str,
    ord: Any = None,  # noqa: A002, ANN401 - the schema's name
    p: Any = None,  # noqa: ANN401 - the same of the older operator
    dim: list[int] | None = None,
    **_: Any,  # noqa: ANN401 - keepdim, dtype: the graph keeps all, in float32
) -> str:
    """Return the root of the sum of squares, of which float16 could not hold those of a picture.

    Of order 1 it is the sum of the magnitudes, of an infinite one the largest or smallest of them.
    """
    exponent = 2 if ord is None and p is None else ord if p is None else p
    to, x, dims = t.builder, t.value(self), list(dim or range(4))
    if exponent in _OVER:
        return _OVER[exponent](t, self=to.emit(Abs(), x), dim=dims)
    if exponent != 2:  # noqa: PLR2004 - a square
        raise Refused(f"takes the norm of order {exponent}; only of 1, 2, inf and -inf")
    square = to.emit(ops.Mul(), x, x)
    y = means.mean_over(to, square, dims)
    count = math.prod(to.shapes[x]) // math.prod(to.shapes[y])
    return to.emit(ops.Mul(), to.emit(Sqrt(), y), to.constant([math.sqrt(count)]))


def cosine_similarity(
    t: Translation,
    *,
    x1: fx.Node,
    x2: fx.Node,
    dim: int = 1,
    eps: float = 1e-8,
) -> str:
    """Return the products of vectors over their lengths, each at least `eps`, summed over `dim`."""
    shapes = [tuple(x.meta["val"].shape) for x in (x1, x2)]
    if [len(shape) for shape in shapes] != [_RANK, _RANK] or len({s[dim] for s in shapes}) > 1:
        raise Refused(f"takes {shapes[0]} and {shapes[1]}; only pictures that are as long there")
    to, over = t.builder, [dim % _RANK]

    def over_its_length(value: str, of: str) -> str:
        length = to.emit(Maximum(), vector_norm(t, self=of, dim=over), to.constant([eps]))
        return to.emit(Div(), value, length)

    picture, beside = (x1, x2) if x1 in t.values else (x2, x1)
    value = t.value(picture)
    divided = over_its_length(value, value)
    if beside in t.weights:
        learnt = t.array(beside)
        length = np.linalg.norm(learnt, axis=over[0], keepdims=True)
        products = to.emit(ops.Mul(), divided, t.plane(learnt / np.maximum(length, eps)))
        return means.total(t, self=products, dim=over)
    # Divided in turn, so that float16 holds the sum wherever it holds the lengths.
    other = t.value(beside)
    products = to.emit(ops.Mul(), divided, other)
    return over_its_length(means.total(t, self=products, dim=over), other)
