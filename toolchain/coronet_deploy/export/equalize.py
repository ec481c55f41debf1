"""Channels of like size before an InstanceNorm, so that one int8 range serves them all.

An InstanceNorm divides each channel by its own deviation, so a convolution before it may be
scaled channel by channel for free (but for the norm's epsilon, which the scale meets). With the
deviations measured on pictures, each channel is scaled to deviation 1. Convolutions that other
convolutions read are `channels`' affair.
"""

from __future__ import annotations

import numpy as np

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.channels import equalize_channels
from coronet_deploy.export.graph import Edit, Graph, Node, rewrite
from coronet_deploy.export.operators import Conv2d, ConvTranspose2d, InstanceNorm
from coronet_deploy.export.passes import run_passes
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.ranges import channel_deviations

_LEAST = 1e-3  # a channel that is all but constant is left as it is


def equalize(graph: Graph, pictures: Pictures, *, between: bool = True) -> Graph:
    """Return `graph`, as it was captured, with its convolutions scaled and BatchNorms folded.

    Without `between` only those before InstanceNorms are scaled, at no cost in the weights.
    """
    folded, _ = run_passes(graph, (FoldBatchNorm(),))
    scaled = _before_norms(folded, pictures)
    return equalize_channels(scaled, pictures) if between else scaled


def _before_norms(graph: Graph, pictures: Pictures) -> Graph:
    """Return `graph` with every convolution before an InstanceNorm scaled."""
    makers = {node.output: node for node in graph.nodes}
    scaled = [
        node.inputs[0]
        for node in graph.nodes
        if isinstance(node.op, InstanceNorm)
        and graph.readers[node.inputs[0]] == 1
        and isinstance(makers.get(node.inputs[0], node).op, Conv2d | ConvTranspose2d)
    ]
    deviations = channel_deviations(graph, scaled, _every_second(pictures)) if scaled else {}

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in deviations:
            return None
        deviation = deviations[node.output]
        factor = np.where(deviation > _LEAST, 1 / np.maximum(deviation, _LEAST), 1.0)
        x, weight, *bias = node.inputs
        inputs = [x, edit.constant(edit.constants[weight] * factor[:, None, None, None], "weight")]
        inputs += [edit.constant(edit.constants[name] * factor, "bias") for name in bias]
        return edit.emit(node.op, *inputs)

    return rewrite(graph, visit)


def _every_second(pictures: Pictures) -> Pictures:
    """Return half of `pictures`: deviations are of all their pixels, and settle early."""
    return Pictures(pictures.names[::2], pictures.values[::2])
