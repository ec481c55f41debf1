"""The SQLite file of a result store where there was none: it stays if a run came into it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from coronet_deploy.errors import EnvironmentProblem

_ENDS = ("-wal", "-shm", "-journal", "")  # the file itself last


@contextlib.contextmanager
def kept_if_filled(path: Path) -> Iterator[None]:
    """Make the folder of the store at `path`, in which one is written meanwhile.

    Was there no file before, and is no run in it afterwards, it is removed, and so are the folders
    that were made for it: unless another process is about to write there.

    Raises:
        EnvironmentProblem: the folder cannot be made.

    """
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    handle = _beside_others(path)
    there = os.path.lexists(path)
    try:
        yield
    finally:
        if not there and handle is not None:
            # A lock that others have a share of is not given, and theirs is the file then.
            with contextlib.suppress(OSError, sqlite3.Error):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_empty(path, made)
        if handle is not None:
            os.close(handle)


def _beside_others(path: Path) -> int | None:
    """Return the folder of `path`, made, with a share of its lock; None where it gives none."""
    folder = path.parent
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(
                f"the result store {path} cannot be made: {error.strerror}", hint="--store FILE"
            ) from error
        handle: int | None = None
        try:
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except FileNotFoundError:
            pass
        except OSError:
            if handle is not None:
                os.close(handle)
            return None
        # Another process made the folder, had nothing to put into it, and removed it just then.
        if handle is not None:
            os.close(handle)


def _remove_empty(path: Path, folders: list[Path]) -> None:
    """Remove the store at `path` if no run is in it, and then the `folders`, the inmost first.

    Raises:
        OSError: something cannot be removed.
        sqlite3.Error: the store cannot be read.

    """
    if path.exists():
        if _holds_runs(path):
            return
        for end in _ENDS:
            path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
    for folder in folders:
        folder.rmdir()


def _holds_runs(path: Path) -> bool:
    # With a log beside it the file is not all there is. Without, it is read as it stands: on a full
    # disk no log can be begun.
    how = "mode=rw" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    opened = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=0)
    with contextlib.closing(opened) as store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_schema")}
        return bool(tables) and (
            "coronet_runs" not in tables
            or store.execute("SELECT 1 FROM coronet_runs").fetchone() is not None
        )
