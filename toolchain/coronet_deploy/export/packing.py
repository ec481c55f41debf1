"""Layers that compute in float with weights stored in int8.

What spoils a layer in eight bits is its activations more than its weights, so those that the
search leaves in float have their weights rounded all the same: the file stays a quarter. Small
ones are, the larger ones first, where the file would be much smaller for it and the picture stays
about within the budget.
"""

from __future__ import annotations

from collections.abc import Collection

from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.sensitivity import Trial, most

_HEAVY = 0.01  # of all weights
_FEW = 200  # weights that take less in float than their scales and an operator would
_MUCH = 0.04  # of a file
_SLACK_DB = 1.0  # the search leaves nothing of its budget


def packed_layers(trial: Trial, chosen: Collection[str], budget_db: float) -> frozenset[str]:
    """Return the layers to pack, by name, where those `chosen` compute in int8.

    `budget_db` is what the search kept.
    """
    graph = trial.graph
    sizes = {
        node.output: graph.constants[node.inputs[1]].size
        for node in graph.nodes
        if isinstance(node.op, Conv2d)
    }
    total = sum(sizes.values())
    left = [layer.name for layer in trial.layers if layer.name not in chosen]
    heavy = frozenset(name for name in left if sizes[name] >= _HEAVY * total)
    light = [name for name in left if _FEW <= sizes[name] < _HEAVY * total]
    if 3 * sum(sizes[name] for name in light) < _MUCH * total:
        return heavy
    light.sort(key=lambda name: sizes[name], reverse=True)

    budget = trial.mean_square_of(budget_db - _SLACK_DB)

    def fits(count: int) -> bool:
        return trial.keeps(chosen, budget, heavy.union(light[:count]))

    return heavy.union(light[: most(len(light), fits)])
