"""Filling the result store from run files, and taking runs out of it again.

Files are read outside of any transaction and written to the store a batch at a time: when the
store goes away, what earlier batches brought is in, and importing the same files again brings the
rest, because a file that is already in is known by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.results.database import rows, runs, setups
from coronet_deploy.results.entries import RunEntry, RunFiles, entry_of, find_run_files
from coronet_deploy.results.keys import setup_hash
from coronet_deploy.results.store import Filters, Store, list_runs
from coronet_deploy.storage import require_utf8, sha256_of

_T = TypeVar("_T")

BATCH = 100
"""Run files in one transaction."""

_SAME_NAMES = (
    "artifact",
    "artifact_sha256",
    "model",
    "runtime",
    "dtype",
    "launches",
    "failed",
    "samples",
    "median_ms",
    "p90_ms",
)


@dataclass
class Imported:
    """What became of run files: counts, and a line for each that was refused.

    `known` were in the store already, with these bytes. `others` are JSON files in the folders
    that are no run files.
    """

    total: int = 0
    added: int = 0
    replaced: int = 0
    known: int = 0
    others: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """How many files are dealt with."""
        return self.added + self.replaced + self.known + len(self.refused)


Progress = Callable[[Imported], None]


@dataclass(frozen=True)
class Pruned:
    """Runs that were taken out of the store, oldest first, and what became of their files.

    `deleted` files are gone; `spared` ones are not what was imported, or could not be deleted. Of a
    dry run it is what would become of them.
    """

    runs: tuple[RunEntry, ...]
    deleted: tuple[Path, ...] = ()
    spared: tuple[str, ...] = ()


def import_runs(
    store: Store, places: Sequence[Path], progress: Progress = lambda _so_far: None
) -> Imported:
    """Bring the run files among `places` (files and folders) into `store`.

    A file that cannot be used is refused by name and the others go on. A run whose file changed
    or moved is brought up to date; one whose id another, existing file has is refused.

    Raises:
        BadInput: a place does not exist, none holds a run file, or the store is none.
        EnvironmentProblem: the store went away or cannot be written; says how many are in.

    """
    found = _found(places)
    done = _begun(found)
    with store.write():
        pass  # makes the tables, or tells that they cannot be made, before any file is read
    for batch in _batches(found.paths):
        refused = len(done.refused)
        try:
            entries = _unknown(store, batch, done)
            with store.write() as connection:
                counts = _bring_in(connection, entries, done.refused)
        except EnvironmentProblem as problem:
            del done.refused[refused:]
            if not done.settled:
                raise
            held = done.added + done.replaced + done.known
            raise EnvironmentProblem(
                f"{problem.what}; {held} of {done.total} run files are in",
                hint=problem.hint,
            ) from problem
        done.added += counts.added
        done.replaced += counts.replaced
        done.known += counts.known
        progress(done)
    return done


def rebuild(
    store: Store, places: Sequence[Path], progress: Progress = lambda _so_far: None
) -> Imported:
    """Make `store` anew from the run files among `places`: all at once, or left as it was.

    Raises:
        BadInput: a place does not exist, or none holds a run file: a store without a run is not
            what a misspelt folder asks for.
        EnvironmentProblem: the store cannot be written.

    """
    found = _found(places)
    done = _begun(found)
    entries: list[RunEntry] = []
    for path in found.paths:
        data = _content(path, done)
        if data is not None and (entry := _entry(path, data, done)):
            entries.append(entry)
        progress(done)
    if not entries:  # all were refused: what is in the store is better than nothing
        return done
    with store.write(anew=True) as connection:
        counts = _bring_in(connection, entries, done.refused)
    done.added, done.known = counts.added, counts.known
    return done


def prune(
    store: Store,
    *,
    keep: int | None = None,
    before: str | None = None,
    files: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Take old runs out of `store` and return them; with `files`, delete their files too.

    `keep` spares a run that is among that many newest of any of its keys, those that measured it
    and those that failed apart; `before` (UTC, ISO 8601) spares runs made then or later; with both,
    what either spares. A file is deleted only if its bytes are those that were imported. `dry_run`
    changes nothing.
    """
    if keep is None and before is None:
        raise BadInput("nothing says what to prune", hint="--keep N, --before DATE or both")
    spared: set[str] = set()
    everything = list_runs(store)
    if keep is not None:
        counts: dict[object, int] = {}
        for run in everything:  # newest first
            # Nights that failed would else take the place of the last that measured something.
            for kind in {(row.key, row.median_ms is None) for row in run.rows}:
                counts[kind] = counts.get(kind, 0) + 1
                if counts[kind] <= keep:
                    spared.add(run.id)
    old = list_runs(store, Filters(before=before)) if before is not None else everything
    chosen = tuple(run for run in reversed(old) if run.id not in spared)
    if chosen and not dry_run:
        _take_out(store, [run.id for run in chosen])
    if not files:
        return Pruned(chosen)
    outcomes = [(run.path, _delete(run, dry_run=dry_run)) for run in chosen]
    return Pruned(
        chosen,
        deleted=tuple(path for path, reason in outcomes if reason is None),
        spared=tuple(f"{path}: {reason}" for path, reason in outcomes if reason is not None),
    )


