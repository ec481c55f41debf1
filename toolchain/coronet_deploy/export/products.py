"""The operators of attention: products of matrices, and shares of a whole (see `operators`).

A matrix is a picture of one line, (1, 1, rows, columns): its rows are pixels, its columns channels.
As many matrices are (N, H, rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coronet_deploy.export.operators import Elementwise, Operator, Shape


@dataclass(frozen=True)
class MatMul(Operator):
    """The products of two matrices each, the second one turned if `turned`."""

    kind: ClassVar[str] = "matmul"
    turned: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        """Return (N, H, rows of the first, columns of the second)."""
        (n, height, rows, inner), other = shapes
        columns, shared = other[2:] if self.turned else other[:1:-1]
        if other[:2] != (n, height) or inner != shared:
            raise ValueError(f"{self.kind}: shapes {shapes} do not fit")
        return n, height, rows, columns


@dataclass(frozen=True)
class Turn(Operator):
    """A matrix with rows and columns for each other."""

    kind: ClassVar[str] = "turn"

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, 1, columns, rows)."""
        n, height, rows, columns = shapes[0]
        return n, height, columns, rows


@dataclass(frozen=True)
class Softmax(Elementwise):
    """exp(x) over the sum of it over all channels."""

    kind: ClassVar[str] = "softmax"
