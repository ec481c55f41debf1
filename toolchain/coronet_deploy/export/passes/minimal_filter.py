"""The matrices of Winograd's minimal filtering, F(m, r): m outputs of r taps by m + r - 1 products.

y = A^T [(G w) * (B^T x)] (Winograd 1980; Lavin & Gray 2016, arXiv 1509.09308), made by the
Toom-Cook construction: polynomials are multiplied by their values at 0, pairs +-a, perhaps one
point alone, and infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MinimalFilter:
    """F(outputs, taps) interpolated at 0, a and -a for each a of `pairs`, and infinity.

    Where the products are an odd number, 1 is a point too.
    """

    outputs: int
    taps: int
    pairs: tuple[float, ...]

    def __post_init__(self) -> None:
        points = self._points
        if len(points) + 1 != self.products or len(set(points)) < len(points):
            raise ValueError(f"F({self.outputs}, {self.taps}) does not fit pairs {self.pairs}")

    @property
    def odd(self) -> bool:
        """Whether 1 is a point without -1, the last but infinity."""
        return self.products % 2 == 1

    @property
    def products(self) -> int:
        """Multiplications per application, and the inputs that it reads."""
        return self.outputs + self.taps - 1

    @property
    def _points(self) -> list[float]:
        alone = [1.0] if self.odd else []
        return [0.0, *(sign * a for a in self.pairs for sign in (1, -1)), *alone]

    @property
    def input_matrix(self) -> Matrix:
        """B^T (products, products): coefficients of the Lagrange polynomials, not normalised."""
        points, size = self._points, self.products
        rows = np.zeros((size, size))
        for i in range(len(points)):
            others = np.poly(points[:i] + points[i + 1 :])[::-1]
            rows[i, : len(others)] = others
        rows[-1] = np.poly(points)[::-1]
        return rows

    @property
    def kernel_matrix(self) -> Matrix:
        """G (products, taps): powers of the points, divided by the Lagrange denominators."""
        points = np.array(self._points)
        rows = np.zeros((self.products, self.taps))
        for i, point in enumerate(points):
            denominator = np.prod(point - np.delete(points, i))
            rows[i] = point ** np.arange(self.taps) / denominator
        rows[-1, -1] = 1
        return rows

    @property
    def output_matrix(self) -> Matrix:
        """A^T (outputs, products): powers of the points; infinity gives the last output."""
        columns = [np.array(p) ** np.arange(self.outputs) for p in self._points]
        infinity = np.zeros(self.outputs)
        infinity[-1] = 1
        return np.stack([*columns, infinity], axis=1)

    @property
    def bias_shares(self) -> Matrix:
        """How much of a bias each product carries so that every output gets it once."""
        shares: Matrix = np.linalg.pinv(self.output_matrix) @ np.ones(self.outputs)
        return shares


# The customary points, one of which is 1: half of the factors of A^T are none.
F43 = MinimalFilter(4, 3, (1.0, 2.0))
# Float32 has precision to spare, float16 has not. With 5/8 and 3/2 weights round 6 dB less
# (Barabasz et al. 2018, arXiv 1803.10986, explain why), and every coefficient of A and B is exact.
F43_HALF = MinimalFilter(4, 3, (5 / 8, 3 / 2))
F32 = MinimalFilter(3, 2, (1.0,))
F22 = MinimalFilter(2, 2, ())
