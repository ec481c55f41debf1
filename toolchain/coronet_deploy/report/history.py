"""Earlier sessions of a row: found in a folder or a store, and cut at the last change.

    with open_past("runs") as past:
        line = past.line_of(run, artifact, target)
        line.current  # the sessions that count

A row's earlier sessions count only where the machine, its software and what was asked of it agree
(`results.keys`), the network was the same, and nothing spoilt the session. A run that another one
went on with (`bench --resume`) is part of that one. What else bears the row's name is told, by what
differs. Of a session in a store whose run file is gone, the network is known where it measured the
candidate's very file, and what may have spoilt it is not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem
from coronet_deploy.report.pairs import checkpoint_of, row_problems
from coronet_deploy.report.regression import LAUNCHES_LEAST, Bounds
from coronet_deploy.report.sessions import SESSIONS_MOST, change_points, least_change
from coronet_deploy.results.entries import (
    HistoryPoint,
    RowEntry,
    RunEntry,
    find_run_files,
    history_of,
    moment_of,
    read_entry,
    row_entries,
)
from coronet_deploy.results.files import read_run
from coronet_deploy.results.keys import differences
from coronet_deploy.vocabulary import Run, Target

_LOOKED_AT = 10 * SESSIONS_MOST  # of which sessions of other checkpoints take up no place

Entries = Callable[[RowEntry], Sequence[RunEntry]]


@dataclass(frozen=True)
class Line:
    """The earlier sessions of one artifact on one target, oldest first.

    `changes` are the places of the first sessions after a change, None where they could not be
    looked for. `others` tells how runs of that name which do not count differ, the commonest
    first; `spoilt` counts sessions that something spoilt, `gone` those among `points` whose run
    files are gone, and `later` sessions that are not earlier by their dates. `older` is true where
    there are more sessions before those that are looked at.
    """

    artifact: str
    target: Target
    points: tuple[HistoryPoint, ...]
    changes: tuple[int, ...] | None
    others: tuple[str, ...] = ()
    spoilt: int = 0
    gone: int = 0
    later: int = 0
    older: bool = False

    @property
    def current(self) -> tuple[HistoryPoint, ...]:
        """The sessions since the last change."""
        return self.points[self.changes[-1] if self.changes else 0 :]

    @property
    def changed(self) -> str | None:
        """The day of the first session after the last change, if there was one."""
        return self.points[self.changes[-1]].created[:10] if self.changes else None

    @property
    def changes_told(self) -> tuple[str, ...]:
        """Each change's day and size: "2026-01-16 (+9.8 %)"."""
        medians = [point.median_ms for point in self.points]
        edges = [0, *(self.changes or ()), len(medians)]
        spans = [statistics.median(medians[start:end]) for start, end in itertools.pairwise(edges)]
        return tuple(
            f"{self.points[place].created[:10]} ({100 * (after / before - 1):+.1f} %)"
            for place, (before, after) in zip(edges[1:-1], itertools.pairwise(spans), strict=True)
        )

    @property
    def spoilt_told(self) -> str:
        """How many earlier sessions something spoilt, in a clause, or nothing."""
        if not self.spoilt:
            return ""
        return f"{self.spoilt} earlier session{' was' if self.spoilt == 1 else 's were'} spoilt"

    @property
    def later_told(self) -> str:
        """How many sessions the row's date leaves out, in a clause, or nothing."""
        if not self.later:
            return ""
        are = "session is" if self.later == 1 else "sessions are"
        return f"{self.later} {are} dated no earlier than this run"

    @property
    def gone_told(self) -> str:
        """How many sessions are known from a store alone, in a clause, or nothing."""
        if not self.gone:
            return ""
        whose, them = ("session's", "it") if self.gone == 1 else ("sessions'", "them")
        files = "file is" if self.gone == 1 else "files are"
        return f"{self.gone} {whose} run {files} gone: whether something spoilt {them} is not known"

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was measured of the row and does not count, or may have to, each in a sentence."""
        told = [
            f"{clause} and {'does' if count == 1 else 'do'} not count"
            for count, clause in ((self.spoilt, self.spoilt_told), (self.later, self.later_told))
            if count
        ]
        return (*told, self.gone_told) if self.gone else tuple(told)


class Past:
    """What was measured before; `across_models` lets sessions of other checkpoints count."""

    def __init__(self, entries: Entries, *, across_models: bool) -> None:
        self._entries = entries
        self._across_models = across_models
        self._read: dict[Path, Run | None] = {}
        self._rows: dict[str, tuple[Run, dict[tuple[str, Target], RowEntry]]] = {}

    def line_of(
        self,
        run: Run,
        artifact: str,
        target: Target,
        max_load: float | None = None,
        *,
        again: Sequence[Run] = (),
        margin: float = Bounds.margin,
    ) -> Line:
        """Return the earlier sessions of a row of `run`; see `Line`.

        `again` are re-runs of `run`: sessions of the same candidate, and no part of its past.
        `margin` is what the row is judged with (see `sessions.least_change`).

        Raises:
            BadInput: `run` has no such row.

        """
        row = self._row(run, artifact, target)
        entries, later = self._before([run, *again], row)
        others = _differing(entries, row)
        points: list[HistoryPoint] = []
        part_of = {one.id: resumed_of(one) for one in (run, *again)}
        whole = list(part_of)
        spoilt, older = 0, False
        for point in reversed(history_of(entries, row.key)[-_LOOKED_AT:]):
            if older := len(points) + spoilt == SESSIONS_MOST:
                break
            earlier = self._run(point)
            part_of[point.run_id] = resumed_of(earlier) if earlier else None
            if other := self._other_network(run, row, point):
                others.append(other)
            elif len(point.launch_medians_ms) < LAUNCHES_LEAST or (
                earlier and row_problems(earlier, artifact, target, max_load)
            ):
                spoilt += 1
            else:
                points.append(point)
        points.reverse()
        parts = _parts([*whole, *(point.run_id for point in points)], part_of)
        points = [point for point in points if point.run_id not in parts]
        told = sorted(set(others), key=lambda phrase: (-others.count(phrase), phrase))
        gone = sum(self._run(point) is None for point in points)
        return Line(
            artifact, target, tuple(points), _changes(points, margin), tuple(told), spoilt, gone,
            later=len(history_of(later, row.key)), older=older,
        )  # fmt: skip

    def rows_of(self, point: HistoryPoint) -> list[tuple[str, Target]]:
        """Return what the run of an earlier session measured; nothing where its file is gone."""
        run = self._run(point)
        launches = [one for one in run.launches if one.median_ms is not None] if run else []
        return list(dict.fromkeys((one.artifact, one.target) for one in launches))

    def holds(self, run: Run) -> bool:
        """Return whether `run` itself is here."""
        rows = dict.fromkeys((one.artifact, one.target) for one in run.launches)
        return any(
            entry.id == run.id for row in rows for entry in self._entries(self._row(run, *row))
        )

    def _row(self, run: Run, artifact: str, target: Target) -> RowEntry:
        """Return a row of `run`, all of whose rows are summed up at once: there may be hundreds."""
        held = self._rows.get(run.id)
        if held is None or held[0] is not run:
            held = run, {(one.artifact, one.target): one for one in row_entries(run)}
            self._rows[run.id] = held
        if (artifact, target) not in held[1]:
            raise BadInput(f"run {run.id} holds no launch of {artifact} there")
        return held[1][artifact, target]

    def _before(self, runs: Sequence[Run], row: RowEntry) -> tuple[list[RunEntry], list[RunEntry]]:
        """Return what was measured before the first of `runs`, and what was not; none of them."""
        own = {run.id for run in runs}
        made = _moment(runs[0]).isoformat(timespec="seconds")
        others = [entry for entry in self._entries(row) if entry.id not in own]
        return (
            [entry for entry in others if entry.created < made],
            [entry for entry in others if entry.created >= made],
        )

    def _other_network(self, run: Run, row: RowEntry, point: HistoryPoint) -> str | None:
        """Return how the network of an earlier session differs, or None if it may count."""
        if self._across_models:
            return None
        earlier = self._run(point)
        if earlier is None:
            same = point.artifact_sha256 == row.artifact_sha256
            return None if same else "checkpoint: not known, the run file is gone"
        own, theirs = (checkpoint_of(one.artifacts.get(row.artifact, {})) for one in (run, earlier))
        if own and theirs and own != theirs:
            return f"checkpoint: {theirs[:12]} and {own[:12]}"
        return None

    def _run(self, point: HistoryPoint) -> Run | None:
        """Return the run that an entry is of; None where its file is gone, or holds another."""
        if point.path not in self._read:
            try:
                self._read[point.path] = read_run(point.path)
            except BadInput:
                self._read[point.path] = None
        run = self._read[point.path]
        return run if run and run.id == point.run_id else None


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Return `runs` in order of time.

    Raises:
        BadInput: a run does not say when it was made.

    """
    return sorted(runs, key=_moment)


