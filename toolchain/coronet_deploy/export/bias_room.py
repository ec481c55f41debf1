"""Room for biases in the 32 bits that an int8 convolution stores them in.

A bias is stored in units of the input's scale times its channel's weight scale. A channel of
weights near zero (a BatchNorm that learnt to silence it) has a unit so small that its bias takes
more than 32 bits. One weight of such a channel is raised until the unit is large enough, which
every writer and the simulation then find in the weights: it moves the channel by 2^-16 of its bias,
far below a step of what comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Graph, Node, rewrite
from coronet_deploy.export.sensitivity import int8_layers
from coronet_deploy.ranges import QMAX, Range

_MOST_BIAS = 2**30  # half of what 32 bits hold; the products take the rest


def with_room_for_biases(
    graph: Graph, chosen: Collection[str], ranges: Mapping[str, Range]
) -> Graph:
    """Return `graph`, in which the biases of the layers `chosen` fit their 32 bits.

    `ranges` has what each of them reads, by name.
    """
    sources = {layer.name: layer.source for layer in int8_layers(graph)}

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in chosen or len(node.inputs) < 3:  # noqa: PLR2004 - x, weight, bias
            return None
        x, weight, bias = node.inputs
        scale = float(ranges[sources[node.output]].scale)
        raised = _raised(edit.constants[weight], edit.constants[bias], scale)
        if raised is None:
            return None
        return edit.emit(node.op, x, edit.constant(raised, "weight"), bias)

    return rewrite(graph, visit)


def _raised(weight: FloatArray, bias: FloatArray, source_scale: float) -> FloatArray | None:
    """Return OHWI weights, one raised in each channel that has no room; None if all have."""
    flat = weight.reshape(len(weight), -1)
    least = np.abs(bias.astype(np.float64)) * QMAX / (source_scale * _MOST_BIAS)
    largest = np.argmax(np.abs(flat), axis=1)
    channels = np.flatnonzero(np.abs(flat[np.arange(len(flat)), largest]) < least)
    if not channels.size:
        return None
    raised = flat.copy()
    places = channels, largest[channels]
    raised[places] = np.copysign(least[channels], flat[places])
    return raised.reshape(weight.shape)
