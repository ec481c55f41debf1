"""Weights as float16, rounded for what they read: pictures, and what layers make of pictures.

Their errors cancel as their terms do (`cancelling`): of a trained ResNet-9's float16 error, weights
rounded to the nearest, its first layer was four fifths.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coronet_deploy.export.cancelling import OF_FEATURES, OF_PICTURES, cancelled, correlation
from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.operators import Conv2d, ReflectPad, ZeroPad

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
            key = weight, OF_PICTURES if _is_picture(edit, x) else OF_FEATURES
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

    What is read correlates by `neighbours` to the power of the distance, and between channels by
    `channels`.
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
    finished = cancelled(exact, taken, other, alike)
    return finished.reshape(kernel.shape).astype(np.float32)
