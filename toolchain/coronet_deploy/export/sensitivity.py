"""Which convolutions may compute in int8 before the picture suffers.

Int8 arithmetic is simulated on the lowered graph by rounding as the runtimes do: what goes into a
convolution, its weights, its bias and what comes out, where ranges were measured beforehand; what
goes in and the weights alone, where ranges are found at run time and what comes out is float.
Errors of single layers nearly add up (in mean square), which makes a good first guess; the guess is
then tried as a whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import OUTPUT, Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.influence import mean_squares_shown
from coronet_deploy.export.int8_weights import (
    int8_weights,
    round_weight,
    weight_scales,
    with_int8_weights,
)
from coronet_deploy.export.interpret import Walk, interpret, interpret_values
from coronet_deploy.export.operators import Conv2d, ConvTranspose2d, DepthwiseConv2d, Reshape
from coronet_deploy.export.outputs import PICTURE, ValueRange, spread_of
from coronet_deploy.ranges import QMAX, QMIN, Range

CONVOLUTIONS = Conv2d | DepthwiseConv2d | ConvTranspose2d

_TRIED_ON = 3  # pictures a guess is tried on

_Float64 = npt.NDArray[np.float64]

Ranges = Mapping[str, Range] | None
"""What the layers read and make, by name; None where ranges are found at run time."""


@dataclass(frozen=True)
class Layer:
    """A convolution that could compute in int8: its value's name, what it reads, its MACs.

    `pointwise`: a pixel of its own is all that each pixel is made of.
    """

    name: str
    source: str
    macs: int
    pointwise: bool = False


def int8_layers(graph: Graph) -> tuple[Layer, ...]:
    """Return the convolutions of a lowered graph, in order."""
    layers = []
    for node in graph.nodes:
        if isinstance(node.op, Conv2d):
            _, height, width, _ = graph.shapes[node.output]
            kernel = graph.constants[node.inputs[1]]
            pointwise = kernel.shape[1:3] == node.op.stride == (1, 1) and not node.op.padding
            macs = height * width * kernel.size
            layers.append(Layer(node.output, node.inputs[0], macs, pointwise))
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


def search(
    trial: Trial, budget_db: float, progress: Callable[[str], None] = lambda _: None
) -> frozenset[str]:
    """Return the names of the layers that compute in int8 with a PSNR of at least `budget_db`.

    Those left out are the ones that cost the most error for the MACs they have.
    """
    budget = trial.mean_square_of(budget_db)
    layers = trial.layers
    chosen = {layer.name for layer in layers}
    if trial.keeps(chosen, budget):
        return frozenset(chosen)
    progress(f"int8 sensitivity of {len(layers)} layers")
    alone = trial.alone
    order = sorted(layers, key=lambda layer: alone[layer.name] / layer.macs)
    # As many as single errors allow, if they simply add up; they add up to less or more.
    hoped = most(len(order), lambda n: sum(alone[x.name] for x in order[:n]) <= budget)
    kept = most(hoped, lambda n: not n or trial.keeps({x.name for x in order[:n]}, budget))
    return frozenset(layer.name for layer in order[:kept])


def most(total: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `total` that fits, if all below it do; by halving."""
    if fits(total):
        return total
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Trial:
    """Simulates a choice of layers on the first few pictures and compares it with the float graph.

    `pictures` are (1, H, W, C) real values in [-1, 1]; errors are against `value_range` of what the
    graph draws (None: what it reaches on them), and of the worst picture.
    """

    def __init__(
        self,
        graph: Graph,
        pictures: Pictures,
        ranges: Ranges,
        value_range: ValueRange | None = PICTURE,
    ) -> None:
        self.graph, self.layers, self.ranges = graph, int8_layers(graph), ranges
        self._names, self._pictures = pictures.names[:_TRIED_ON], pictures.values[:_TRIED_ON]
        self._weights = int8_weights(graph, {layer.name for layer in self.layers})
        self._value_range = value_range

    def take_drawn(self, drawn: Sequence[FloatArray]) -> None:
        """Take what the float graph draws of the pictures; else it does when that is wanted."""
        self._references = list(drawn[:_TRIED_ON])

    @cached_property
    def _references(self) -> list[FloatArray]:
        return [interpret(self.graph, picture) for picture in self._pictures]

    @cached_property
    def _peak(self) -> float:
        low, high = spread_of(self._value_range, self._references)
        return high - low

    def require_finite(self) -> None:
        """Raise ConversionFailed, which names the picture, if the float graph draws no numbers."""
        for name, drawn in zip(self._names, self._references, strict=True):
            if not np.isfinite(drawn).all():
                raise ConversionFailed(
                    f"calibration picture {name} gives values that are not finite at {OUTPUT}",
                    hint="look at the weights, and at the picture",
                )

    def within(self, ranges: Ranges) -> Trial:
        """Return the same with other ranges; what the float graph draws is drawn once."""
        other = copy.copy(self)
        other.__dict__.pop("alone", None)
        other.ranges = ranges
        return other

    def mean_square_of(self, psnr_db: float) -> float:
        """Return the mean square error that is `psnr_db` between what the graph draws."""
        return self._peak**2 / 10 ** (psnr_db / 10)

    def keeps(self, chosen: Collection[str], budget: float, packed: Collection[str] = ()) -> bool:
        """Return whether the mean square error of every picture is within `budget`.

        With the layers `chosen` in int8, and the weights of those `packed` too.
        """
        rounded = with_int8_weights(self.graph, {*chosen, *packed}, self._weights)
        outputs = (simulate(rounded, chosen, self.ranges, x) for x in self._pictures)
        return all(
            _mean_square(output, reference) <= budget
            for output, reference in zip(outputs, self._references, strict=True)
        )

    @cached_property
    def alone(self) -> dict[str, float]:
        """The mean square error of each layer alone in int8, on the first picture (`influence`)."""
        layers = {layer.name: layer for layer in self.layers}

        def error(walk: Walk, made: Tensor) -> Tensor:
            node = self.graph.nodes[walk.place]
            layer, (source, weight, *bias) = layers[node.output], node.inputs
            kernel = self._weights[weight]
            rounded = {
                source: _read(walk.values[source], layer, self.ranges),
                weight: torch.from_numpy(kernel),
            }
            for name in bias:
                numbers = _bias(self.graph.constants[name], kernel, layer, self.ranges)
                rounded[name] = torch.from_numpy(numbers)
            return _made(walk.compute(rounded), layer, self.ranges) - made

        return mean_squares_shown(self.graph, self._pictures[0], layers, error)