def _take_out(store: Store, ids: Sequence[str]) -> None:
    """Take runs out of the store, and the set-ups that no other has."""
    with store.write() as connection:
        for some in _batches(ids):
            connection.execute(rows.delete().where(rows.c.run_id.in_(some)))
            connection.execute(runs.delete().where(runs.c.id.in_(some)))
        connection.execute(setups.delete().where(setups.c.hash.not_in(sa.select(rows.c.setup))))


def _found(places: Sequence[Path]) -> RunFiles:
    """Return the run files among `places`, of which there is one at least (see `import_runs`)."""
    found = find_run_files(places)
    if not found.paths:
        told = found.unlisted or (f"no run file in {', '.join(map(str, places))}",)
        raise BadInput("; ".join(told), hint="`coronet-deploy bench` writes them, to runs")
    return found


def _begun(found: RunFiles) -> Imported:
    """Return where an import of `found` begins: folders that could not be listed are refused."""
    total = len(found.paths) + len(found.unlisted)
    return Imported(total=total, others=found.others, refused=list(found.unlisted))


def _unknown(store: Store, batch: Sequence[Path], done: Imported) -> list[RunEntry]:
    """Return the entries of the files whose bytes the store does not know from that very path."""
    contents = {path: data for path in batch if (data := _content(path, done)) is not None}
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    chosen = sa.select(runs.c.sha256, runs.c.path).where(runs.c.sha256.in_(set(hashes.values())))
    with store.read() as connection:
        known = {(one.sha256, Path(one.path)) for one in connection.execute(chosen)}
    entries = []
    for path, digest in hashes.items():
        if (digest, path) in known:
            done.known += 1
        elif entry := _entry(path, contents[path], done):
            entries.append(entry)
    return entries


def _content(path: Path, done: Imported) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        done.refused.append(f"{path} cannot be read: {error.strerror}")
        return None


def _entry(path: Path, data: bytes, done: Imported) -> RunEntry | None:
    try:
        require_utf8(str(path), "no store can hold it")
        entry = entry_of(data, path)
    except BadInput as error:
        done.refused.append(str(error))
        return None
    # PostgreSQL's text holds none, and one row that it refuses would end the whole import.
    names = (
        (one.artifact, one.model, one.runtime, one.dtype, one.target.device, one.target.backend)
        for one in entry.rows
    )
    if any("\0" in name for some in names for name in some if name):
        done.refused.append(f"{path}: a name with a zero byte cannot be kept in a store")
        return None
    return entry


def _bring_in(connection: Connection, entries: Sequence[RunEntry], refused: list[str]) -> Imported:
    """Write `entries`, a batch in a few statements, and return the counts."""
    done = Imported()
    for batch in _batches(sorted(entries, key=lambda one: one.id)):
        chosen = sa.select(runs.c.id, runs.c.sha256, runs.c.path).where(
            runs.c.id.in_({entry.id for entry in batch})
        )
        held = {one.id: (one.sha256, Path(one.path)) for one in connection.execute(chosen)}
        fresh: dict[str, RunEntry] = {}
        replaced: list[str] = []
        for entry in batch:
            sha256, path = held.get(entry.id, ("", entry.path))
            if entry.id not in held:
                done.added += 1
            elif sha256 == entry.sha256:
                done.known += 1
                if path.exists():
                    continue
                replaced.append(entry.id)
            elif path == entry.path or not path.exists():
                done.replaced += 1
                replaced.append(entry.id)
            else:
                refused.append(f"{entry.path}: {path} is another run of the same id {entry.id}")
                continue
            fresh[entry.id] = entry
            held[entry.id] = entry.sha256, entry.path
        if replaced:
            connection.execute(rows.delete().where(rows.c.run_id.in_(replaced)))
            connection.execute(runs.delete().where(runs.c.id.in_(replaced)))
        _insert(connection, list(fresh.values()))
    return done


def _insert(connection: Connection, entries: Sequence[RunEntry]) -> None:
    """Insert entries that are not in the store: one statement a table, however many they are."""
    fields = {setup_hash(row.setup): dict(row.setup) for entry in entries for row in entry.rows}
    known = connection.execute(
        sa.select(setups.c.hash).where(setups.c.hash.in_(list(fields)))
    ).scalars()
    new_setups = [
        {"hash": digest, "fields": fields[digest]} for digest in sorted(set(fields) - set(known))
    ]
    new_runs = [
        {
            "id": entry.id,
            "path": str(entry.path),
            "sha256": entry.sha256,
            "created": entry.created,
            "emulated": entry.emulated,
        }
        for entry in entries
    ]
    new_rows = [
        {
            "run_id": entry.id,
            "place": place,
            **{name: getattr(row, name) for name in _SAME_NAMES},
            **asdict(row.target),
            "setup": setup_hash(row.setup),
            "launch_medians_ms": list(row.launch_medians_ms),
        }
        for entry in entries
        for place, row in enumerate(entry.rows)
    ]
    for table, lines in ((setups, new_setups), (runs, new_runs), (rows, new_rows)):
        if lines:
            connection.execute(table.insert(), lines)


def _delete(run: RunEntry, *, dry_run: bool) -> str | None:
    """Delete a run's file if it is the one that was imported; return why not, or None."""
    try:
        if sha256_of(run.path) != run.sha256:
            return "its bytes are not those that were imported"
        if not dry_run:
            run.path.unlink()
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _batches(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
