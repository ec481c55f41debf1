"""The result store: an index over run files, to list them, find one and look back.

    with open_store("results.sqlite") as store:
        for point in history(store, key):
            ...

Filling it is `ingest`'s business. The run files stay the truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from coronet_deploy.errors import BadInput
from coronet_deploy.results.database import (
    PATIENCE_S,
    Database,
    open_database,
    rows,
    runs,
    setups,
)
from coronet_deploy.results.entries import HistoryPoint, RowEntry, RunEntry
from coronet_deploy.results.keys import Key, Setup
from coronet_deploy.vocabulary import Target

Store = Database

_AMBIGUOUS_SHOWN = 3


@dataclass(frozen=True)
class Filters:
    """Which runs and rows to list; none of a kind lets all through. Dates are UTC, ISO 8601.

    A row passes that is of one of the `model`s, and so on. `since` is included, `before` is not.
    `limit` counts runs, newest first.
    """

    model: Collection[str] = ()
    artifact: Collection[str] = ()
    runtime: Collection[str] = ()
    dtype: Collection[str] = ()
    device: Collection[str] = ()
    backend: Collection[str] = ()
    threads: Collection[int] = ()
    since: str | None = None
    before: str | None = None
    limit: int | None = None

    def one_of(self) -> Mapping[str, Collection[str | int]]:
        """Return the columns of `rows` that must have one of some values."""
        wanted: dict[str, Collection[str | int]] = {
            "model": self.model,
            "artifact": self.artifact,
            "runtime": self.runtime,
            "dtype": self.dtype,
            "device": self.device,
            "backend": self.backend,
            "threads": self.threads,
        }
        return {name: values for name, values in wanted.items() if values}


@contextlib.contextmanager
def open_store(
    where: str | Path | None = None, *, make: bool = False, patience_s: float = PATIENCE_S
) -> Iterator[Store]:
    """Yield the store at `where`: an SQLite file or a `postgresql://` URL (None: the default).

    `make` opens it for writing and makes it where there is none; `patience_s` is how long to wait
    for another process that writes.

    Raises:
        BadInput: there is no store at `where`, or it is something else.
        EnvironmentProblem: it cannot be reached, or a package is missing.

    """
    store = open_database(where, make=make, patience_s=patience_s)
    try:
        yield store
    finally:
        store.close()


def history(store: Store, key: Key) -> list[HistoryPoint]:
    """Return what was measured of `key`, oldest first; runs without a sample are left out.

    `Key`s come from a run (`entries.row_entries(run)[i].key`) or from `keys(store)`.
    """
    wanted = [
        rows.c.artifact == key.artifact,
        rows.c.device == key.target.device,
        rows.c.backend == key.target.backend,
        rows.c.threads == key.target.threads,
        rows.c.setup == key.setup,
        rows.c.median_ms.is_not(None),
    ]
    if key.artifact_sha256 is not None:
        wanted.append(rows.c.artifact_sha256 == key.artifact_sha256)
    chosen = (
        sa.select(
            runs.c.created, runs.c.id, runs.c.path, runs.c.emulated,
            rows.c.artifact_sha256, rows.c.launch_medians_ms, rows.c.median_ms, rows.c.p90_ms,
        )
        .join_from(rows, runs)
        .where(*wanted)
        .order_by(runs.c.created, runs.c.id)
    )  # fmt: skip
    with store.read() as connection:
        return [
            HistoryPoint(
                created=one.created,
                run_id=one.id,
                path=Path(one.path),
                artifact_sha256=one.artifact_sha256,
                launch_medians_ms=tuple(one.launch_medians_ms),
                median_ms=one.median_ms,
                p90_ms=one.p90_ms,
                emulated=one.emulated,
            )
            for one in connection.execute(chosen)
        ]


def keys(store: Store) -> list[tuple[Key, int]]:
    """Return every line of history in the store with its number of measured runs, by name."""
    columns = [rows.c.artifact, rows.c.device, rows.c.backend, rows.c.threads, rows.c.setup]
    counted = (
        sa.select(*columns, sa.func.count().label("runs"))
        .where(rows.c.median_ms.is_not(None))
        .group_by(*columns)
        .order_by(*columns)
    )
    with store.read() as connection:
        return [
            (Key(one.artifact, Target(one.device, one.backend, one.threads), one.setup), one.runs)
            for one in connection.execute(counted)
        ]


def setup(store: Store, setup_hash: str) -> Setup:
    """Return the set-up fields behind a key's hash (see `keys.differences`)."""
    with store.read() as connection:
        fields = connection.execute(
            sa.select(setups.c.fields).where(setups.c.hash == setup_hash)
        ).scalar()
    if fields is None:
        raise BadInput(f"the result store {store.name} knows no set-up {setup_hash}")
    return dict(fields)