def resumed_of(run: Run) -> str | None:
    """Return the id of the run that `run` went on with, and whose launches it holds, if any."""
    told = run.conditions.get("resumed")
    return told if isinstance(told, str) else None


def _parts(whole: Iterable[str], part_of: Mapping[str, str | None]) -> set[str]:
    """Return the ids of the runs that those of the ids `whole` went on with, however often."""
    parts: set[str] = set()
    for one in whole:
        part = part_of.get(one)
        while part is not None and part not in parts:
            parts.add(part)
            part = part_of.get(part)
    return parts


@contextlib.contextmanager
def open_past(place: str, *, across_models: bool = False) -> Iterator[Past]:
    """Yield what was measured before: the run files below a folder, or a result store.

    Raises:
        BadInput: there is neither at `place`, a file of the folder is not a run file or holds
            another run of an id, or a folder in it cannot be listed.
        EnvironmentProblem: the store cannot be reached, or its package is missing.

    """
    if Path(place).is_file() and place.endswith(".json"):
        raise BadInput(f"--history {place} is one run file", hint="give its folder, or a store")
    if Path(place).is_dir():
        found = find_run_files([Path(place)])
        if found.unlisted:
            raise BadInput(
                f"--history {place}: {'; '.join(found.unlisted)}",
                hint="sessions in there would be missing without a word",
            )
        by_id: dict[str, RunEntry] = {}
        for one in map(read_entry, found.paths):
            # A copy of a run file is no other session, and what was changed in one is no copy.
            if (other := by_id.setdefault(one.id, one)).sha256 != one.sha256:
                raise BadInput(
                    f"--history {place}: {one.path} and {other.path} differ, and are of one id",
                    hint="only one of them can be what was measured",
                )
        read = list(by_id.values())
        yield Past(lambda _row: read, across_models=across_models)
        return
    if "://" not in place and not os.path.exists(os.path.expanduser(place)):  # noqa: PTH110, PTH111 - Path's raise of some names
        raise BadInput(
            f"--history {place} does not exist",
            hint="a folder of run files, an SQLite file or a postgresql:// URL",
        )
    with _store_entries(place) as entries:
        yield Past(entries, across_models=across_models)


