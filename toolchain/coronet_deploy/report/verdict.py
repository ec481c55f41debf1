"""The verdict on a candidate: each pair judged, in words, and the exit status that follows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from coronet_deploy.report.pairs import Pair
from coronet_deploy.report.regression import (
    Bounds,
    Look,
    Shift,
    Verdict,
    compare_launches,
    decide,
    holm,
    launches_to_decide,
    ratio_of,
    settled,
)

EMULATED = "Emulated: the timings are not a real device's."
"""The note of a comparison whose runs are emulated."""

_ONE_FILE = "both sides are one file, byte for byte, and what differs is noise"
_WORTH_COUNTING = 200  # launches a side; nobody makes more


@dataclass(frozen=True)
class Judged:
    """A pair and what is said of it.

    `p_slower` is Holm-adjusted; it and `shift` are None where the verdict is `invalid`, and it
    where both sides are one file.
    `launches_needed`, a side, are told where more would decide. `reason` is a sentence, or empty.
    `sessions` counts the sessions of both sides where the base is a history; its pair's `base_ms`
    are then medians of sessions.
    """

    pair: Pair
    verdict: Verdict
    shift: Shift | None = None
    p_slower: float | None = None
    launches_needed: int | None = None
    reason: str = ""
    sessions: tuple[int, int] | None = None

    @property
    def base_ms(self) -> float | None:
        """Median of the base's launch medians."""
        return statistics.median(self.pair.base_ms) if self.pair.base_ms else None

    @property
    def candidate_ms(self) -> float | None:
        """Median of the candidate's launch medians."""
        return statistics.median(self.pair.candidate_ms) if self.pair.candidate_ms else None


class Method(StrEnum):
    """How the two sides were set beside each other, the best way first."""

    IN_TURN = "in turn"
    TWO_RUNS = "two runs"
    HISTORY = "history"


@dataclass(frozen=True)
class Comparison:
    """All rows, what has no other side, and what a reader must know.

    `no_base` and `no_candidate` name artifacts, or rows, that only the candidate or the base has.
    """

    rows: tuple[Judged, ...]
    bounds: Bounds
    method: Method = Method.IN_TURN
    no_base: tuple[str, ...] = ()
    no_candidate: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """What the base is called."""
        return "the session before" if self.method is Method.HISTORY else "the base"

    @property
    def emulated(self) -> bool:
        """Whether its timings are no real device's, as its notes say."""
        return EMULATED in self.notes

    def name_of(self, row: Judged) -> str:
        """Return a row's name where no note stands beside it: emulated timings say so."""
        return f"{row.pair.name} (emulated)" if self.emulated else row.pair.name


def judge(pairs: Sequence[Pair], bounds: Bounds) -> tuple[Judged, ...]:
    """Return the verdict on each of `pairs`; rows with problems are `invalid` and no part of Holm.

    Nor are rows whose sides are one file, which are the `same` whatever was measured between them.

    Raises:
        BadInput: a row has fewer launches than can tell anything.

    """
    sound = [pair for pair in pairs if not pair.problems and not pair.one_file]
    looks = [_look(pair) for pair in sound]
    adjusted = holm([look.shift.p_slower for look in looks])
    verdicts = decide(looks, bounds)
    judged = {
        id(pair): _with_placement(
            _explained(Judged(pair, verdict, look.shift, p), look, len(sound), bounds)
        )
        for pair, look, verdict, p in zip(sound, looks, verdicts, adjusted, strict=True)
    }
    return tuple(judged.get(id(pair)) or _untested(pair) for pair in pairs)


def needs_rerun(pair: Pair, bounds: Bounds) -> bool:
    """Tell whether a first measurement leaves open what a second could decide."""
    return not pair.problems and not pair.one_file and not settled(_look(pair).shift, bounds)


def rerun_reason(verdict: Verdict, look: Look, bounds: Bounds) -> str:
    """Return what a re-run, or the lack of one, has to say to a verdict; empty if nothing."""
    if verdict in {Verdict.SLOWER, Verdict.FASTER} and look.rerun_ratio is None:
        return "not confirmed by a re-run"
    beyond = not 1 / (1 + bounds.margin) <= look.shift.ratio <= 1 + bounds.margin
    contradicted = look.rerun_ratio is not None and (look.rerun_ratio > 1) != (look.shift.ratio > 1)
    if verdict is Verdict.INCONCLUSIVE and beyond and contradicted:
        return "the re-run did not confirm the difference"
    return ""


def exit_status(comparison: Comparison, *, inconclusive_ok: bool = False) -> int:
    """Return 1 if a row is slower, else 3 if one is invalid, else 5 if inconclusive, else 0."""
    verdicts = {row.verdict for row in comparison.rows}
    if Verdict.SLOWER in verdicts:
        return 1
    if Verdict.INVALID in verdicts:
        return 3
    return 5 if Verdict.INCONCLUSIVE in verdicts and not inconclusive_ok else 0


def _untested(pair: Pair) -> Judged:
    """Return what is said of a row without a test: it is spoilt, or both its sides are one file."""
    if pair.problems:
        return Judged(pair, Verdict.INVALID, reason="; ".join(pair.problems))
    return Judged(pair, Verdict.SAME, _look(pair).shift, reason=_ONE_FILE)


def _look(pair: Pair) -> Look:
    rerun = pair.rerun
    return Look(
        compare_launches(pair.base_ms, pair.candidate_ms),
        None if rerun is None else ratio_of(*rerun),
    )


def _with_placement(row: Judged) -> Judged:
    """Return `row` with what the back end took otherwise than the base's, which may explain it."""
    reasons = filter(None, (row.reason, row.pair.placement))
    return replace(row, reason="; ".join(reasons))


def _explained(row: Judged, look: Look, rows: int, bounds: Bounds) -> Judged:
    """Return `row` with its reason and, if it is inconclusive, the launches it would take."""
    reason = rerun_reason(row.verdict, look, bounds)
    if reason or row.verdict is not Verdict.INCONCLUSIVE:
        return replace(row, reason=reason)
    needed = launches_to_decide(look.shift, rows, bounds)
    if needed is None:
        return replace(row, reason="too few launches to bound the difference")
    if needed > _WORTH_COUNTING:
        return replace(row, reason=f"more than {_WORTH_COUNTING} launches a side would decide")
    return replace(
        row, reason=f"about {needed} launches a side would decide", launches_needed=needed
    )
