"""Weights as int8 has them: by output channel, of which the largest magnitude is 127.

They are rounded so that their errors cancel (`cancelling`): of a U-Net's error in integers
throughout, those that meet the picture had made a sixth. Between instance norms, which forget a
channel's mean, only those do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from coronet_deploy.export.cancelling import OF_FEATURES, OF_PICTURES, cancelled, correlation
from coronet_deploy.export.graph import INPUT, FloatArray, Graph
from coronet_deploy.export.operators import Conv2d, InstanceNorm, Rsqrt
from coronet_deploy.export.pixels import BRIGHTER, moved_from
from coronet_deploy.ranges import QMAX

_MOST = 600  # numbers in a window; in larger ones errors cancel by themselves
_HELD = 1e-4  # of a step; float32 tells a hundredth of that


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the int8 scale of each output channel of OHWI weights: largest magnitude is 127."""
    largest = np.abs(weight).max(axis=(1, 2, 3))
    return np.where(largest > 0, largest / QMAX, 1.0).astype(np.float32)


def round_weight(weight: FloatArray) -> FloatArray:
    """Return the int8 weights that are nearest to OHWI weights, as float32."""
    scales = weight_scales(weight)[:, None, None, None]
    rounded: FloatArray = np.clip(np.rint(weight / scales), -QMAX, QMAX) * scales
    return rounded


def int8_weights(graph: Graph, layers: Collection[str]) -> Mapping[str, FloatArray]:
    """Return the weights of the convolutions `layers` of a lowered graph, by constant, in int8.

    `round_weight` leaves them as they are.
    """
    pictures = moved_from(graph, INPUT) | moved_from(graph, BRIGHTER)
    normed = any(isinstance(node.op, InstanceNorm | Rsqrt) for node in graph.nodes)
    found: dict[str, FloatArray] = {}
    for node in graph.nodes:
        if node.output in layers and isinstance(node.op, Conv2d) and node.inputs[1] not in found:
            kernel = graph.constants[node.inputs[1]]
            if node.inputs[0] in pictures:
                found[node.inputs[1]] = _cancelled(kernel, *OF_PICTURES)
            elif normed:
                found[node.inputs[1]] = round_weight(kernel)
            else:
                found[node.inputs[1]] = _cancelled(kernel, *OF_FEATURES)
    return found


def with_int8_weights(
    graph: Graph, layers: Collection[str], weights: Mapping[str, FloatArray] | None = None
) -> Graph:
    """Return `graph` with the weights of the convolutions `layers` as int8 has them.

    `weights` are `int8_weights` of these layers or more, if they are known.
    """
    if weights is None:
        weights = int8_weights(graph, layers)
    names = {node.inputs[1] for node in graph.nodes if node.output in layers}
    rounded = {name: weights[name] for name in names}
    return replace(graph, constants={**graph.constants, **rounded})


def _cancelled(kernel: FloatArray, neighbours: float, channels: float) -> FloatArray:
    outputs, rows, columns, width = kernel.shape
    if rows * columns * width > _MOST:
        return round_weight(kernel)
    scales = weight_scales(kernel)[:, None].astype(np.float64)
    exact = kernel.reshape(outputs, -1).astype(np.float64) / scales
    nearest = np.clip(np.rint(exact), -QMAX, QMAX)
    # What int8 holds but for float32's rounding stays: zeros, and the largest.
    held = np.abs(nearest - exact) < _HELD
    other = np.where(held, nearest, nearest + np.sign(exact - nearest))
    alike = correlation(rows, columns, width, neighbours, channels)
    steps = cancelled(exact, nearest, other, alike)
    return (steps * scales).astype(np.float32).reshape(kernel.shape)