@contextlib.contextmanager
def _store_entries(place: str) -> Iterator[Entries]:
    try:
        from coronet_deploy.results.store import Filters, list_runs, open_store
    except ModuleNotFoundError as error:
        from coronet_deploy.errors import missing_package

        raise missing_package(error.name or "sqlalchemy", "store") from error
    with open_store(place) as store:
        yield lambda row: list_runs(
            store,
            Filters(
                artifact=(row.artifact,),
                device=(row.target.device,),
                backend=(row.target.backend,),
                threads=(row.target.threads,),
            ),
        )


def _moment(run: Run) -> datetime:
    try:
        return moment_of(run.created)
    except ValueError as error:
        raise BadInput(f"run {run.id}: created {run.created!r} is not a date") from error


def _differing(entries: Sequence[RunEntry], row: RowEntry) -> list[str]:
    """Return how each run of the row's name and target that has another set-up differs."""
    return [
        "; ".join(differences(other.setup, row.setup))
        for entry in entries
        for other in entry.rows
        if (other.artifact, other.target) == (row.artifact, row.target)
        and other.key.setup != row.key.setup
    ]


def _changes(points: Sequence[HistoryPoint], margin: float) -> tuple[int, ...] | None:
    try:
        return tuple(change_points([point.median_ms for point in points], margin))
    except EnvironmentProblem:
        return None


def changes_note(lines: Sequence[Line], margin: float = Bounds.margin) -> str:
    """Return, in sentences, whether change points were looked for, by what, and how far back.

    `margin` is the one that `lines` were made with.
    """
    older = any(line.older for line in lines)
    far = f" Of each row's sessions the newest {SESSIONS_MOST} are looked at." if older else ""
    if any(line.changes is None for line in lines):
        missing: CoronetError = _missing()
        return f"Change points were not looked for: {missing}.{far}"
    least = least_change(margin)
    small = f"; a change below {100 * least:.3g} % is none" if least else ""
    return f"Sessions since the last change point count (PELT, ruptures{small}).{far}"


def _missing() -> CoronetError:
    from coronet_deploy.errors import missing_package

    return missing_package("ruptures", "history")
