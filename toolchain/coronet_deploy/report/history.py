"""Earlier sessions of a row: found in a folder or a store, and cut at the last change.

    with open_past("runs") as past:
        line = past.line_of(run, artifact, target)
        line.current  # the sessions that count

A row's earlier sessions count only where the machine, its software and what was asked of it agree
(`results.keys`), the network was the same, and nothing spoilt the session. A run that another one
went on with (`bench --resume`) is part of that one. What else bears the row's name is told, by what
differs.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem
from coronet_deploy.report.pairs import checkpoint_of, row_problems
from coronet_deploy.report.regression import LAUNCHES_LEAST
from coronet_deploy.report.sessions import SESSIONS_MOST, change_points
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

Entries = Callable[[RowEntry], Sequence[RunEntry]]


@dataclass(frozen=True)
class Line:
    """The earlier sessions of one artifact on one target, oldest first.

    `changes` are the places of the first sessions after a change, None where they could not be
    looked for. `others` tells how runs of that name which do not count differ, the commonest
    first; `spoilt` counts sessions that something spoilt.
    """

    artifact: str
    target: Target
    points: tuple[HistoryPoint, ...]
    changes: tuple[int, ...] | None
    others: tuple[str, ...] = ()
    spoilt: int = 0

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


class Past:
    """What was measured before; `across_models` lets sessions of other checkpoints count."""

    def __init__(self, entries: Entries, *, across_models: bool) -> None:
        self._entries = entries
        self._across_models = across_models
        self._read: dict[Path, Run | None] = {}

    def line_of(
        self, run: Run, artifact: str, target: Target, max_load: float | None = None
    ) -> Line:
        """Return the earlier sessions of a row of `run`; see `Line`.

        Raises:
            BadInput: `run` has no such row.

        """
        row = _row(run, artifact, target)
        made = _created(run)
        entries = [
            entry for entry in self._entries(row) if entry.id != run.id and entry.created < made
        ]
        others = _differing(entries, row)
        points: list[HistoryPoint] = []
        part_of = {run.id: resumed_of(run)}
        spoilt = 0
        own = checkpoint_of(run.artifacts.get(artifact, {}))
        for point in history_of(entries, row.key)[-SESSIONS_MOST:]:
            earlier = self._run(point.path)
            part_of[point.run_id] = resumed_of(earlier) if earlier else None
            theirs = checkpoint_of(earlier.artifacts.get(artifact, {})) if earlier else None
            if own and theirs and own != theirs and not self._across_models:
                others.append(f"checkpoint: {theirs[:12]} and {own[:12]}")
            elif len(point.launch_medians_ms) < LAUNCHES_LEAST or (
                earlier and row_problems(earlier, artifact, target, max_load)
            ):
                spoilt += 1
            else:
                points.append(point)
        parts = _parts([run.id, *(point.run_id for point in points)], part_of)
        points = [point for point in points if point.run_id not in parts]
        told = sorted(set(others), key=lambda phrase: (-others.count(phrase), phrase))
        return Line(artifact, target, tuple(points), _changes(points), tuple(told), spoilt)

    def _run(self, path: Path) -> Run | None:
        """Return the run file that an entry names; None where it is gone: the entry stands."""
        if path not in self._read:
            try:
                self._read[path] = read_run(path)
            except BadInput:
                self._read[path] = None
        return self._read[path]


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
        BadInput: there is neither at `place`, or a file of the folder is not a run file.
        EnvironmentProblem: the store cannot be reached, or its package is missing.

    """
    if Path(place).is_file() and place.endswith(".json"):
        raise BadInput(f"--history {place} is one run file", hint="give its folder, or a store")
    if Path(place).is_dir():
        # A copy of a run file is no other session.
        by_id = {one.id: one for one in map(read_entry, find_run_files([Path(place)]).paths)}
        read = list(by_id.values())
        yield Past(lambda _row: read, across_models=across_models)
        return
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
                artifact=row.artifact,
                device=row.target.device,
                backend=row.target.backend,
                threads=row.target.threads,
            ),
        )


def _row(run: Run, artifact: str, target: Target) -> RowEntry:
    for row in row_entries(run):
        if (row.artifact, row.target) == (artifact, target):
            return row
    raise BadInput(f"run {run.id} holds no launch of {artifact} there")


def _created(run: Run) -> str:
    try:
        return moment_of(run.created).isoformat(timespec="seconds")
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


def _changes(points: Sequence[HistoryPoint]) -> tuple[int, ...] | None:
    try:
        return tuple(change_points([point.median_ms for point in points]))
    except EnvironmentProblem:
        return None


def changes_note(lines: Sequence[Line]) -> str:
    """Return, in a sentence, whether change points were looked for, and by what."""
    if any(line.changes is None for line in lines):
        missing: CoronetError = _missing()
        return f"Change points were not looked for: {missing}."
    return "Sessions since the last change point count (PELT, ruptures)."


def _missing() -> CoronetError:
    from coronet_deploy.errors import missing_package

    return missing_package("ruptures", "history")
