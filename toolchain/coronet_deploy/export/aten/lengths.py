"""Operators of torch that tell how long vectors are: by squares, by magnitudes, by the largest."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Abs, Sqrt
from coronet_deploy.export.aten import means, pooled
from coronet_deploy.export.aten.translation import Refused, Translation

_OVER = {1: means.total, math.inf: pooled.amax, -math.inf: pooled.amin}
"""What of the magnitudes a norm of each order is."""


def vector_norm(
    t: Translation,
    *,
    self: fx.Node,
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
