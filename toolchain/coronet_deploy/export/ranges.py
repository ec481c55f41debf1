"""What a graph's values are on calibration pictures: their ranges, and their channels' sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import INPUT, OUTPUT, FloatArray, Graph
from coronet_deploy.export.interpret import interpret_values
from coronet_deploy.ranges import MARGIN, Range, Seen, fitted

_Float64 = npt.NDArray[np.float64]


def observe(
    graph: Graph,
    values: Iterable[str],
    pictures: Pictures,
    seed: int = 0,
    drawn: list[FloatArray] | None = None,
) -> dict[str, Seen]:
    """Return what each of `values`, by name, is on `pictures`; add to `drawn` what they become.

    Raises:
        ConversionFailed: one of them is not finite; names it and the picture.

    """
    wanted = set(values)
    seen: dict[str, list[Seen]] = {name: [] for name in sorted(wanted)}
    rng = np.random.default_rng(seed)
    name_of_picture = ""

    def look(name: str, value: Tensor) -> Tensor:
        if name in wanted:
            seen[name].append(_seen(name, value.numpy(), name_of_picture, rng))
        if name == OUTPUT and drawn is not None:
            drawn.append(value.numpy())
        return value

    for name_of_picture, picture in zip(pictures.names, pictures.values, strict=True):
        if INPUT in wanted:
            seen[INPUT].append(_seen(INPUT, picture, name_of_picture, rng))
        # Looked at on the way, so that no more than the graph needs is held at once.
        interpret_values(graph, picture, (), alter=look)
    return {name: functools.reduce(Seen.joined, parts) for name, parts in seen.items()}


def _seen(name: str, value: FloatArray, picture: str, rng: np.random.Generator) -> Seen:
    seen = Seen.of(value, rng)
    if not (math.isfinite(seen.low) and math.isfinite(seen.high)):
        raise ConversionFailed(
            f"calibration picture {picture} gives values that are not finite at {name}",
            hint="look at the weights, and at the picture",
        )
    return seen


def measure(
    graph: Graph,
    values: Iterable[str],
    pictures: Pictures,
    seed: int = 0,
    margin: float = MARGIN,
    drawn: list[FloatArray] | None = None,
) -> dict[str, Range]:
    """Return the range of each of `values`, by name, on `pictures`, `margin` times the best one.

    What the pictures become is added to `drawn`.

    Raises:
        ConversionFailed: a value is not finite on a picture.

    """
    return {
        name: fitted(one, margin=margin)
        for name, one in observe(graph, values, pictures, seed, drawn).items()
    }


_PIXELS = (0, 1, 2)  # of (1, H, W, C)

Extremes = tuple[_Float64, _Float64]
"""The least and the largest number of each channel, (C,) both."""


def channel_deviations(
    graph: Graph, values: Iterable[str], pictures: Pictures
) -> Mapping[str, _Float64]:
    """Return the standard deviation of each channel of `values`, (C,), averaged over `pictures`."""
    wanted = set(values)
    sums: dict[str, _Float64] = {}

    def look(name: str, value: Tensor) -> Tensor:
        if name in wanted:
            sums[name] = sums.get(name, 0.0) + _deviation(value) / len(pictures)
        return value

    for picture in pictures.values:
        interpret_values(graph, picture, (), alter=look)
    return sums


def channel_extremes(
    graph: Graph, values: Iterable[str], pictures: Pictures
) -> Mapping[str, Extremes]:
    """Return how far each channel of `values` reaches on `pictures`."""
    return channel_reach(graph, values, pictures, every=0)[1]


def channel_reach(
    graph: Graph,
    values: Iterable[str],
    pictures: Pictures,
    every: int,
    drawn: list[FloatArray] | None = None,
) -> tuple[Mapping[str, _Float64], Mapping[str, Extremes]]:
    """Return `channel_deviations` of the first and each `every`-th picture on, and the extremes.

    Extremes are of all pictures; the graph is computed once for both, and what it makes of them is
    added to `drawn`. With 0 no deviations are measured.
    """
    wanted = set(values)
    sums: dict[str, _Float64] = {}
    found: dict[str, Extremes] = {}
    measured = range(0, len(pictures), every) if every else range(0)
    place = 0

    def look(name: str, value: Tensor) -> Tensor:
        if name in wanted:
            # A tenth of torch.aminmax's time in this layout.
            low, high = (
                ends.double().numpy() for ends in (value.amin(_PIXELS), value.amax(_PIXELS))
            )
            least, largest = found.get(name, (low, high))
            found[name] = np.minimum(least, low), np.maximum(largest, high)
            if place in measured:
                sums[name] = sums.get(name, 0.0) + _deviation(value) / len(measured)
        if name == OUTPUT and drawn is not None:
            drawn.append(value.numpy())
        return value

    for place in range(len(pictures)):
        interpret_values(graph, pictures.values[place], (), alter=look)
    return sums, found


def _deviation(value: Tensor) -> _Float64:
    # A tenth of torch.std's time in this layout.
    centred = value - value.mean(_PIXELS, keepdim=True)
    spread: _Float64 = centred.square_().mean(_PIXELS).double().sqrt().numpy()
    return spread
