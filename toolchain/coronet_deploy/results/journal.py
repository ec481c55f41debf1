"""A bench's launches on disk as they end, so that what comes later cannot lose them.

A run file is written when a bench is over. Should the disk be full then, or the process be killed
before, hours of measurements would be gone: so each launch is appended to a journal, `<run
id>.partial` in the output folder, whose room is reserved before the first launch. When the run
file is there the journal is removed; a journal that is left behind is read by `read_journal`.

The first line is the run without launches, the others a launch each, the last perhaps the run
without launches again, as it ended. Reserved room that was not used is zeros.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.locks import take_lock
from coronet_deploy.results.files import write_run
from coronet_deploy.results.schema import launch_to_plain, run_from_json, run_to_json
from coronet_deploy.storage import existing_file, plain_json
from coronet_deploy.vocabulary import Launch, Run

SUFFIX = ".partial"

_BESIDE = "Another bench kept its launches in the same folder meanwhile: they shared the cores."

# A float has at most 24 characters; a launch's warm-up may be longer than what is timed.
_FLOAT_BYTES = 26
_WARMUPS = 200
_DETAILS_BYTES = 4096
_SPARE_BYTES = 1 << 16


class Journal:
    """The journal of one bench in `folder`; a bench calls `begin` once, then `add`.

    A failing disk ends no bench: launches go on being kept in memory, and `kept` says how many
    are on disk.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Path | None = None
        self._beside = False
        self.kept = 0
        self.planned = 0
        self._folder = folder
        self._handle = -1
        self._at = 0
        self._whole = True

    def begin(self, run: Run, planned: int) -> None:
        """Write down `run`, which may hold launches already, and reserve room for `planned`.

        Raises:
            EnvironmentProblem: there is no room for them.

        """
        self.planned = planned
        path = self._folder / f"{run.id}{SUFFIX}"
        head = _head(run)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self.path = path
            self._beside = self._is_beside(run)
            # Another bench that looks whether this one goes on has the lock for a moment. Without
            # locks, nobody can tell, and `goes_on` says so.
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_EX)
            _reserve(self._handle, 2 * len(head) + planned * _launch_bytes(run))
        except OSError as error:
            self.remove()
            raise EnvironmentProblem(
                f"cannot keep the launches in {path}: {error.strerror or error}",
                hint="choose another --output or make room",
            ) from error
        self._append(head)
        for launch in run.launches:
            self.add(launch)

    def add(self, launch: Launch) -> None:
        """Write down a launch that ended."""
        if self._append(_line(launch_to_plain(launch))):
            self.kept += 1

    def end(self, run: Run, folder: Path) -> Path:
        """Write `run`, with all its launches, as a run file into `folder`; remove the journal.

        A bench on this host that began or ended beside another one gets a note that says so.

        Raises:
            EnvironmentProblem: the run file cannot be written; names the journal, which stays.

        """
        self._beside |= self._is_beside(run)
        if self._beside:
            run = replace(run, conditions=_with_note(run.conditions, _BESIDE))
        self._append(_head(run))
        try:
            path = write_run(run, folder)
        except EnvironmentProblem as problem:
            self.close()
            if not self.kept or self.path is None:
                raise
            raise EnvironmentProblem(
                f"{problem.what}; {self.kept} of {len(run.launches)} launches are kept in "
                f"{self.path}",
                hint=f"make room, then `{recovery(self.path)}`",
            ) from problem
        self.remove()
        return path

    def _is_beside(self, run: Run) -> bool:
        return _on_host(run.conditions) and bool(running(self._folder, self.path))

    def close(self) -> None:
        """Give back the room that was not used, and leave the file."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, self._at)
        os.close(self._handle)
        self._handle = -1

    def remove(self) -> None:
        """Close the journal and delete it."""
        self.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.path = None

    def _append(self, line: bytes) -> bool:
        """Write a line and sync it; after a failure nothing more, or lines would be torn."""
        if self._handle < 0 or not self._whole:
            return False
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._handle, line[written:], self._at + written)
            _sync(self._handle)
        except OSError:
            self._whole = False
            return False
        self._at += len(line)
        return True


@contextlib.contextmanager
def journaled(folder: Path) -> Iterator[Journal]:
    """Yield a journal in `folder` that outlives an error, if it holds launches by then."""
    journal = Journal(folder)
    try:
        yield journal
    finally:
        if journal.kept:
            journal.close()
        else:
            journal.remove()


def recovery(path: Path) -> str:
    """Return the command, as it is typed, that makes a run file of the journal at `path`."""
    return f"coronet-deploy results recover {shlex.quote(str(path))}"


def going_on(run: Run, path: Path) -> str | None:
    """Return how the bench that the run file at `path` was cut short of is gone on with, if it is.

    One on this host begins anew, and so does a comparison.
    """
    told = run.conditions
    cut_short = bool(told.get("interrupted") or told.get("lost")) and bool(run.launches)
    if not cut_short or _on_host(told) or "compare" in run.command[1:2]:
        return None
    return f"--resume {shlex.quote(str(path))} goes on"


def left_behind(folder: Path) -> list[Path]:
    """Return the journals in `folder` of benches that are over, but wrote no run file."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, EnvironmentProblem):
            if not goes_on(path):
                found.append(path)
    return found