def _mean_square(output: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    return float(np.mean(np.square(output.astype(np.float64) - reference)))


def simulate(
    graph: Graph, chosen: Collection[str], ranges: Ranges, picture: FloatArray
) -> FloatArray:
    """Return the picture that `graph` draws with the layers `chosen` in int8."""
    readers: dict[str, Layer] = {}  # by what each reads
    makers: dict[str, Layer] = {}  # by what each makes

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in chosen:
            return None
        layer = layers[node.output]
        x, weight, *bias = node.inputs
        # A reshape to the same shape is a place where `alter` can round.
        taken = edit.emit(Reshape(edit.shapes[x]), x)
        readers[taken] = layer
        kernel = edit.constants[weight]
        numbers = [_bias(edit.constants[name], kernel, layer, ranges) for name in bias]
        constants = [edit.constant(one) for one in (round_weight(kernel), *numbers)]
        y = edit.emit(node.op, taken, *constants)
        edit.scope = f"{node.output}/int8"
        given = edit.emit(Reshape(edit.shapes[y]), y)
        makers[node.output if node.output != OUTPUT else given] = layer
        return given

    def alter(name: str, value: Tensor) -> Tensor:
        if name in readers:
            return _read(value, readers[name], ranges)
        return _made(value, makers[name], ranges) if name in makers else value

    layers = {layer.name: layer for layer in int8_layers(graph)}
    simulated = rewrite(graph, visit)
    values = interpret_values(simulated, picture, [OUTPUT], alter=alter)
    output: FloatArray = values[OUTPUT]
    return output


def round_bias(bias: FloatArray, weight: FloatArray, source: Range) -> FloatArray:
    """Return a bias, (O,), as int32 has it: in units of the input's scale times the weight's."""
    unit = weight_scales(weight) * source.scale
    rounded: FloatArray = (np.rint(bias / unit).astype(np.float64) * unit).astype(np.float32)
    return rounded


def _read(value: Tensor, layer: Layer, ranges: Ranges) -> Tensor:
    """Return what a layer reads, (1, H, W, C), in int8.

    At run time XNNPACK finds the range of the whole, of each pixel for a pointwise layer.
    """
    if ranges is not None:
        return _round(value, ranges[layer.source])
    together = (3,) if layer.pointwise else (0, 1, 2, 3)
    low = value.amin(together, keepdim=True).clamp(max=0)
    high = value.amax(together, keepdim=True).clamp(min=0)
    scale = (high - low) / (QMAX - QMIN)
    scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.clamp(torch.round(QMIN - low / scale), QMIN, QMAX)
    return (torch.clamp(torch.round(value / scale) + zero, QMIN, QMAX) - zero) * scale


def _made(value: Tensor, layer: Layer, ranges: Ranges) -> Tensor:
    """Return what a layer makes, as it leaves."""
    return value if ranges is None else _round(value, ranges[layer.name])


def _bias(values: FloatArray, weight: FloatArray, layer: Layer, ranges: Ranges) -> FloatArray:
    """Return a layer's bias, (O,), as it is stored."""
    return values if ranges is None else round_bias(values, weight, ranges[layer.source])


def _round(value: Tensor, r: Range) -> Tensor:
    steps = torch.round(value / float(r.scale)) + r.zero_point
    return (torch.clamp(steps, QMIN, QMAX) - r.zero_point) * float(r.scale)
