"""Rounding weights so that their errors cancel, as what they are multiplied with is alike.

Neighbouring pixels are nearly alike, and many a kernel looks for where they are not: large terms
cancel. Rounded each to its nearest number, weights cancel less well, and what is broadly light or
dark leaks into every channel. Here each weight goes up or down so that the errors of an output
cancel as its terms do. The file holds as many bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Float64 = npt.NDArray[np.float64]

OF_PICTURES, OF_FEATURES = (0.9, 0.9), (0.8, 0.3)
"""How alike neighbours are, across and down, and the channels of one place: of pictures, and of
what layers make of them.

A first-order Markov model, as picture coding has it (Jain 1989). Measured by what float16 costs
trained generators; a tenth more or less of either changes little.
"""


def correlation(
    rows: int, columns: int, channels: int, neighbours: float, between: float
) -> npt.NDArray[Any]:
    """Return how the numbers of a window correlate: (n, n), n = rows * columns * channels."""
    down, across = (
        neighbours ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))) for n in (rows, columns)
    )
    same = np.where(np.eye(channels, dtype=bool), 1.0, between)
    return np.kron(np.kron(down, across), same)


def cancelled(exact: _Float64, taken: _Float64, other: _Float64, alike: _Float64) -> _Float64:
    """Return one of two numbers for each weight: (O, n), `taken` or `other`.

    Per output the error e has the energy e^T R e where what is read correlates as R says, `alike`,
    (n, n) with ones on its diagonal. From `taken` on, the weight whose other number lowers it most
    is changed, until none does.
    """
    changed = np.zeros(exact.shape, dtype=bool)
    steps, slopes = other - taken, (taken - exact) @ alike
    squares, steps = np.square(steps), 2 * steps
    rows = np.arange(len(exact))  # those still looked at: `steps` and the like hold no others
    for _ in range(4 * exact.shape[1]):
        change = steps * slopes
        change += squares
        best = change.argmin(axis=1)
        lower = change[np.arange(len(rows)), best] < -np.finfo(np.float32).tiny
        if not lower.all():
            rows, best = rows[lower], best[lower]
            steps, squares, slopes = steps[lower], squares[lower], slopes[lower]
        if not len(rows):
            break
        at = np.arange(len(rows)), best
        slopes += (steps[at] / 2)[:, None] * alike[best]
        steps[at] *= -1
        changed[rows, best] ^= True
    return np.where(changed, other, taken)
