"""Ranges of real values, and int8 numbers for them.

A range is chosen by error and not by extremes: of ranges shrunk step by step from the extremes,
the one whose rounding and clipping lose the least, by mean square, on the values seen. One stray
value then does not coarsen all others. Room is added for pictures that were not seen, whose values
reach further: in INT8 half as much again, by which the pictures that clip most gain 7 to 8 dB, and
the median one loses a decibel to rounding. A ResNet's reach furthest, and have more room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QMIN, QMAX = -128, 127
MARGIN, RESNET_MARGIN = 1.5, 1.8
"""By how much a range is wider than the best one for what was seen, where convolutions round."""

FULL_UNET_MARGIN, FULL_RESNET_MARGIN = 1.1, 1.45
"""The same where every operator rounds: less.

A U-Net, whose pictures are label maps, loses more pictures to rounding than to clipping. A ResNet's
norms make a small subject before a plain background reach twice as far as anything calibrated on.
"""

_SAMPLES = 1 << 16  # values kept a picture and tensor
_SHRINKS = tuple(np.linspace(1.0, 0.2, 41).tolist())
_ROUNDS = 2
_BINS = 4096
_LEAST_SPREAD = _BINS * float(np.finfo(np.float32).tiny)  # whose bins float32 can tell apart
_SETTLINGS = np.linspace(0.95, 1.05, 21)
_POWER = 0.5
_SILENT = 1e-3  # of the largest channel
STILL = 1e-3
"""A channel that deviates less than this is all but constant."""

FloatArray = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]

Transfer = Callable[[_Float64], _Float64]


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


@dataclass(frozen=True)
class Seen:
    """What one value was on the calibration pictures: its extremes, 0 among them, and samples."""

    low: float
    high: float
    samples: FloatArray

    def joined(self, other: Seen) -> Seen:
        """Return what two values were that share one range."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Seen(low, high, np.concatenate([self.samples, other.samples]))

    @classmethod
    def of(cls, values: FloatArray, rng: np.random.Generator) -> Seen:
        """Return what is seen of one tensor's values."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if flat.size > _SAMPLES:
            flat = flat[rng.integers(0, flat.size, _SAMPLES)]
        return cls(min(low, 0.0), max(high, 0.0), flat.astype(np.float32))


def fitted(seen: Seen, through: Transfer | None = None, margin: float = MARGIN) -> Range:
    """Return the range for what was seen: the best one, times `margin`, and then settled.

    Settled: of ranges a few per cent apart, the one on whose steps the values lie best. On flat
    pictures, such as label maps, values are few, and that is worth up to 3 dB.
    """
    if seen.high - seen.low < _LEAST_SPREAD:
        return best_range(seen.samples, seen.low, seen.high, through)
    values, weights = _histogram(seen.samples, seen.low, seen.high)
    best = _best_of(values, weights, seen.low, seen.high, through)
    r = Range(best.low * margin, best.high * margin)
    exact = through(values) if through else values

    def error(r: Range) -> float:
        scale, zero = float(r.scale), r.zero_point
        stored = (np.clip(np.rint(values / scale) + zero, QMIN, QMAX) - zero) * scale
        lost = (through(stored) if through else stored) - exact
        return float(np.sum(weights * np.square(lost)))

    for _ in range(_ROUNDS):
        r = min((Range(low, r.high) for low in _SETTLINGS * r.low), key=error)
        r = min((Range(r.low, high) for high in _SETTLINGS * r.high), key=error)
    return r


def best_range(
    values: FloatArray, low: float, high: float, through: Transfer | None = None
) -> Range:
    """Return the part of [low, high] that holds `values` in int8 with the least mean square error.

    The ends shrink in turn, each to its best with the other where it is. Values that are all zero,
    or too near it for float32, get the range [0, 1]. `through` is what becomes of the values, if
    the error that counts is that of its result: behind a tanh, saturated values may be clipped.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _LEAST_SPREAD:
        return Range(0.0, 1.0)
    return _best_of(*_histogram(values, low, high), low, high, through)


def _best_of(
    centres: _Float64, weights: _Float64, low: float, high: float, through: Transfer | None
) -> Range:
    """Return the `best_range` of the values of a `_histogram`."""
    slope, exact = 1.0, centres
    if through is not None:
        exact, width = through(centres), (high - low) / _BINS
        slopes = (through(centres + width / 2) - through(centres - width / 2)) / width
        slope = float(np.sum(weights * np.square(slopes)))

    def error(r: Range) -> float:
        # Rounding costs scale²/12 wherever nothing is clipped; bins are too coarse to show that.
        clipped = np.clip(centres, r.low, r.high)
        lost = (through(clipped) if through else clipped) - exact
        return float(np.sum(weights * np.square(lost))) + slope * float(r.scale) ** 2 / 12

    best = Range(low, high)
    for _ in range(_ROUNDS):
        best = min((Range(low * shrink, best.high) for shrink in _SHRINKS), key=error)
        best = min((Range(best.low, high * shrink) for shrink in _SHRINKS), key=error)
    return best


def _histogram(values: FloatArray, low: float, high: float) -> tuple[_Float64, _Float64]:
    """Return the middles of bins between `low` and `high`, and the share of values in each."""
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    return (edges[1:] + edges[:-1]) / 2, counts / max(counts.sum(), 1)


def deviations_of_equal_reach(deviation: _Float64, reach: _Float64) -> _Float64:
    """Return which deviations channels of `deviation` are to have, (C,), that reach equally far.

    They are around 1, and no more: a channel that reaches less far for its deviation than most has
    room left, for on a picture that was not seen it may be the one that reaches furthest. Where
    nothing deviates, all are 1.
    """
    share = deviation / np.maximum(reach, np.finfo(np.float32).tiny)
    counted = share[deviation > STILL]
    return np.minimum(share / np.median(counted), 1.0) if counted.size else np.ones_like(share)


def equal_sizes(sizes: _Float64) -> _Float64:
    """Return by how much to scale channels whose largest magnitudes are `sizes`, (C,), half-way.

    More than half-way to equal sizes is paid for in the rounding of the weights that take it back.
    A channel that is all but silent is not blown up further.
    """
    largest = float(sizes.max())
    if largest <= 0:
        return np.ones_like(sizes)
    factors: _Float64 = np.maximum(sizes, _SILENT * largest) ** -_POWER
    return factors
