"""Native libraries print on stderr what is no news to a user."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from coronet_deploy.errors import EnvironmentProblem


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what native code prints off the terminal; yields a function that returns it so far."""
    sys.stderr.flush()
    kept = os.dup(2)
    with _sink() as sink:

        def printed() -> str:
            sink.seek(0)
            return sink.read().decode(errors="replace")

        os.dup2(sink.fileno(), 2)
        try:
            yield printed
        finally:
            with contextlib.suppress(OSError):  # of a full disk: it is said later, or not at all
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _sink() -> IO[bytes]:
    """Return a file without a name: in memory where the system has such, else on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot make a temporary file: {error.strerror or error}",
            hint="let TMPDIR name a folder that can be written",
        ) from error
