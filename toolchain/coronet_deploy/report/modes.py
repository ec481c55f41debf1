"""Whether a history goes to and fro between two levels.

Threads may land on one of two kinds of core, say: the spread between sessions is then no noise that
more of them would average away.

Sessions have two modes where a gap parts them that is a large part of the distance between both
sides' medians (0.75 of ten sessions, 0.6 of twenty, 0.53 of forty), three or more are on each side,
and the sides take turns; a single step is none, but a change (`sessions.change_points`). Of
simulated histories of one mode, normal, even, with heavy tails or remembering the day before, 0 to
1.6 % are said to have two.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coronet_deploy.report.figures import milliseconds
from coronet_deploy.report.regression import Bounds, Verdict

_GAP, _GAP_OF_FEW = 0.45, 3.0  # of the distance; more among few sessions, by their number
_SIDE_LEAST = 3
_TURNS_LEAST = 3


@dataclass(frozen=True)
class Mode:
    """One of two levels: the sessions' median, least and most, in ms, and how many they are."""

    median_ms: float
    low_ms: float
    high_ms: float
    count: int

    def __str__(self) -> str:
        """Return the level and its sessions: "10.2 ms (12 sessions)"."""
        return f"{milliseconds(self.median_ms)} ms ({self.count} sessions)"


@dataclass(frozen=True)
class Modes:
    """Both levels of a history that has two."""

    fast: Mode
    slow: Mode

    def __str__(self) -> str:
        """Return them as a clause."""
        return f"earlier sessions have two modes, {self.fast} and {self.slow}"

    def explain(self, verdict: Verdict, sessions_ms: Sequence[float], margin: float) -> bool:
        """Tell whether what is called slower or faster lies where a mode of the history does."""
        now_ms = statistics.geometric_mean(sessions_ms)
        if verdict is Verdict.SLOWER:
            return now_ms <= self.slow.high_ms * (1 + margin)
        return verdict is Verdict.FASTER and now_ms >= self.fast.low_ms / (1 + margin)


def modes_of(medians_ms: Sequence[float], margin: float = Bounds.margin) -> Modes | None:
    """Return the two modes of sessions in order of time, None if they have not two.

    Modes within `margin` of each other are one.
    """
    ordered = sorted(medians_ms)
    places = range(_SIDE_LEAST, len(ordered) - _SIDE_LEAST + 1)
    if not places:
        return None
    gaps = {place: math.log(ordered[place] / ordered[place - 1]) for place in places}
    place = max(places, key=gaps.__getitem__)
    fast, slow = (_mode(side) for side in (ordered[:place], ordered[place:]))
    apart = math.log(slow.median_ms / fast.median_ms)
    if apart < math.log1p(margin) or gaps[place] < (_GAP + _GAP_OF_FEW / len(ordered)) * apart:
        return None
    sides = [one >= slow.low_ms for one in medians_ms]
    turns = sum(before != after for before, after in itertools.pairwise(sides))
    return Modes(fast, slow) if turns >= _TURNS_LEAST else None


def _mode(ordered_ms: Sequence[float]) -> Mode:
    return Mode(statistics.median(ordered_ms), ordered_ms[0], ordered_ms[-1], len(ordered_ms))
