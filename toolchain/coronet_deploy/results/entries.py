"""What an index keeps of a run file: where it is, and a line for each artifact on each target.

Nothing here knows of a database: a folder of run files gives the same entries and the same
history as a store that they were imported into.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from coronet_deploy.errors import BadInput
from coronet_deploy.results.keys import Key, Setup, setup_hash, setup_of
from coronet_deploy.results.schema import run_from_json
from coronet_deploy.storage import existing_file, plain_json
from coronet_deploy.vocabulary import Launch, Run, Target

_RUN_BEGINS = re.compile(rb'\s*\{\s*"schema_version"\s*:')


@dataclass(frozen=True)
class RowEntry:
    """One artifact on one target in a run; times in ms, None where no launch succeeded.

    `launch_medians_ms` are in order of time, `median_ms` is their median, `p90_ms` the 90th
    percentile of all samples (None where a vendor's program kept none). `model`, `runtime` and
    `dtype` are the manifest's, None without.
    """

    artifact: str
    artifact_sha256: str
    model: str | None
    runtime: str | None
    dtype: str | None
    target: Target
    setup: Setup = field(hash=False)
    launches: int
    failed: int
    samples: int
    launch_medians_ms: tuple[float, ...]
    median_ms: float | None
    p90_ms: float | None

    @property
    def key(self) -> Key:
        """The line of history that the row belongs to, whatever file bears its name."""
        return Key(self.artifact, self.target, setup_hash(self.setup))


@dataclass(frozen=True)
class RunEntry:
    """A run file: its path, the SHA-256 of its bytes, its rows; `created` is UTC, ISO 8601."""

    id: str
    path: Path
    sha256: str
    created: str
    emulated: bool
    rows: tuple[RowEntry, ...]


@dataclass(frozen=True)
class HistoryPoint:
    """One run's measurement in a line of history; see `RowEntry` for the figures."""

    created: str
    run_id: str
    path: Path
    artifact_sha256: str
    launch_medians_ms: tuple[float, ...]
    median_ms: float
    p90_ms: float | None
    emulated: bool


@dataclass(frozen=True)
class RunFiles:
    """What was found under some paths: run files, in order, and how many other JSON files.

    `unlisted` has a line for each folder that could not be looked into.
    """

    paths: tuple[Path, ...]
    others: int
    unlisted: tuple[str, ...] = ()


def find_run_files(places: Sequence[Path]) -> RunFiles:
    """Return the run files among `places`: files as they are, folders with all that is below.

    What a link leads to is below, too: a network's share of run files is often linked to.
    A folder may hold other JSON files too (manifests, or what `--json` printed): those that are
    whole and say nowhere that they are runs are passed over. One that is cut short is not: it may
    be a run.

    Raises:
        BadInput: a place does not exist.

    """
    found: dict[Path, None] = {}
    others = 0
    unlisted: list[str] = []

    def note(error: OSError) -> None:
        unlisted.append(f"folder {error.filename} cannot be listed: {error.strerror}")

    for place in places:
        if not place.is_dir():
            found[existing_file(place, "run file").absolute()] = None
            continue
        for path in sorted(path for path in _below(place, note) if path.suffix == ".json"):
            if path.name.startswith(".") or not path.is_file():
                continue
            if _is_other_json(path):
                others += 1
            else:
                found[path.absolute()] = None
    return RunFiles(tuple(found), others, tuple(unlisted))


def read_entry(path: Path) -> RunEntry:
    """Return the entry of the run file at `path`.

    Raises:
        BadInput: it is not a run file; names it and what is wrong.

    """
    return entry_of(existing_file(path, "run file").read_bytes(), path)


def entry_of(data: bytes, path: Path) -> RunEntry:
    """Return the entry of the run file whose bytes are `data` (see `read_entry`)."""
    run = run_from_json(data, str(path))
    return RunEntry(
        id=run.id,
        path=path.absolute(),
        sha256=hashlib.sha256(data).hexdigest(),
        created=_utc(run.created, path),
        emulated=run.emulated,
        rows=row_entries(run),
    )


def row_entries(run: Run) -> tuple[RowEntry, ...]:
    """Return the rows of `run`, in the order its artifacts and targets were first launched."""
    groups: dict[tuple[str, Target], list[Launch]] = {}
    for launch in run.launches:
        groups.setdefault((launch.artifact, launch.target), []).append(launch)
    return tuple(_row(run, name, target, launches) for (name, target), launches in groups.items())


def history_of(entries: Iterable[RunEntry], key: Key) -> list[HistoryPoint]:
    """Return the points of `entries` that belong to `key`, oldest first (see `store.history`)."""
    points = [
        HistoryPoint(
            entry.created,
            entry.id,
            entry.path,
            row.artifact_sha256,
            row.launch_medians_ms,
            row.median_ms,
            row.p90_ms,
            entry.emulated,
        )
        for entry in entries
        for row in entry.rows
        if (row.artifact, row.target) == (key.artifact, key.target)
        and row.key.setup == key.setup
        and key.artifact_sha256 in {None, row.artifact_sha256}
        and row.median_ms is not None
    ]
    return sorted(points, key=lambda point: (point.created, point.run_id))


def moment_of(created: str) -> datetime:
    """Return when a run was made, in UTC; that is what a date without a zone is taken for.

    Raises:
        ValueError: it is no ISO 8601 date.

    """
    moment = datetime.fromisoformat(created)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:  # of the first or the last day that there is
        raise ValueError(str(error)) from error


def _below(place: Path, note: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield the files below `place`, and below the folders that links there lead to, each once.

    A folder is called by a link only if it has no other name there. A link to a folder that holds
    `place` is not followed. `note` is told of folders that cannot be listed.
    """
    own = Path(os.path.realpath(place))
    seen: set[Path] = set()
    tops = [place]
    for top in tops:  # grows by the links that are met: folders of their own are walked first
        for folder, folders, names in os.walk(top, onerror=note):
            real = Path(os.path.realpath(folder))
            if real in seen or (real != own and own.is_relative_to(real)):
                folders.clear()
                continue
            seen.add(real)
            inner = sorted(Path(folder, name) for name in folders)
            # Path.is_symlink raises of a path that is too long.
            tops += [path for path in inner if os.path.islink(path)]  # noqa: PTH114
            yield from (Path(folder, name) for name in names)


def _row(run: Run, name: str, target: Target, launches: Sequence[Launch]) -> RowEntry:
    measured = [launch for launch in launches if launch.error is None]
    medians = tuple(one for launch in measured if (one := launch.median_ms) is not None)
    samples = [sample for launch in measured for sample in launch.samples_ms]
    manifest = run.artifacts.get(name, {})
    return RowEntry(
        artifact=name,
        artifact_sha256=launches[0].artifact_sha256,
        model=_text(manifest, "model"),
        runtime=_text(manifest, "runtime"),
        dtype=_text(manifest, "dtype"),
        target=target,
        setup=setup_of(run, measured or launches),
        launches=len(measured),
        failed=len(launches) - len(measured),
        samples=len(samples),
        launch_medians_ms=medians,
        median_ms=statistics.median(medians) if medians else None,
        p90_ms=float(np.percentile(samples, 90)) if samples else None,
    )


def _text(manifest: Mapping[str, object], name: str) -> str | None:
    value = manifest.get(name)
    return value if isinstance(value, str) else None


def _utc(created: str, path: Path) -> str:
    """Return `created` in UTC to the second, so that text order is time's order."""
    try:
        return moment_of(created).isoformat(timespec="seconds")
    except ValueError as error:
        raise BadInput(f"{path}: created: {created!r} is not an ISO 8601 date") from error


def is_run_file(path: Path) -> bool:
    """Return whether the file at `path` is whole JSON that means to be a run."""
    try:
        return _says_it_is_a_run(plain_json(path.read_bytes()))
    except (ValueError, RecursionError):
        return False


def _is_other_json(path: Path) -> bool:
    try:
        data = path.read_bytes()
        holds_launches = b'"launches"' in data
        # Ours begin with their version, and need not be read as JSON twice.
        if holds_launches and _RUN_BEGINS.match(data):
            return False
        plain = plain_json(data)
    except (OSError, ValueError, RecursionError):
        return False
    return not (holds_launches and _says_it_is_a_run(plain))


def _says_it_is_a_run(plain: object) -> bool:
    """Tell whether whole JSON means to be a run: reports too count "launches" in their rows."""
    return isinstance(plain, dict) and (
        "schema_version" in plain or isinstance(plain.get("launches"), list)
    )
