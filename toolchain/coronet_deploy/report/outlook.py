"""A candidate judged by history: whether its session lies where another like those before may."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coronet_deploy.errors import BadInput, NothingMeasured
from coronet_deploy.report.history import Line, Past, changes_note, in_order, resumed_of
from coronet_deploy.report.modes import modes_of
from coronet_deploy.report.pairs import Pair, check_setups, row_name, row_problems
from coronet_deploy.report.regression import (
    LAUNCHES_LEAST,
    Bounds,
    Look,
    Shift,
    Verdict,
    decide,
    holm,
)
from coronet_deploy.report.sessions import SESSIONS_LEAST, compare_sessions, student_quantile
from coronet_deploy.report.verdict import Comparison, Judged, Method, rerun_reason
from coronet_deploy.vocabulary import Run, Target

_SESSIONS_WORTHWHILE = 10
_OTHERS_TOLD = 2
_TURNS_TELL = "artifacts compared in turn, 10 launches a side, would tell more"
_IN_TURN = "artifacts compared in turn need no history"


@dataclass(frozen=True)
class _Case:
    """A row: its history, and the candidate's sessions as medians of their launches."""

    line: Line
    pair: Pair
    sessions_ms: tuple[float, ...]

    @property
    def current_ms(self) -> list[float]:
        return [point.median_ms for point in self.line.current]


def judge_by_history(
    runs: Sequence[Run], past: Past, bounds: Bounds, max_load: float | None = None
) -> Comparison:
    """Return the verdicts on the rows of `runs`: the candidate's session, and perhaps re-runs.

    The session is the first of `runs` in time, in whatever order they are given. A history that
    holds the candidate and no earlier session that counts begins with it, and decides nothing.

    Raises:
        BadInput: the runs are not of one candidate, share launches, have fewer than four launches
            a row, or no row has an earlier session in a history without the candidate; says how
            those of other set-ups differ.
        NothingMeasured: a run holds no launch.

    """
    runs = in_order(runs)
    _check_candidate(runs)
    cases = [_case(runs, past, *row, bounds.margin, max_load) for row in _rows(runs[0])]
    known, absent = _with_history(runs, past, cases)
    return Comparison(
        rows=_judged(known, bounds),
        bounds=bounds,
        method=Method.HISTORY,
        no_base=tuple(case.pair.name for case in absent),
        no_candidate=_gone_rows(runs[0], past, known),
        notes=_notes(known, absent, bounds.margin),
    )


def _check_candidate(runs: Sequence[Run]) -> None:
    """Refuse runs that are not sessions of one candidate."""
    for run in runs:
        if not run.launches:
            raise NothingMeasured(
                f"run {run.id} holds no launch: there is nothing to judge",
                hint="`coronet-deploy bench` measures one",
            )
    _check_apart(runs)
    for again in runs[1:]:
        check_setups(runs[0], again)
        _check_files(runs[0], again)


def _with_history(
    runs: Sequence[Run], past: Past, cases: Sequence[_Case]
) -> tuple[Sequence[_Case], Sequence[_Case]]:
    """Return the cases that are judged, and those that have nothing to be judged by."""
    known = [case for case in cases if case.line.points]
    if known:
        return known, [case for case in cases if not case.line.points]
    if any(past.holds(run) for run in runs):
        return cases, []
    first = cases[0]
    which = "session of it that counts" if first.line.spoilt else "session of it"
    raise BadInput(
        f"{first.pair.name}: the history holds no earlier {which}"
        f"{_behind(first.line.spoilt_told)}{_differ(first.line)}{_behind(first.line.later_told)}",
        hint=f"at least {SESSIONS_LEAST} are needed; {_IN_TURN}",
    )


def _gone_rows(run: Run, past: Past, known: Sequence[_Case]) -> tuple[str, ...]:
    """Return the rows that the session before `run` has and it has not: an export that failed."""
    points = [case.line.points[-1] for case in known if case.line.points]
    if not points:
        return ()
    before = max(points, key=lambda point: (point.created, point.run_id))
    own = set(_rows(run))
    return tuple(row_name(*row) for row in past.rows_of(before) if row not in own)