def list_runs(store: Store, filters: Filters | None = None) -> list[RunEntry]:
    """Return the runs that have a row that passes, newest first, each with those rows alone."""
    filters = filters or Filters()
    ordered = sa.select(runs).where(*_passing(filters)).order_by(runs.c.created.desc(), runs.c.id)
    chosen = ordered if filters.limit is None else ordered.limit(filters.limit)
    with store.read() as connection:
        return _with_rows(connection, connection.execute(chosen).all(), _rows_passing(filters))


def count_runs(store: Store, filters: Filters) -> int:
    """Return how many runs `list_runs` would give without a limit."""
    chosen = sa.select(sa.func.count()).select_from(runs).where(*_passing(filters))
    with store.read() as connection:
        return connection.execute(chosen).scalar_one()


def find_run(store: Store, name: str) -> RunEntry:
    """Return the run whose id is `name`, or the only one whose id starts with it.

    Raises:
        BadInput: none does, or several do.

    """
    start = runs.c.id.startswith(name, autoescape=True)
    with store.read() as connection:
        exact = connection.execute(sa.select(runs).where(runs.c.id == name)).all()
        found = (
            exact
            or connection.execute(
                sa.select(runs).where(start).order_by(runs.c.id).limit(_AMBIGUOUS_SHOWN + 1)
            ).all()
        )
        if len(found) == 1:
            return _with_rows(connection, found, [])[0]
    if not found:
        raise BadInput(
            f"the result store {store.name} holds no run {name!r}",
            hint="`coronet-deploy results list` shows what it holds",
        )
    several = ", ".join(one.id for one in found[:_AMBIGUOUS_SHOWN])
    more = ", ..." if len(found) > _AMBIGUOUS_SHOWN else ""
    raise BadInput(f"several runs start with {name!r}: {several}{more}")


def _rows_passing(filters: Filters) -> list[sa.ColumnElement[bool]]:
    return [rows.c[name].in_(values) for name, values in filters.one_of().items()]


def _passing(filters: Filters) -> list[sa.ColumnElement[bool]]:
    """Return what must be true of a run: its date, and that it has a row that passes."""
    wanted = []
    if filters.since is not None:
        wanted.append(runs.c.created >= filters.since)
    if filters.before is not None:
        wanted.append(runs.c.created < filters.before)
    if own := _rows_passing(filters):
        wanted.append(runs.c.id.in_(sa.select(rows.c.run_id).where(*own)))
    return wanted


def _with_rows(
    connection: Connection,
    found: Sequence[Row[tuple[object, ...]]],
    passing: Sequence[sa.ColumnElement[bool]],
) -> list[RunEntry]:
    """Return entries of rows of `runs`, with their rows that pass, in the runs' own order."""
    ids = [one.id for one in found]
    own: dict[str, list[RowEntry]] = {name: [] for name in ids}
    for start in range(0, len(ids), 500):  # the number of values in one statement has a bound
        chosen = (
            sa.select(rows, setups.c.fields)
            .join_from(rows, setups)
            .where(rows.c.run_id.in_(ids[start : start + 500]), *passing)
            .order_by(rows.c.run_id, rows.c.place)
        )
        for one in connection.execute(chosen):
            own[one.run_id].append(_row_entry(one))
    return [
        RunEntry(
            id=one.id,
            path=Path(one.path),
            sha256=one.sha256,
            created=one.created,
            emulated=one.emulated,
            rows=tuple(own[one.id]),
        )
        for one in found
    ]


def _row_entry(one: Row[tuple[object, ...]]) -> RowEntry:
    return RowEntry(
        artifact=one.artifact,
        artifact_sha256=one.artifact_sha256,
        model=one.model,
        runtime=one.runtime,
        dtype=one.dtype,
        target=Target(one.device, one.backend, one.threads),
        setup=one.fields,
        launches=one.launches,
        failed=one.failed,
        samples=one.samples,
        launch_medians_ms=tuple(one.launch_medians_ms),
        median_ms=one.median_ms,
        p90_ms=one.p90_ms,
    )
