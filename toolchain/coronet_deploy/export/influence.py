"""What small errors inside a graph do to what it draws, of all places in one way back.

An error d of a value, small enough, moves the output by J d. With random signs v, of which each
output number has one, the gradient g of v . output is J^T v, and (g . d)^2 is on average |J d|^2
(Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"). The square of one
sum scatters by more than itself. But what happens in one part of a picture shows there and little
elsewhere, so that the sums of the parts can be squared apart: then two drawings of signs tell
errors to half a decibel, of values with few pixels, at the bottom of a U-Net, to some. One gradient
serves all values, where each would else be followed to the output by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.export.graph import INPUT, OUTPUT, FloatArray, Graph
from coronet_deploy.export.interpret import Walk

_DRAWINGS, _SEED = 2, 0
_PARTS = 16  # along each axis of a picture
_HELD = 1 << 26  # bytes of values between two places that are gone back to, at least
_MOST_PLACES = 8

Error = Callable[[Walk, Tensor], Tensor]
"""Of a walk that stands before a value, and the value as the walk makes it: what is added to it."""


def mean_squares_shown(
    graph: Graph,
    picture: FloatArray,
    names: Collection[str],
    error: Error,
    held: int = _HELD,
) -> dict[str, float]:
    """Return the mean square error of what `graph` draws of `picture`, by a value's error alone.

    `names` are the values, (1, H, W, C) each. Of values between two places that the way back begins
    anew from, about `held` bytes are kept at once; where there are such places, all but what is
    behind the last one is computed twice.
    """
    found: dict[str, float] = {}
    size = math.prod(graph.output_shape)
    signs = torch.Generator().manual_seed(_SEED)
    gradients = [
        {OUTPUT: 2.0 * torch.randint(0, 2, graph.output_shape, generator=signs) - 1}
        for _ in range(_DRAWINGS)
    ]
    places = _places(graph, picture, held)
    with torch.inference_mode(mode=False), torch.enable_grad():  # whatever the caller's mode is
        while places:  # a place that was gone back to holds on to nothing
            sums, gradients = _back(*places.pop(), names, error, gradients)
            found |= {name: total / _DRAWINGS / size for name, total in sums.items()}
    return found


def _back(
    walk: Walk,
    length: int,
    names: Collection[str],
    error: Error,
    gradients: list[dict[str, Tensor]],
) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    """Go `length` nodes on and back; return sums of squares shown, and gradients at the place.

    `gradients` are those behind the nodes, by the names of values. Sums are of all drawings.
    """
    before = [name for name in walk.values if name != INPUT]
    # Copies, for what is computed without a record cannot be part of one.
    walk.values |= {name: walk.values[name].clone().requires_grad_() for name in before}
    starts, errors = {name: walk.values[name] for name in before}, {}
    for node in walk.graph.nodes[walk.place : walk.place + length]:
        made = walk.compute(recorded=True)
        if node.output in names:
            with torch.inference_mode():
                errors[node.output] = error(walk, made)
            starts[node.output] = made if made.requires_grad else made.requires_grad_()
        walk.step(made)
    sums, found = dict.fromkeys(errors, 0.0), []
    for gradient in gradients:
        behind = _gradient(walk, starts, gradient)
        for name in errors.keys() & behind.keys():
            sums[name] += _parts_squared(errors[name] * behind[name])
        found.append({name: behind[name] for name in before if name in behind})
    return sums, found


def _places(graph: Graph, picture: FloatArray, held: int) -> list[tuple[Walk, int]]:
    """Return walks at places along the graph, each with the nodes to the next one."""
    walk, places = Walk(graph, picture, [OUTPUT]), []
    cuts = _cuts(graph, held)
    for start, stop in pairwise([*cuts, len(graph.nodes)]):
        places.append((walk.fork(), stop - start))
        if stop < len(graph.nodes):
            for _ in range(start, stop):
                walk.step(walk.compute())
    return places


def _cuts(graph: Graph, held: int) -> list[int]:
    """Return by how many nodes each place is from the start, the first by none.

    Of the places that are near enough to `held` bytes behind the one before, it is one at which
    least is alive: that is kept until it is gone back to.
    """
    passed, alive, unread, held_now = [0], [0], graph.readers.copy(), dict[str, int]()
    for node in graph.nodes:
        held_now[node.output] = 4 * math.prod(graph.shapes[node.output])
        passed.append(passed[-1] + held_now[node.output])
        for name in node.inputs:
            unread[name] -= 1
            if not unread[name]:
                held_now.pop(name, None)
        alive.append(sum(held_now.values()))
    held, cuts = max(held, passed[-1] // _MOST_PLACES), [0]
    least, most = held // 2, held + held // 2
    while passed[-1] - passed[cuts[-1]] > most and (
        behind := range(cuts[-1] + 1, len(graph.nodes))
    ):
        near = [n for n in behind if least <= passed[n] - passed[cuts[-1]] <= most]
        cuts.append(min(near or behind[:1], key=alive.__getitem__))
    return cuts


def _gradient(
    walk: Walk, starts: dict[str, Tensor], gradient: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return gradients with respect to `starts`, from those where `walk` stands; by name.

    What nothing of the output depends on has none, and no more has a number whose gradient is none
    (a root of zero has not).
    """
    recorded = {name for name, value in walk.values.items() if value.requires_grad}
    # In an order that is the same in every process, for sums are rounded by theirs.
    ends = [name for name in gradient if name in recorded]
    if not ends:
        return {}
    found = torch.autograd.grad(
        [walk.values[name] for name in ends],
        list(starts.values()),
        [gradient[name] for name in ends],
        retain_graph=True,
        allow_unused=True,
    )
    return {
        name: torch.nan_to_num(g, 0.0, 0.0, 0.0)
        for name, g in zip(starts, found, strict=True)
        if g is not None
    }


def _parts_squared(product: Tensor) -> float:
    """Return the sum of the squares of the sums of parts of (1, H, W, C)."""
    sums = product.sum(3)[0].double().numpy()
    for axis, lines in enumerate(sums.shape):
        begins = np.linspace(0, lines, min(_PARTS, lines), endpoint=False).astype(int)
        sums = np.add.reduceat(sums, begins, axis)
    return float(np.square(sums).sum())
