"""The multiply-adds of a captured graph, in both conventions (see `networks.cost`).

A channel plan tells the same without a graph; this is for networks that have no plan.
"""

from __future__ import annotations

import math

from coronet_deploy.export.graph import Graph, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Conv2d, ConvTranspose2d, DepthwiseConv2d
from coronet_deploy.export.products import MatMul


def node_macs(graph: Graph, node: Node, *, published: bool = False) -> int:
    """Return the multiply-adds of one node: those of convolutions and of matrices, else 0."""
    if isinstance(node.op, MatMul):
        return math.prod(graph.shapes[node.inputs[0]]) * graph.shapes[node.output][3]
    if not isinstance(node.op, Conv2d | GroupedConv2d | ConvTranspose2d | DepthwiseConv2d):
        return 0
    weight, output = graph.shapes[node.inputs[1]], graph.shapes[node.output]
    by_input = isinstance(node.op, ConvTranspose2d) and not published
    picture = graph.shapes[node.inputs[0]] if by_input else output
    # OHWI holds all products of a pixel, a depthwise 1HWO too.
    return math.prod(picture[1:3]) * math.prod(weight)


def graph_macs(graph: Graph, *, published: bool = False) -> int:
    """Return the multiply-adds of one picture, real ones unless `published`."""
    return sum(node_macs(graph, node, published=published) for node in graph.nodes)
