"""Run a program no longer than a deadline, and keep no more of its output than a bound.

Whatever the program does (it hangs, prints without end, leaves a child holding its pipes), the
call ends; and however the call ends, Ctrl-C included, the program has ended with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

OUTPUT_MOST_BYTES = 64 << 20
_CHUNK = 1 << 16
# A child that inherited the pipes may hold them open for ever; what the program itself wrote is
# there at once.
_DRAIN_S = 0.2
_LOGGED = re.compile(rb"adb [VDIWEF] \d\d-\d\d \d\d:")


@dataclass(frozen=True)
class Ended:
    """A program that ended: its exit status and what it wrote.

    `status` is None if it was stopped: by the deadline, or because it wrote more than
    `OUTPUT_MOST_BYTES` (then `flooded`); minus a signal's number if that killed it.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    flooded: bool = False


def run_bounded(command: Sequence[str], seconds: float) -> Ended:
    """Run `command` with no input for at most `seconds`.

    Raises:
        OSError: it cannot be started.

    """
    end = time.monotonic() + seconds
    # A session of its own: Ctrl-C in a terminal reaches us, who decide what ends and when.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101 - asked for above
        written: dict[int, bytearray] = {}
        for pipe in (process.stdout, process.stderr):
            written[pipe.fileno()] = bytearray()
            selector.register(pipe, selectors.EVENT_READ)
        out, err = written.values()
        status: int | None = None
        try:
            flooded = _read(process, selector, written, end)
            if not flooded:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(max(0.0, end - time.monotonic()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(status, bytes(out), bytes(err), flooded)


def _read(
    process: subprocess.Popen[bytes],
    selector: selectors.BaseSelector,
    written: dict[int, bytearray],
    end: float,
) -> bool:
    """Collect what `process` writes until it ends or `end`; tell whether it wrote too much."""
    while selector.get_map() and (left := end - time.monotonic()) > 0:
        over = process.poll() is not None
        ready = selector.select(min(left, _DRAIN_S))
        if over and not ready:
            break
        for key, _ in ready:
            if chunk := os.read(key.fd, _CHUNK):
                written[key.fd] += chunk
            else:
                selector.unregister(key.fileobj)
        if sum(map(len, written.values())) > OUTPUT_MOST_BYTES:
            return True
    return False


def last_words(ended: Ended) -> str:
    """Return the line that tells best why a program failed."""
    lines = [line for line in (ended.stderr + b"\n" + ended.stdout).splitlines() if line.strip()]
    # A server that starts prints its log among them: "adb I 11-28 17:25:58 ...".
    lines = [line for line in lines if not _LOGGED.match(line)] or lines
    if not lines:
        return "it did not end in time" if ended.status is None else "it said nothing"
    errors = [line for line in lines if b"rror" in line or b"ailed" in line or b"cannot" in line]
    return (errors or lines)[0].decode(errors="replace").strip()[:300]
