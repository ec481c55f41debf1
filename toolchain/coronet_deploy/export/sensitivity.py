"""Which convolutions may compute in int8 before the picture suffers.

Int8 arithmetic is simulated on the lowered graph by rounding what goes into a convolution, its
weights, and what comes out, as the runtimes do; so one search serves every runtime. Errors of
single layers nearly add up (in mean square), which makes a good first guess; the guess is then
tried as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import OUTPUT, Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.interpret import interpret, interpret_values
from coronet_deploy.export.operators import Conv2d, ConvTranspose2d, DepthwiseConv2d, Reshape
from coronet_deploy.export.ranges import QMAX, QMIN, Range

_TRIED_ON = 3  # pictures a guess is tried on

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A convolution that could compute in int8: its value's name, what it reads, its MACs."""

    name: str
    source: str
    macs: int


def int8_layers(graph: Graph) -> tuple[Layer, ...]:
    """Return the convolutions of a lowered graph, in order."""
    layers = []
    for node in graph.nodes:
        if isinstance(node.op, Conv2d):
            _, height, width, _ = graph.shapes[node.output]
            macs = height * width * graph.constants[node.inputs[1]].size
            layers.append(Layer(node.output, node.inputs[0], macs))
    return tuple(layers)


def float_macs(graph: Graph) -> int:
    """Return the multiply-adds of convolutions that no runtime computes in int8 here."""
    total = 0
    for node in graph.nodes:
        if isinstance(node.op, DepthwiseConv2d):
            weight = graph.shapes[node.inputs[1]]
            total += math.prod(graph.shapes[node.output]) * weight[1] * weight[2]
        elif isinstance(node.op, ConvTranspose2d):
            _, height, width, _ = graph.shapes[node.inputs[0]]
            total += height * width * math.prod(graph.shapes[node.inputs[1]])
    return total


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the int8 scale of each output channel of OHWI weights: largest magnitude is 127."""
    largest = np.abs(weight).max(axis=(1, 2, 3))
    return np.where(largest > 0, largest / QMAX, 1.0).astype(np.float32)


def search(
    graph: Graph,
    pictures: Pictures,
    ranges: Mapping[str, Range],
    budget_db: float,
    progress: Callable[[str], None] = lambda _: None,
) -> frozenset[str]:
    """Return the names of the layers that compute in int8 with a PSNR of at least `budget_db`.

    Those left out are the ones that cost the most error for the MACs they have. `pictures` are
    (1, H, W, 3) real values in [-1, 1]; the PSNR is the worst of the first few.
    """
    trial = _Trial(graph, pictures.values[:_TRIED_ON], ranges)
    budget = 4 / 10 ** (budget_db / 10)
    layers = int8_layers(graph)
    chosen = {layer.name for layer in layers}
    if trial.error(chosen) <= budget:
        return frozenset(chosen)
    alone = {}
    for place, layer in enumerate(layers, 1):
        progress(f"int8 sensitivity of layer {place} of {len(layers)}")
        alone[layer.name] = trial.error({layer.name}, pictures=1)
    order = sorted(layers, key=lambda layer: alone[layer.name] / layer.macs)
    while order and sum(alone[name] for name in chosen) > budget:
        chosen.remove(order.pop().name)
    while order and trial.error(chosen) > budget:
        chosen.remove(order.pop().name)
    return frozenset(chosen)


class _Trial:
    """Simulates a choice of layers and tells its error against the float graph."""

    def __init__(
        self, graph: Graph, pictures: tuple[FloatArray, ...], ranges: Mapping[str, Range]
    ) -> None:
        self._graph, self._pictures, self._ranges = graph, pictures, ranges
        self._references = [interpret(graph, picture) for picture in pictures]

    def error(self, chosen: Collection[str], pictures: int | None = None) -> float:
        """Return the mean square error of the worst picture."""
        worst = 0.0
        for picture, reference in list(zip(self._pictures, self._references, strict=True))[
            :pictures
        ]:
            output = simulate(self._graph, chosen, self._ranges, picture)
            difference = output.astype(np.float64) - reference
            worst = max(worst, float(np.mean(np.square(difference))))
        return worst


def simulate(
    graph: Graph, chosen: Collection[str], ranges: Mapping[str, Range], picture: FloatArray
) -> FloatArray:
    """Return the picture that `graph` draws with the layers `chosen` in int8."""
    rounded: dict[str, Range] = {}

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in chosen:
            return None
        source = original[node.output]
        x, weight, *bias = node.inputs
        # A reshape to the same shape is a place where `alter` can round.
        taken = edit.emit(Reshape(edit.shapes[x]), x)
        rounded[taken] = ranges[source]
        y = edit.emit(node.op, taken, edit.constant(_round_weight(edit.constants[weight])), *bias)
        edit.scope = f"{node.output}/int8"
        given = edit.emit(Reshape(edit.shapes[y]), y)
        rounded[node.output if node.output != OUTPUT else given] = ranges[node.output]
        return given

    def alter(name: str, value: Tensor) -> Tensor:
        return _round(value, rounded[name]) if name in rounded else value

    original = {layer.name: layer.source for layer in int8_layers(graph)}
    simulated = rewrite(graph, visit)
    values = interpret_values(simulated, picture, [OUTPUT], alter=alter)
    output: FloatArray = values[OUTPUT]
    return output


def _round_weight(weight: FloatArray) -> FloatArray:
    scales = weight_scales(weight)[:, None, None, None]
    rounded: FloatArray = np.clip(np.rint(weight / scales), -QMAX, QMAX) * scales
    return rounded


def _round(value: Tensor, r: Range) -> Tensor:
    steps = torch.round(value / float(r.scale)) + r.zero_point
    return (torch.clamp(steps, QMIN, QMAX) - r.zero_point) * float(r.scale)
