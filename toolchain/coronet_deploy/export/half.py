"""What float16 arithmetic makes of a graph: its picture, and where it would overflow.

Some delegates compute an FP16 artifact in float16 throughout, values too (GPUs, NPUs, XNNPACK if
it is told to), whose largest number is 65504. An instance norm squares what comes in, so a
deviation of 256 is already too much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export import operators as ops
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.equalize import equalized
from coronet_deploy.export.graph import FLOAT16_MAX, OUTPUT, FloatArray, Graph
from coronet_deploy.export.half_sums import KERNELS
from coronet_deploy.export.interpret import Kernels, interpret_values
from coronet_deploy.export.passes import PassReport, Preference, lower
from coronet_deploy.export.permuting import Permute, Transpose
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.products import Turn
from coronet_deploy.export.resizing import ResizeBilinear
from coronet_deploy.vocabulary import Runtime

_TRIED_ON = 3  # pictures, for a forward pass of each is what the check costs
_ROOM = 2.0  # other pictures may give larger values
# What is no larger than what it is made of, which was looked at.
_NO_LARGER = (
    MaxPool2d
    | ResizeBilinear
    | Turn
    | Permute
    | Transpose
    | ops.Slice
    | ops.Concat
    | ops.Reshape
    | ops.ZeroPad
    | ops.ReflectPad
    | ops.DepthToSpace
    | ops.Relu
)


@dataclass(frozen=True)
class Overflow:
    """The first value of a graph that float16 cannot be trusted to hold."""

    name: str
    kind: str
    magnitude: float


def draw_in_half(graph: Graph, picture: FloatArray, *, half_sums: bool = False) -> FloatArray:
    """Return what the lowered `graph` draws with all weights and values rounded to float16.

    Sums inside an operator are in float32, as matrix units add them; with `half_sums` those of
    products are in float16 too, as XNNPACK's kernels for ARM and AVX512-FP16 have them: up to 20 dB
    less (see `half_sums`, which takes seconds a GMAC).
    """
    constants = {
        name: array.astype(np.float16).astype(np.float32) for name, array in graph.constants.items()
    }
    rounded = Graph(graph.nodes, constants, graph.shapes)
    kernels: Kernels = {ops.LeakyRelu: _leaky_relu, **(KERNELS if half_sums else {})}

    def narrow(_: str, value: Tensor) -> Tensor:
        return value.half().float()

    values = interpret_values(rounded, picture, [OUTPUT], alter=narrow, kernels=kernels)
    output: FloatArray = values[OUTPUT]
    return output


def _leaky_relu(op: ops.LeakyRelu, x: Tensor) -> Tensor:
    """Return it with the slope rounded too, as kernels hold it."""
    return torch.nn.functional.leaky_relu(x, float(np.float16(op.slope)))


def find_overflow(graph: Graph, pictures: Pictures) -> Overflow | None:
    """Return the first value of the lowered `graph` within a factor of 2 of float16's end.

    Of an InstanceNorm that is not taken apart, the squares inside it count.
    """
    makers = {node.output: node for node in graph.nodes}
    normed = {node.inputs[0]: node for node in graph.nodes if isinstance(node.op, ops.InstanceNorm)}
    found: dict[str, Overflow] = {}

    def look(name: str, value: Tensor) -> Tensor:
        if not isinstance(makers[name].op, _NO_LARGER):
            largest(name, value)
        if name in normed:
            centred = value - value.mean((1, 2), keepdim=True)
            square = _magnitude(centred) ** 2
            if not square * _ROOM < FLOAT16_MAX:
                norm = normed[name]
                found.setdefault(norm.output, Overflow(norm.output, norm.op.kind, square))
        return value

    def largest(name: str, value: Tensor) -> None:
        magnitude = _magnitude(value)
        if not magnitude * _ROOM < FLOAT16_MAX:  # also what is not a number
            found.setdefault(name, Overflow(name, makers[name].op.kind, magnitude))

    for picture in pictures.values[:_TRIED_ON]:
        interpret_values(graph, picture, (), alter=look)
    weights = [
        Overflow(name, "weight", float(np.abs(array).max()))
        for name, array in graph.constants.items()
        if array.size and not np.abs(array).max() < FLOAT16_MAX
    ]
    return next(iter([*found.values(), *weights]), None)


def _magnitude(value: Tensor) -> float:
    low, high = torch.aminmax(value)
    return float(torch.maximum(-low, high))


def lower_to_half(
    graph: Graph, runtime: Runtime, pictures: Pictures, prefer: Preference
) -> tuple[Graph, tuple[PassReport, ...], bool]:
    """Return `graph` lowered so that float16 holds every value, the passes, and if it was scaled.

    Only where it would overflow are channels scaled (see `equalized`), for that changes rounding.

    Raises:
        ConversionFailed: a value is too large even then; names the operator.

    """
    lowered, reports = lower(graph, runtime, prefer=prefer, half=True)
    if find_overflow(lowered, pictures) is None:
        return lowered, reports, False
    even, evened = equalized(graph, pictures, reach=False)
    lowered, reports = lower(even, runtime, prefer=prefer, half=True)
    if (overflow := find_overflow(lowered, pictures)) is not None:
        raise ConversionFailed(
            f"float16 cannot hold what {overflow.name} ({overflow.kind}) gives: "
            f"{overflow.magnitude:.3g} of at most {FLOAT16_MAX:.0f}",
            hint="take fp32 or int8",
        )
    return lowered, (*evened, *reports), True
