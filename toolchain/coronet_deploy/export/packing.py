"""Layers that compute in float with weights stored in int8.

What spoils a layer in eight bits is its activations more than its weights, so those that the
search leaves in float have their weights rounded all the same: the file stays a quarter. Small
ones are, the larger ones first, where the file would be much smaller for it and the picture stays
about within the budget.
"""

from __future__ import annotations

from collections.abc import Collection

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.outputs import PICTURE, ValueRange
from coronet_deploy.export.sensitivity import Ranges, Trial, int8_layers, most

_HEAVY = 0.01  # of all weights
_FEW = 200  # weights that take less in float than their scales and an operator would
_MUCH = 0.04  # of a file
_SLACK_DB = 1.0  # the search leaves nothing of its budget


def packed_layers(
    graph: Graph,
    chosen: Collection[str],
    pictures: Pictures,
    ranges: Ranges,
    budget_db: float,
    value_range: ValueRange | None = PICTURE,
) -> frozenset[str]:
    """Return the layers to pack, by name, where those `chosen` compute in int8.

    `pictures` are (1, H, W, C) real values in [-1, 1]; `budget_db` is what the search kept,
    against `value_range` as there.
    """
    sizes = {
        node.output: graph.constants[node.inputs[1]].size
        for node in graph.nodes
        if isinstance(node.op, Conv2d)
    }
    total = sum(sizes.values())
    left = [layer.name for layer in int8_layers(graph) if layer.name not in chosen]
    heavy = frozenset(name for name in left if sizes[name] >= _HEAVY * total)
    light = [name for name in left if _FEW <= sizes[name] < _HEAVY * total]
    if 3 * sum(sizes[name] for name in light) < _MUCH * total:
        return heavy
    light.sort(key=lambda name: sizes[name], reverse=True)

    trial = Trial(graph, pictures, ranges, value_range)
    budget = trial.mean_square_of(budget_db - _SLACK_DB)

    def fits(count: int) -> bool:
        return trial.keeps(chosen, budget, heavy.union(light[:count]))

    return heavy.union(light[: most(len(light), fits)])