def _notes(known: Sequence[_Case], absent: Sequence[_Case], margin: float) -> tuple[str, ...]:
    """Return what a reader must know of the history, in sentences."""
    # What the verdict takes as usual may itself be a regression that nobody has looked at.
    changed = [
        f"{case.pair.name}: earlier sessions changed on {', '.join(case.line.changes_told)}."
        for case in known
        if case.line.changes
    ]
    differing = [
        f"{case.pair.name}: {told[2:]}." for case in absent if (told := _differ(case.line))
    ]
    left_out = [
        f"{case.pair.name}: {told}." for case in (*known, *absent) for told in case.line.left_out
    ]
    first = changes_note([case.line for case in known], margin)
    return (first, *changed, *differing, *left_out)


def _judged(cases: Sequence[_Case], bounds: Bounds) -> tuple[Judged, ...]:
    """Judge the rows that can be together (Holm), and say of the others why they cannot."""
    sound = [
        case
        for case in cases
        if not case.pair.problems and len(case.line.current) >= SESSIONS_LEAST
    ]
    looks = [_look(case) for case in sound]
    adjusted = holm([look.shift.p_slower for look in looks])
    verdicts = decide(looks, bounds)
    judged = {
        id(case): _with_modes(
            case,
            _explained(case, Judged(case.pair, verdict, look.shift, p), look, len(sound), bounds),
            bounds,
        )
        for case, look, verdict, p in zip(sound, looks, verdicts, adjusted, strict=True)
    }
    return tuple(
        replace(
            judged.get(id(case)) or _unjudged(case),
            sessions=(len(case.line.current), len(case.sessions_ms)),
        )
        for case in cases
    )


def _look(case: _Case) -> Look:
    shift = compare_sessions(case.current_ms, case.sessions_ms)
    again = case.sessions_ms[1:]
    usual = statistics.mean(map(math.log, case.current_ms))
    rerun = math.exp(statistics.mean(map(math.log, again)) - usual) if again else None
    return Look(shift, rerun)


def _unjudged(case: _Case) -> Judged:
    if case.pair.problems:
        return Judged(case.pair, Verdict.INVALID, reason="; ".join(case.pair.problems))
    count, changed = len(case.line.current), case.line.changed
    since = f" since the change of {changed}" if changed else ""
    plural = "" if count == 1 else "s"
    return Judged(
        case.pair,
        Verdict.INCONCLUSIVE,
        reason=f"{count} earlier session{plural}{since}, {SESSIONS_LEAST} are needed"
        f"{_differ(case.line)}{_behind(case.line.later_told)}; {_IN_TURN}",
    )


def _explained(case: _Case, row: Judged, look: Look, rows: int, bounds: Bounds) -> Judged:
    """Return `row` with its reason: what would confirm or decide it."""
    reason = rerun_reason(row.verdict, look, bounds)
    if reason or row.verdict is not Verdict.INCONCLUSIVE:
        return replace(row, reason=reason)
    needed = _sessions_to_decide(look.shift, rows, bounds)
    if needed is None:
        varied = statistics.stdev(map(math.log, case.current_ms))
        return replace(
            row,
            reason=f"earlier sessions vary by {varied:.1%}{_odd(case.line)}: {_TURNS_TELL}",
        )
    launches = math.ceil(len(case.pair.candidate_ms) / len(case.sessions_ms))
    return replace(
        row,
        reason=f"about {needed} sessions of the candidate would decide "
        f"({needed * launches} launches)",
        launches_needed=needed * launches,
    )


def _with_modes(case: _Case, row: Judged, bounds: Bounds) -> Judged:
    """Return `row` with the two modes of its history, if it has them, in the reason.

    What lies where one of them does is neither slower nor faster.
    """
    modes = modes_of(case.current_ms, bounds.margin)
    if modes is None:
        return row
    if modes.explain(row.verdict, case.sessions_ms, bounds.margin):
        told = f"{modes}, and this is no {row.verdict} than one of them: {_TURNS_TELL}"
        return replace(row, verdict=Verdict.INCONCLUSIVE, reason=told)
    return replace(row, reason="; ".join(filter(None, (row.reason, str(modes)))))


def _odd(line: Line) -> str:
    """Return which session varies more than all others together, as the end of a clause."""
    usual = statistics.median(point.median_ms for point in line.current)
    squares = [math.log(point.median_ms / usual) ** 2 for point in line.current]
    odd = line.current[squares.index(max(squares))]
    if 2 * max(squares) <= sum(squares):
        return ""
    return f", most of it by run {odd.run_id} ({odd.median_ms / usual:.2f} times their median)"


