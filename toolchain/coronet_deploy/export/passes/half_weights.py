"""Weights as float16, rounded for what they read: pictures, and what layers make of pictures.

Neighbouring pixels are nearly alike, and many a kernel looks for where they are not: large terms
cancel. Rounded each to its nearest, weights cancel less well, and what is broadly light or dark
leaks into every channel; of a trained ResNet-9's float16 error its first layer was four fifths.
Here each weight goes up or down so that the errors cancel as the terms do. The file holds as many
bytes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.operators import Conv2d, ReflectPad, ZeroPad

# How alike neighbours are, across and down (a first-order Markov model, as picture coding has it:
# Jain 1989), and the channels of one place: of pictures, and of what layers make of them. Measured
# by what float16 costs trained generators; a tenth more or less of either changes little.
_OF_PICTURES, _OF_FEATURES = (0.9, 0.9), (0.8, 0.3)
# With more numbers in a window their errors cancel by themselves.
_MOST = 1200


class RoundWeights:
    """Makes the weights of convolutions over both axes numbers that float16 holds.

    Winograd's products, which are over one axis or none, are left as they are: what they read are
    differences, and correlates otherwise.
    """

    name: ClassVar[str] = "round_weights"

    def run(self, graph: Graph) -> Graph:
        """Return `graph` with rounded weights, those of several convolutions rounded once."""
        made: dict[tuple[str, tuple[float, float]], str] = {}

        def visit(edit: Edit, node: Node) -> str | None:
            if not isinstance(node.op, Conv2d):
                return None
            x, weight, *bias = node.inputs
            kernel = edit.constants[weight]
            _, rows, columns, channels = kernel.shape
            if min(rows, columns) == 1 or rows * columns * channels > _MOST:
                return None
            if not np.abs(kernel).max() <= FLOAT16_MAX:
                return None  # which the writer refuses
            key = weight, _OF_PICTURES if _is_picture(edit, x) else _OF_FEATURES
            if key not in made:
                made[key] = edit.constant(rounded(kernel, *key[1]), "weight")
            return edit.emit(node.op, x, made[key], *bias)

        return rewrite(graph, visit)


def _is_picture(edit: Edit, value: str) -> bool:
    maker = edit.producer(value)
    while maker is not None and isinstance(maker.op, ReflectPad | ZeroPad):
        value = maker.inputs[0]
        maker = edit.producer(value)
    return value == INPUT


def rounded(kernel: FloatArray, neighbours: float, channels: float) -> FloatArray:
    """Return OHWI weights, each one of the two float16 numbers around it, as float32.

    Per output the error e has the energy e^T R e where what is read correlates as R says, by
    `neighbours` to the power of the distance, and between channels by `channels`. From the nearest
    numbers on, the weight whose other number lowers it most is changed, until none does.
    """
    outputs, rows, columns, width = kernel.shape
    exact = kernel.reshape(outputs, -1).astype(np.float64)
    nearest = exact.astype(np.float16)
    beyond = np.where(nearest.astype(np.float64) > exact, -np.inf, np.inf).astype(np.float16)
    taken = nearest.astype(np.float64)
    other = np.nextafter(nearest, beyond).astype(np.float64)
    # What float16 holds stays, zeros above all; and nothing goes to infinity.
    other = np.where(np.isfinite(other) & (taken != exact), other, taken)
    alike = correlation(rows, columns, width, neighbours, channels)
    slope, every = (taken - exact) @ alike, np.arange(outputs)
    for _ in range(4 * exact.shape[1]):
        steps = other - taken
        change = 2 * steps * slope + np.square(steps)  # R has ones on its diagonal
        best = change.argmin(axis=1)
        places = every[change[every, best] < -np.finfo(np.float32).tiny]
        if not len(places):
            break
        at = places, best[places]
        slope[places] += steps[at][:, None] * alike[at[1]]
        taken[at], other[at] = other[at], taken[at]
    finished: FloatArray = taken.reshape(kernel.shape).astype(np.float32)
    return finished


def correlation(
    rows: int, columns: int, channels: int, neighbours: float, between: float
) -> npt.NDArray[Any]:
    """Return how the numbers of a window correlate: (n, n), n = rows * columns * channels."""
    down, across = (
        neighbours ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))) for n in (rows, columns)
    )
    same = np.where(np.eye(channels, dtype=bool), 1.0, between)
    return np.kron(np.kron(down, across), same)