def running(folder: Path, own: Path | None = None) -> list[Path]:
    """Return the journals in `folder`, but one's own, of benches on this host that go on now."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, EnvironmentProblem):
            if path != own and goes_on(path) and _tells_host(path):
                found.append(path)
    return found


def goes_on(path: Path) -> bool:
    """Return whether the bench that keeps the journal at `path` goes on just now.

    Raises:
        EnvironmentProblem: its file system gives no locks, which would tell.

    """
    with path.open("rb") as file:
        # Such a bench holds its journal's lock, and the lock dies with it.
        return not take_lock(file.fileno(), path, fcntl.LOCK_SH)


def _tells_host(path: Path) -> bool:
    """Tell of a journal's first line whether it is of a bench on this host, or not whole yet."""
    with path.open("rb") as file:
        head = file.readline()
    try:
        return _on_host(plain_json(head)["conditions"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return True


def _on_host(conditions: Mapping[str, Any]) -> bool:
    return conditions.get("device") in {None, "host"}


def read_journal(path: Path) -> Run:
    """Return the run that a journal holds, as far as it was written.

    Raises:
        BadInput: it is missing, or not a journal; a last line that was cut short is left out.

    """
    data = existing_file(path, "journal").read_bytes()
    lines = [line for line in data.split(b"\0", 1)[0].split(b"\n") if line.strip()]
    plain: list[Any] = []
    for number, line in enumerate(lines):
        try:
            plain.append(plain_json(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1 and number:
                break
            raise BadInput(f"{path} is not a journal: line {number + 1}: {error}") from error
    if not all(isinstance(one, dict) for one in plain):
        raise BadInput(f"{path} is not a journal of a bench")
    heads = [one for one in plain if "schema_version" in one]
    launches = [one for one in plain if "schema_version" not in one]
    if not heads:
        raise BadInput(f"{path} is not a journal of a bench")
    whole = {**heads[-1], "launches": launches}
    run = run_from_json(json.dumps(whole).encode(), str(path))
    if len(heads) > 1:
        return run
    return replace(run, tools=run.tools or _tools(run), conditions=_cut_off(run.conditions))


def _cut_off(conditions: Mapping[str, Any]) -> dict[str, Any]:
    note = "Recovered from a journal: what the machine was like at the end is not known."
    return {**_with_note(conditions, note), "interrupted": True}


def _with_note(conditions: Mapping[str, Any], note: str) -> dict[str, Any]:
    told = conditions.get("notes")
    notes = list(told) if isinstance(told, list | tuple) else []
    return {**conditions, "notes": [*notes, note]}


def _tools(run: Run) -> dict[str, str]:
    tools: dict[str, str] = {}
    for launch in run.launches:
        own = launch.details.get("tools")
        tools.update(own if isinstance(own, Mapping) else {})
    return dict(sorted(tools.items()))


def _head(run: Run) -> bytes:
    return _line(plain_json(run_to_json(replace(run, launches=()))))


def _line(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _launch_bytes(run: Run) -> int:
    settings = run.conditions.get("settings")
    samples = settings.get("samples") if isinstance(settings, Mapping) else None
    timed = samples if isinstance(samples, int) else _WARMUPS
    return (2 * timed + _WARMUPS) * _FLOAT_BYTES + _DETAILS_BYTES


def _sync(handle: int) -> None:
    sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has the latter
    sync(handle)


def _reserve(handle: int, size: int) -> None:
    size += _SPARE_BYTES
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    if allocate is None:  # on macOS: what is written has its room too
        at = 0
        while at < size:
            at += os.pwrite(handle, bytes(min(_SPARE_BYTES, size - at)), at)
        return
    try:
        allocate(handle, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise
