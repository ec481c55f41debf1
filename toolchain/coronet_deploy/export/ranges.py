"""The ranges of a graph's values on calibration pictures, and int8 numbers for them.

A range is chosen by error and not by extremes: of ranges shrunk step by step from the extremes,
the one whose rounding and clipping lose the least, by mean square, on the values seen. One stray
value then does not coarsen all others. A tenth is added for pictures that were not seen: it costs
0.8 dB of rounding, and on such pictures clipping cost 2 to 7 dB more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import FloatArray, Graph
from coronet_deploy.export.interpret import interpret_values

QMIN, QMAX = -128, 127
_SAMPLES = 1 << 16  # values kept a picture and tensor
_SHRINKS = tuple(np.linspace(1.0, 0.2, 41).tolist())
_ROUNDS = 2
_MARGIN = 1.1
_BINS = 4096

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """Real values that an int8 tensor can hold, 0 among them: low <= 0 <= high, low < high."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Real units a step."""
        return np.float32((self.high - self.low) / (QMAX - QMIN))

    @property
    def zero_point(self) -> int:
        """The int8 number that stands for 0, exactly."""
        return int(np.clip(round(QMIN - self.low / float(self.scale)), QMIN, QMAX))


def measure(
    graph: Graph, values: Iterable[str], pictures: Pictures, seed: int = 0
) -> dict[str, Range]:
    """Return the range of each of `values`, by name, on `pictures`, with the margin."""
    wanted = sorted(set(values))
    extremes = dict.fromkeys(wanted, (0.0, 0.0))
    samples: dict[str, list[FloatArray]] = {name: [] for name in wanted}
    rng = np.random.default_rng(seed)
    for picture in pictures.values:
        for name, value in sorted(interpret_values(graph, picture, wanted).items()):
            low, high = extremes[name]
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
            flat = value.reshape(-1)
            if flat.size > _SAMPLES:
                flat = flat[rng.integers(0, flat.size, _SAMPLES)]
            samples[name].append(flat.astype(np.float32))
    best = {name: best_range(np.concatenate(samples[name]), *extremes[name]) for name in wanted}
    return {name: Range(r.low * _MARGIN, r.high * _MARGIN) for name, r in best.items()}


def best_range(values: FloatArray, low: float, high: float) -> Range:
    """Return the part of [low, high] that holds `values` in int8 with the least mean square error.

    The ends shrink in turn, each to its best with the other where it is. Values that are all zero
    get the range [0, 1].
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < np.finfo(np.float32).tiny:
        return Range(0.0, 1.0)
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    centres, weights = (edges[1:] + edges[:-1]) / 2, counts / max(counts.sum(), 1)
    best = Range(low, high)
    for _ in range(_ROUNDS):
        lows = [Range(low * shrink, best.high) for shrink in _SHRINKS]
        best = min(lows, key=lambda r: _error(r, centres, weights))
        highs = [Range(best.low, high * shrink) for shrink in _SHRINKS]
        best = min(highs, key=lambda r: _error(r, centres, weights))
    return best


def _error(r: Range, values: _Float64, weights: _Float64) -> float:
    scale = float(r.scale)
    # Rounding costs scale²/12 wherever nothing is clipped; bins are too coarse to show that.
    clipped = np.clip(values, r.low, r.high) - values
    return float(np.sum(weights * np.square(clipped))) + scale**2 / 12


def channel_deviations(
    graph: Graph, values: Iterable[str], pictures: Pictures
) -> Mapping[str, _Float64]:
    """Return the standard deviation of each channel of `values`, (C,), averaged over `pictures`."""
    wanted = sorted(set(values))
    sums: dict[str, _Float64] = {}
    for picture in pictures.values:
        for name, value in interpret_values(graph, picture, wanted).items():
            spread = value.astype(np.float64).std(axis=(0, 1, 2))
            sums[name] = sums.get(name, 0.0) + spread / len(pictures)
    return sums
