"""Run a program no longer than a deadline, and keep no more of its output than a bound.

Whatever the program does (it hangs, prints without end, leaves a child holding its pipes), the
call ends; and however the call ends, Ctrl-C included, the program has ended with it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

OUTPUT_MOST_BYTES = 64 << 20
_CHUNK = 1 << 16
# A child that inherited the pipes may hold them open for ever; what the program itself wrote is
# there at once.
_DRAIN_S = 0.2
_LOOK_FIRST_S, _LOOK_MOST_S = 0.001, 0.05
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


@dataclass
class Limit:
    """The moment, by `time.monotonic`, when calls end that share it; any thread may move it."""

    end: float = math.inf


def run_bounded(
    command: Sequence[str],
    seconds: float,
    limit: Limit | None = None,
    in_vain: Callable[[], bool] | None = None,
) -> Ended:
    """Run `command` with no input for at most `seconds`, and not beyond `limit`.

    `in_vain` is asked meanwhile, several times a second, whether to stop it at once.

    Raises:
        OSError: it cannot be started.

    """
    end = time.monotonic() + seconds

    def left() -> float:
        if in_vain and in_vain():
            return 0.0
        return min(end, limit.end if limit else end) - time.monotonic()

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
            flooded = _read(process, selector, written, left)
            if not flooded and has_ended(process, left()):
                status = process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(status, bytes(out), bytes(err), flooded)


def has_ended(process: subprocess.Popen[bytes], seconds: float = 0.0) -> bool:
    """Tell whether `process` has ended, or does within `seconds`; then its `returncode` is set.

    Not by Popen's `poll` or timed `wait`: Ctrl-C in the middle of those may leave their lock taken,
    and who waits for the process then, to clean up, waits for ever.
    """
    end = time.monotonic() + seconds
    pause_s = _LOOK_FIRST_S
    while process.returncode is None:
        _look(process)
        if process.returncode is None:
            if (left := end - time.monotonic()) <= 0:
                return False
            time.sleep(min(pause_s, left))
            pause_s = min(2 * pause_s, _LOOK_MOST_S)
    return True


def _look(process: subprocess.Popen[bytes]) -> None:
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:  # where children are not waited for: as Popen has it
        process.returncode = 0
        return
    if pid:
        process.returncode = os.waitstatus_to_exitcode(status)


def _read(
    process: subprocess.Popen[bytes],
    selector: selectors.BaseSelector,
    written: dict[int, bytearray],
    left: Callable[[], float],
) -> bool:
    """Collect what `process` writes until it ends or no time is left; tell if it wrote too much."""
    while selector.get_map() and (left_s := left()) > 0:
        over = has_ended(process)
        ready = selector.select(min(left_s, _DRAIN_S))
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
