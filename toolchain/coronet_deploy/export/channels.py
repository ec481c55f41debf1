"""Channels of like size between convolutions, so that one integer range serves them all.

ReLUs, leaky ReLUs and what only moves values let a positive factor through, so a convolution may
make a channel larger if all convolutions that read it take it back ("cross-layer equalisation",
Nagel et al. 2019, arXiv 1906.04721). With the sizes measured on pictures, each channel is scaled to
like size: a U-Net in eight bits throughout then lost 2 dB less, and never much more than that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from coronet_deploy.export import operators as ops
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import Edit, Graph, Node, rewrite
from coronet_deploy.export.interpret import interpret_values
from coronet_deploy.ranges import equal_sizes

_CONVOLUTIONS = ops.Conv2d | ops.ConvTranspose2d
_LETTING_THROUGH = ops.Relu | ops.LeakyRelu | ops.ZeroPad | ops.ReflectPad
_CHANNEL = 3

_Float64 = npt.NDArray[np.float64]


def equalize_channels(graph: Graph, pictures: Pictures) -> Graph:
    """Return `graph`, its BatchNorms folded, with every such convolution scaled."""
    scalable = _scalable(graph)
    if not scalable:
        return graph
    factors = {name: equal_sizes(size) for name, size in _sizes(graph, scalable, pictures).items()}
    # How much larger each channel of a value is than it was; None if nothing changed.
    larger: dict[str, _Float64] = {}

    def visit(edit: Edit, node: Node) -> str | None:
        by = [larger.get(name) for name in node.inputs]
        if isinstance(node.op, _CONVOLUTIONS):
            return _scaled(edit, node, by[0], factors.get(node.output), larger)
        if isinstance(node.op, ops.Concat) and any(factor is not None for factor in by):
            parts = [
                np.ones(edit.shapes[name][_CHANNEL]) if factor is None else factor
                for name, factor in zip(node.inputs, by, strict=True)
            ]
            larger[node.output] = np.concatenate(parts)
        elif isinstance(node.op, _LETTING_THROUGH) and by[0] is not None:
            larger[node.output] = by[0]
        return None

    return rewrite(graph, visit)


def _scaled(
    edit: Edit,
    node: Node,
    taken: _Float64 | None,
    given: _Float64 | None,
    larger: dict[str, _Float64],
) -> str | None:
    """Return the convolution that takes the factors of its input back and gives its own."""
    if taken is None and given is None:
        return None
    x, weight, *bias = node.inputs
    kernel = edit.constants[weight].astype(np.float64)
    if taken is not None:
        kernel = kernel / taken
    if given is not None:
        kernel = kernel * given[:, None, None, None]
        bias = [edit.constant(edit.constants[name] * given, "bias") for name in bias]
        larger[node.output] = given
    return edit.emit(node.op, x, edit.constant(kernel, "weight"), *bias)


def _scalable(graph: Graph) -> frozenset[str]:
    """Return the convolutions whose every reader, behind what lets through, is a convolution."""
    closed: dict[str, bool] = {}
    for node in reversed(graph.nodes):
        through = isinstance(node.op, _LETTING_THROUGH) or (
            isinstance(node.op, ops.Concat) and node.op.axis == _CHANNEL
        )
        own = closed.get(node.output, False) if through else isinstance(node.op, _CONVOLUTIONS)
        for name in node.inputs:
            closed[name] = closed.get(name, True) and own
    return frozenset(
        node.output
        for node in graph.nodes
        if isinstance(node.op, _CONVOLUTIONS) and closed.get(node.output, False)
    )


def _sizes(graph: Graph, names: frozenset[str], pictures: Pictures) -> Mapping[str, _Float64]:
    """Return the largest magnitude of each channel, (C,), averaged over the pictures."""
    sizes: dict[str, _Float64] = {}

    def look(name: str, value: Tensor) -> Tensor:
        if name in names:
            largest = value.abs().amax((0, 1, 2)).double().numpy()
            sizes[name] = sizes.get(name, 0.0) + largest / len(pictures)
        return value

    for picture in pictures.values:
        interpret_values(graph, picture, (), alter=look)
    return sizes
