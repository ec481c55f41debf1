"""Faster, the same, slower, or not enough to say: the statistics of one comparison.

The launch is the unit. Samples of one process share their luck: pooled, they look like many
independent figures and call every second rerun of one file a regression. So the two series
compared here are medians of launches, made in turn (base, candidate, candidate, base, ...).

The test is the permutation test on the ranks of those medians (Mann and Whitney, 1947), exact up to
200 launches a side: its distribution is counted, not sampled. Ranks rather than the medians
themselves, because one launch that met a busy moment would else hide any difference: a test on the
logarithms of the medians gains 2 points of power at +5 % where launches are well behaved, and loses
over 20 where one in twenty is disturbed. Its inversion gives the ratio (Hodges and Lehmann, 1963)
and an interval that covers what it says with few launches too, which a percentile bootstrap of so
few does not.

What the verdicts promise was simulated; `benchmarks/study_verdict.py` prints the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from statistics import NormalDist

import numpy as np

from coronet_deploy.errors import BadInput

LAUNCHES_LEAST = 4
"""Below, no outcome is significant at 5 % and leaves room for a second row: 1/C(6, 3) is 5 %."""

_CONFIDENCE = 0.90
# A row is settled early at this confidence only: two looks, 1 % and 5 %, at a wrong `same`.
_EARLY_CONFIDENCE = 0.98
# Pairs of launches. With more, the counts' rounding errors grow; at so many they are 1e-9 of a p.
_COUNTED_MOST = 200 * 200


class Verdict(StrEnum):
    """What a comparison says of the candidate."""

    FASTER = "faster"
    SAME = "same"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


@dataclass(frozen=True)
class Bounds:
    """What counts as a change.

    One below `margin` (a share: 0.025 is 2.5 %) is never called slower or faster; `same` means
    that a change of `resolution` is excluded. `alpha` is the chance of calling any row slower
    that is not. A verdict `same` needs less noise than `slower`, hence two bounds: with one of
    2.5 % for both, most comparisons of a file with itself would end inconclusive on a phone.
    """

    margin: float = 0.025
    resolution: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.margin < self.resolution < math.inf:
            raise BadInput(
                f"the margin, {self.margin:.1%}, must be at least 0 and below the resolution, "
                f"{self.resolution:.1%}"
            )


@dataclass(frozen=True)
class Shift:
    """How much slower the candidate's launches are, with one row's evidence.

    `ratio` is candidate over base, `low` to `high` its 90 % interval (0 to infinity where so few
    launches cannot bound it), `early_low` to `early_high` that of 98 %. `p_slower` and `p_faster`
    are one-sided, for no difference. `base` and `candidate` count launches.
    """

    ratio: float
    low: float
    high: float
    early_low: float
    early_high: float
    p_slower: float
    p_faster: float
    base: int
    candidate: int


@dataclass(frozen=True)
class Look:
    """What is known of a row: `shift` of all its launches, and the ratio of the re-run alone.

    `rerun_ratio` is None where there was no re-run.
    """

    shift: Shift
    rerun_ratio: float | None = None


def too_few(launches: int) -> str:
    """Return why so few launches a side are not compared."""
    what = "launch" if launches == 1 else "launches"
    return f"{launches} {what} a side cannot tell a change from noise"


def is_counted(base: int, candidate: int) -> bool:
    """Tell whether the test of so many launches is exact."""
    return base * candidate <= _COUNTED_MOST


def compare_launches(base_ms: Sequence[float], candidate_ms: Sequence[float]) -> Shift:
    """Return how the launch medians `candidate_ms` compare with `base_ms` (both > 0).

    Raises:
        BadInput: a side has fewer than `LAUNCHES_LEAST` launches.

    """
    fewest = min(len(base_ms), len(candidate_ms))
    if fewest < LAUNCHES_LEAST:
        raise BadInput(too_few(fewest), hint=f"at least {LAUNCHES_LEAST}")
    base, candidate = np.log(np.asarray(base_ms)), np.log(np.asarray(candidate_ms))
    differences = np.sort((candidate[:, None] - base).ravel())
    tail = _rank_sum_tail(len(base), len(candidate))
    # A tie counts half; rounding the statistic down makes p larger, never smaller.
    ties = int(np.sum(differences == 0))
    slower = int(np.sum(differences > 0)) + ties // 2
    faster = int(np.sum(differences < 0)) + ties // 2
    low, high = _interval(differences, tail, _CONFIDENCE)
    early_low, early_high = _interval(differences, tail, _EARLY_CONFIDENCE)
    return Shift(
        ratio=float(np.exp(np.median(differences))),
        low=low,
        high=high,
        early_low=early_low,
        early_high=early_high,
        p_slower=tail[slower],
        p_faster=tail[faster],
        base=len(base),
        candidate=len(candidate),
    )


def ratio_of(base_ms: Sequence[float], candidate_ms: Sequence[float]) -> float:
    """Return candidate over base: the median of all ratios of their launches."""
    base, candidate = np.log(np.asarray(base_ms)), np.log(np.asarray(candidate_ms))
    return float(np.exp(np.median(candidate[:, None] - base)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return `p_values` adjusted for being several (Holm, 1979), in the same order.

    Rejecting where the adjusted value is below alpha keeps the chance of any wrong rejection
    below alpha, however the rows depend on each other.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def settled(shift: Shift, bounds: Bounds) -> bool:
    """Tell whether a first measurement is already enough to call the row `same`.

    Only `same` may end a row early. A row is called slower or faster on all launches that it may
    have, so that looking twice cannot raise the chance of a false alarm.
    """
    return _within(shift.early_low, shift.early_high, bounds)


def decide(looks: Sequence[Look], bounds: Bounds) -> list[Verdict]:
    """Return each row's verdict, of the rows that are judged together.

    `slower`: Holm-adjusted p < alpha, the ratio is above 1 + margin, and the re-run alone, if
    there was one, is slower too. `faster` mirrors it. `same`: not that, and the interval excludes
    a change of `resolution` both ways. Else `inconclusive`.
    """
    slower = holm([look.shift.p_slower for look in looks])
    faster = holm([look.shift.p_faster for look in looks])
    return [
        _decide(look, p_slower, p_faster, bounds)
        for look, p_slower, p_faster in zip(looks, slower, faster, strict=True)
    ]


def launches_to_decide(shift: Shift, rows: int, bounds: Bounds) -> int | None:
    """Return about how many launches a side would decide, if the ratio stays what it is.

    The interval narrows with the square root of the launches. None where it cannot be told.
    """
    now = min(shift.base, shift.candidate)
    half = math.log(shift.high / shift.low) / 2 if shift.low > 0 else math.inf
    if not math.isfinite(half):
        return None
    change = abs(math.log(shift.ratio))
    normal = NormalDist()
    error = half / normal.inv_cdf((1 + _CONFIDENCE) / 2)
    needed = []
    if change > math.log1p(bounds.margin):
        # Fewer could not tell it of so many rows, however far apart the sides are.
        least = next(n for n in itertools.count(now) if rows < bounds.alpha * math.comb(2 * n, n))
        told = now * (normal.inv_cdf(1 - bounds.alpha / rows) * error / change) ** 2
        needed.append(max(told, least))
    if change < math.log1p(bounds.resolution):
        needed.append(now * (half / (math.log1p(bounds.resolution) - change)) ** 2)
    return max(now + 1, math.ceil(min(needed))) if needed else None


def _decide(look: Look, p_slower: float, p_faster: float, bounds: Bounds) -> Verdict:
    shift, margin, rerun = look.shift, 1 + bounds.margin, look.rerun_ratio
    if p_slower < bounds.alpha and shift.ratio > margin:
        return Verdict.SLOWER if rerun is None or rerun > 1 else Verdict.INCONCLUSIVE
    if p_faster < bounds.alpha and shift.ratio < 1 / margin:
        return Verdict.FASTER if rerun is None or rerun < 1 else Verdict.INCONCLUSIVE
    return Verdict.SAME if _within(shift.low, shift.high, bounds) else Verdict.INCONCLUSIVE


def _within(low: float, high: float, bounds: Bounds) -> bool:
    return 1 / (1 + bounds.resolution) < low and high < 1 + bounds.resolution


def _interval(
    differences: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    tail: Sequence[float],
    confidence: float,
) -> tuple[float, float]:
    """Return the ratios that the test does not reject; `differences` of logarithms, sorted."""
    rejected = sum(p <= (1 - confidence) / 2 for p in tail)
    if rejected == 0:
        return 0.0, math.inf
    return float(np.exp(differences[rejected - 1])), float(np.exp(differences[-rejected]))


@cache
def _rank_sum_tail(base: int, candidate: int) -> tuple[float, ...]:
    """Return P(U >= u) for u = 0 ... base * candidate, if the two sides are exchangeable.

    U counts the pairs in which the candidate is slower. With more than can be counted, it is taken
    for normal.
    """
    if not is_counted(base, candidate):
        spread = math.sqrt(base * candidate * (base + candidate + 1) / 12)
        normal = NormalDist(base * candidate / 2, spread)
        return tuple(1 - normal.cdf(u - 0.5) for u in range(base * candidate + 1))
    counts = _splits(base, candidate)
    return tuple(float(p) for p in np.cumsum(counts[::-1])[::-1] / counts.sum())


def _splits(base: int, candidate: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return in how many splits of all launches into the two sides U is 0 ... base * candidate.

    They are the coefficients of the Gaussian binomial, the product of (1 - q^(many + i)) /
    (1 - q^i) for i = 1 ... few (MacMahon, 1915). Each factor leaves the same read backwards.
    """
    few, many = sorted((base, candidate))
    counts = np.ones(1)
    for i in range(1, few + 1):
        size = many * i // 2 + 1
        half = np.zeros(-(-size // i) * i)
        known = counts[:size]
        half[: known.size] = known
        half[many + i : size] -= counts[: max(0, size - many - i)]
        half = half.reshape(-1, i).cumsum(axis=0).ravel()[:size]
        counts = np.concatenate([half, half[: many * i + 1 - size][::-1]])
    return counts
