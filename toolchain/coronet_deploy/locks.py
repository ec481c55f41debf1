"""Locks that die with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from coronet_deploy.errors import EnvironmentProblem

# The last where the system makes one kind of lock of another, as for files of another host.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class InUse(EnvironmentProblem):
    """Another process holds the lock; whatever else keeps one from it is no such error."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if missing) for this process alone, by a lock that dies with it.

    Raises:
        InUse: another process holds it.
        EnvironmentProblem: it cannot be made, or its disk has no locks.

    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab")
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror or error}") from error
    with handle:
        if not take_lock(handle.fileno(), folder, fcntl.LOCK_EX):
            raise InUse(
                f"{folder} is in use by another run", hint="wait for it, or choose another folder"
            )
        yield


def take_lock(handle: int, path: Path, how: int) -> bool:
    """Lock the open file `handle`, without waiting; return False if another process holds it.

    Raises:
        EnvironmentProblem: its file system gives no locks; names `path`.

    """
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise EnvironmentProblem(
            f"{path} cannot be locked: {error.strerror}",
            hint="choose a folder on another file system",
        ) from error
    return True
