"""One session beside many earlier ones, where both sides could not be measured in turn.

A machine is not the same on another day, so launches of two days cannot be tested against each
other. What can be told is whether today's session lies where sessions like the earlier ones fall:
the prediction interval of one more session (Hahn and Meeker, 1991), on the logarithms of the
sessions' medians, with the spread between sessions as the noise. It needs at least
`SESSIONS_LEAST` of them, and finds less than launches in turn do.

Sessions from before a change (another exporter, another governor) would widen that spread, so
only those after the last change point count. Change points are looked for by PELT (Killick,
Fearnhead and Eckley, 2012) with an absolute-error cost, which one odd session does not mislead,
in the package `ruptures`. Where sessions are quiet it finds changes that nobody would report. One
below half the margin ends no history: left in, it moves the base by less than that. One of nearly
the whole margin would move it so far that an unchanged candidate is called slower.

On simulated unchanged histories of 20 to 40 sessions, normal or with heavy tails, a change is seen
in 1 to 7 % of them, and a step of twice the spread, with ten sessions after it, is found in eight
to ten of ten. What is called slower and is not: about one in twenty, and up to one in eight where
days remember each other (`benchmarks/study_history.py`); hence the re-run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from coronet_deploy.errors import BadInput, missing_package
from coronet_deploy.report.regression import Bounds, Shift

SESSIONS_LEAST = 10
"""The fewest sessions that can serve as the scale of noise."""
SESSIONS_MOST = 100
"""Older sessions of a network than that many are not looked at."""

_APART_LEAST = 5  # sessions between two change points
_PENALTY = 1.5  # of one more change point, in spreads and logarithms of the sessions
_LEAST_OF_MARGIN = 0.5  # a smaller change is none
_CONFIDENCE = 0.90
_EARLY_CONFIDENCE = 0.98
# A normal spread from the median of absolute differences between neighbours.
_FROM_NEIGHBOURS = 1.4826 / math.sqrt(2)


def least_change(margin: float) -> float:
    """Return the least change, a share, that ends a history which is judged with `margin`."""
    return _LEAST_OF_MARGIN * margin


def change_points(medians_ms: Sequence[float], margin: float = Bounds.margin) -> list[int]:
    """Return where sessions' medians change: the place of each first session after a change.

    A change below `least_change(margin)` is none.

    Raises:
        EnvironmentProblem: ruptures is not installed.

    """
    try:
        import ruptures
    except ImportError as error:
        raise missing_package("ruptures", "history") from error

    values = np.log(np.asarray(medians_ms))
    if values.size < 2 * _APART_LEAST:
        return []
    # Neighbours differ by the noise alone, but at the few changes.
    spread = _FROM_NEIGHBOURS * float(np.median(np.abs(np.diff(values))))
    if spread == 0:
        spread = float(np.finfo(np.float64).eps)
    search = ruptures.Pelt(model="l1", min_size=_APART_LEAST, jump=1)
    ends = search.fit((values / spread)[:, None]).predict(pen=_PENALTY * math.log(values.size))
    return _without_small(values, [int(end) for end in ends[:-1]], least_change(margin))


def _without_small(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], changes: list[int], least: float
) -> list[int]:
    """Return `changes` of logarithms without those below `least`, the smallest taken out first.

    Many small ones in a row may be a large one: what lies between is then joined until it is.
    """
    changes = list(changes)
    while changes:
        spans = itertools.pairwise([0, *changes, values.size])
        levels = [float(np.median(values[start:end])) for start, end in spans]
        sizes = [abs(after - before) for before, after in itertools.pairwise(levels)]
        if min(sizes) >= math.log1p(least):
            break
        del changes[sizes.index(min(sizes))]
    return changes


def compare_sessions(earlier_ms: Sequence[float], candidate_ms: Sequence[float]) -> Shift:
    """Return how the medians of the candidate's sessions compare with those of earlier ones.

    All are > 0; the candidate has one session, or two with its re-run. The shift counts sessions.

    Raises:
        BadInput: there are fewer than `SESSIONS_LEAST` earlier sessions.

    """
    if len(earlier_ms) < SESSIONS_LEAST:
        raise BadInput(
            f"{len(earlier_ms)} earlier sessions cannot serve as the scale of noise",
            hint=f"at least {SESSIONS_LEAST}",
        )
    earlier, candidate = np.log(np.asarray(earlier_ms)), np.log(np.asarray(candidate_ms))
    freedom = len(earlier) - 1
    error = float(earlier.std(ddof=1)) * math.sqrt(1 / len(earlier) + 1 / len(candidate))
    error = max(error, float(np.finfo(np.float64).eps))
    shift = float(candidate.mean() - earlier.mean())
    half, early_half = (
        error * student_quantile((1 + confidence) / 2, freedom)
        for confidence in (_CONFIDENCE, _EARLY_CONFIDENCE)
    )
    return Shift(
        ratio=math.exp(shift),
        low=math.exp(shift - half),
        high=math.exp(shift + half),
        early_low=math.exp(shift - early_half),
        early_high=math.exp(shift + early_half),
        p_slower=1 - student_cdf(shift / error, freedom),
        p_faster=student_cdf(shift / error, freedom),
        base=len(earlier),
        candidate=len(candidate),
    )


def student_cdf(t: float, freedom: int) -> float:
    """Return P(T <= t) of Student's t with a whole number of degrees of freedom.

    By the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(2 if odd else 1, freedom - 1, 2):
        term *= cosine * cosine * step / (step + 1)
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + math.copysign(within / 2, t)


def student_quantile(share: float, freedom: int) -> float:
    """Return the t below which `share` (0.5 to 1) of Student's t lies."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < share else (low, middle)
    return high