def _sessions_to_decide(shift: Shift, rows: int, bounds: Bounds) -> int | None:
    """Return how many candidate sessions would decide a row, if the ratio stays what it is."""
    change = abs(math.log(shift.ratio))
    quantile = student_quantile(0.95, shift.base - 1)
    # One of several rows takes more to be called slower than to be called the same (Holm).
    sharper = student_quantile(1 - bounds.alpha / rows, shift.base - 1)
    spread = math.log(shift.high / shift.ratio) / quantile
    spread /= math.sqrt(1 / shift.base + 1 / shift.candidate)
    for count in range(shift.candidate + 1, _SESSIONS_WORTHWHILE + 1):
        error = spread * math.sqrt(1 / shift.base + 1 / count)
        same = change + quantile * error < math.log1p(bounds.resolution)
        if same or (change > math.log1p(bounds.margin) and change > sharper * error):
            return count
    return None


def _case(
    runs: Sequence[Run],
    past: Past,
    artifact: str,
    target: Target,
    margin: float,
    max_load: float | None,
) -> _Case:
    """Return a row of the candidate with its history.

    Raises:
        BadInput: a session has too few launches.

    """
    line = past.line_of(runs[0], artifact, target, max_load, again=runs[1:], margin=margin)
    medians = [
        [
            one.median_ms
            for one in run.launches
            if (one.artifact, one.target) == (artifact, target) and one.median_ms is not None
        ]
        for run in runs
    ]
    problems = [text for run in runs for text in row_problems(run, artifact, target, max_load)]
    pair = Pair(
        artifact=artifact,
        base_artifact=artifact,
        target=target,
        base_ms=tuple(point.median_ms for point in line.current),
        candidate_ms=tuple(one for session in medians for one in session),
        first=(len(line.current), len(medians[0])),
        problems=tuple(dict.fromkeys(problems)),
    )
    fewest = min(map(len, medians))
    if fewest < LAUNCHES_LEAST and not problems:
        raise BadInput(
            f"{pair.name}: {fewest} launches make no session",
            hint=f"at least {LAUNCHES_LEAST}, better 10",
        )
    sessions = tuple(statistics.median(session) for session in medians if session)
    return _Case(line, pair, sessions)


def _rows(run: Run) -> list[tuple[str, Target]]:
    return list(dict.fromkeys((one.artifact, one.target) for one in run.launches))


def _check_files(run: Run, again: Run) -> None:
    """Refuse a re-run that lacks a row or measured another file."""
    first = {(one.artifact, one.target): one.artifact_sha256 for one in run.launches}
    second = {(one.artifact, one.target): one.artifact_sha256 for one in again.launches}
    for (artifact, target), digest in first.items():
        theirs = second.get((artifact, target))
        if theirs != digest:
            told = (
                "is not in it" if theirs is None else f"is {theirs[:12]} in it, not {digest[:12]}"
            )
            raise BadInput(
                f"run {again.id} is no re-run of {run.id}: {artifact} with {target.threads} "
                f"threads on {target.backend} {told}"
            )


def _check_apart(runs: Sequence[Run]) -> None:
    """Refuse a re-run that holds the launches of another: nothing confirms itself."""
    seen: set[str] = set()
    for run in runs:
        if run.id in seen:
            raise BadInput(
                f"run {run.id} is given twice: a run cannot be its own re-run",
                hint="give each run file once",
            )
        seen.add(run.id)
    for run in runs:
        if (earlier := resumed_of(run)) in seen:
            raise BadInput(
                f"run {run.id} went on with {earlier} and holds its launches: it is no re-run",
                hint=f"leave {earlier} out",
            )


def _behind(clause: str) -> str:
    """Return a clause as the end of a sentence; nothing of none."""
    return f"; {clause}" if clause else ""


def _differ(line: Line) -> str:
    """Return how sessions that do not count differ, as the end of a sentence."""
    told = ""
    if line.others:
        more = len(line.others) - _OTHERS_TOLD
        told = f"; others differ in {'; '.join(line.others[:_OTHERS_TOLD])}"
        told += f" and {more} more ways" if more > 0 else ""
    return told
