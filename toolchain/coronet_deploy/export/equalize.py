"""Channels of like size before an InstanceNorm, so that one int8 range serves them all.

An InstanceNorm subtracts each channel's mean and divides by its deviation, so a convolution before
it may be shifted and scaled channel by channel for free, but for the norm's epsilon: that is added
to a variance which the scale changes. With the extremes measured on pictures, each channel is
moved to the middle, and scaled until those of long tails reach as far as others, or as near as
they get without the epsilon showing: one range for all is then almost as fine as one for each.
Where values keep 16 bits, they are scaled to deviation 1 and not moved. Convolutions that other
convolutions read are `channels`' affair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.channels import equalize_channels
from coronet_deploy.export.graph import Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.operators import Conv2d, ConvTranspose2d, InstanceNorm
from coronet_deploy.export.outputs import output_range, spread_of
from coronet_deploy.export.passes import PassReport, run_passes
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.dead_bias import DropDeadBiases
from coronet_deploy.export.passes.plain_operators import PlainOperators
from coronet_deploy.export.ranges import channel_deviations, channel_reach
from coronet_deploy.ranges import STILL, deviations_of_equal_reach

_Float64 = npt.NDArray[np.float64]

_SHOWING = 1 / 600  # of a channel's amplitude, the most that a norm's epsilon may change
_SAME_DB = 60.0  # the scaled graph must draw the same picture as far as this, or is not taken
_TRIED_ON = 2  # pictures
_NO_EPSILON = 1e-30


def equalize(graph: Graph, pictures: Pictures) -> Graph:
    """Return `graph`, as it was captured, for eight bits (see `equalized`)."""
    return equalized(graph, pictures)[0]


def equalized(
    graph: Graph, pictures: Pictures, *, between: bool = True, reach: bool = True
) -> tuple[Graph, tuple[PassReport, ...]]:
    """Return `graph`, as it was captured, with BatchNorms folded and convolutions scaled; and how.

    Without `between` only those before InstanceNorms are scaled, at no cost in the weights. With
    `reach` channels before a norm are to reach equally far, else to deviate equally.
    """
    folded, reports = run_passes(graph, (FoldBatchNorm(), PlainOperators(), DropDeadBiases()))
    scaled, drawn = _before_norms(folded, pictures, reach=reach)
    if not _alike(folded, scaled, pictures, drawn):
        scaled = folded
    if between:
        scaled = equalize_channels(scaled, pictures)
    changed = scaled.nodes != folded.nodes
    report = PassReport("equalize", len(folded.nodes), len(scaled.nodes), changed)
    return scaled, (*reports, report)


def _before_norms(
    graph: Graph, pictures: Pictures, *, reach: bool
) -> tuple[Graph, list[FloatArray]]:
    """Return `graph` with every convolution before an InstanceNorm scaled.

    And what it draws unscaled, of as many pictures as were drawn on the way.
    """
    makers = {node.output: node for node in graph.nodes}
    scaled = {
        node.inputs[0]: node.op.epsilon
        for node in graph.nodes
        if isinstance(node.op, InstanceNorm)
        and graph.readers[node.inputs[0]] == 1
        and isinstance(makers.get(node.inputs[0], node).op, Conv2d | ConvTranspose2d)
    }
    drawn = list[FloatArray]()
    if not scaled:
        return graph, drawn
    # Deviations are of all pixels of a picture, and settle early.
    if reach:
        deviations, extremes = channel_reach(graph, scaled, pictures, 2, drawn)
    else:
        deviations, extremes = channel_deviations(graph, scaled, _every_second(pictures)), {}

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in deviations:
            return None
        deviation, epsilon = deviations[node.output], scaled[node.output]
        x, weight, *bias = node.inputs
        if reach:
            low, high = extremes[node.output]
            factor = _factors(deviation, epsilon, deviations_of_equal_reach(deviation, high - low))
            bias = [edit.constant(-(low + high) / 2 * factor, "bias")]
        else:
            factor = _factors(deviation, epsilon, np.ones_like(deviation))
        wide = edit.constant(edit.constants[weight] * factor[:, None, None, None], "weight")
        return edit.emit(node.op, x, wide, *bias)

    return rewrite(graph, visit), drawn


def _factors(deviation: _Float64, epsilon: float, wanted: _Float64) -> _Float64:
    """Return by how much to scale channels of `deviation` to that of `wanted`.

    They stand before a norm with `epsilon`: scaled by f, a channel's amplitude behind the norm
    changes by about epsilon * (1 - 1/f²) / (2 variance).
    """
    exact = np.where(deviation > STILL, wanted / np.maximum(deviation, STILL), 1.0)
    room = 2 * _SHOWING * np.square(deviation) / max(epsilon, _NO_EPSILON)
    most = np.where(room < 1, 1 / np.sqrt(np.maximum(1 - room, 1e-12)), np.inf)
    factors: _Float64 = np.clip(exact, 1 / np.sqrt(1 + room), most)
    return factors


def _alike(graph: Graph, scaled: Graph, pictures: Pictures, drawn: list[FloatArray]) -> bool:
    """Return whether `scaled` draws the pictures that `graph` does (`drawn`), but for rounding."""
    if scaled is graph:
        return True
    tried = pictures.values[:_TRIED_ON]
    ones = drawn[:_TRIED_ON] or [interpret(graph, picture) for picture in tried]
    low, high = spread_of(output_range(graph), ones)
    most = (high - low) ** 2 / 10 ** (_SAME_DB / 10)
    return all(
        float(np.mean(np.square(one - interpret(scaled, picture)))) <= most
        for one, picture in zip(ones, tried, strict=True)
    )


def _every_second(pictures: Pictures) -> Pictures:
    """Return half of `pictures`."""
    return Pictures(pictures.names[::2], pictures.values[::2])
