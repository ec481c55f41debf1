"""Start a worker process, wait no longer than the deadline, and read its answer.

Whatever becomes of the process (it crashes, hangs, is killed, prints nonsense), the result is a
`Launch`: with samples, or with an `error` that says what happened.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from coronet_deploy.bench.process import has_ended
from coronet_deploy.vocabulary import Launch, Target

# -P: a file named onnx.py in the user's folder is not the module that the runtimes import.
WORKER = (sys.executable, "-P", "-m", "coronet_deploy.bench.worker")

_ANSWER_MOST_BYTES = 64 << 20
_STDERR_TAIL_BYTES = 2000
# The worker's own alarm rings after ours, which tells more.
_ALARM_LATER_S = 5

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Failure(StrEnum):
    """How a launch failed."""

    REFUSED = "refused"  # the runtime does not load the artifact
    CRASHED = "crashed"
    DEADLINE = "deadline"
    GARBAGE = "garbage"  # an answer that is none
    DELEGATION = "delegation"  # the back end did not take the whole graph
    PARITY = "parity"  # it drew another picture
    THROTTLED = "throttled"  # the phone was too hot, and stayed so
    CHANGED = "changed"  # the artifact is not the file any more that the bench began with


class Failed(Exception):
    """A launch that gave no figures: how and why, and what it printed."""

    def __init__(self, failure: Failure, reason: str, stderr: str = "") -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason
        self.stderr = stderr


class _Answer(BaseModel):
    """What a worker prints when it measured."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples_ms: Annotated[tuple[_Milliseconds, ...], Field(min_length=1)]
    warmup_ms: tuple[_Milliseconds, ...] = ()
    load_ms: _Milliseconds | None = None
    peak_rss_mb: float | None = None
    tools: dict[str, str] = Field(default_factory=dict)
    details: dict[str, JsonValue] = Field(default_factory=dict)


class _Refusal(BaseModel):
    """What a worker prints when it could not measure, and knows why."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    error: str


@dataclass(frozen=True)
class Labels:
    """What a launch is called in its run; `artifact` and `target` as in `Launch`."""

    artifact: str
    artifact_sha256: str
    target: Target
    order: int


@dataclass(frozen=True)
class _Ended:
    """A process that ended: its status (None if it hit the deadline) and what it printed."""

    status: int | None
    stdout: bytes
    stderr: str


def launch(
    labels: Labels, arguments: Sequence[str], *, deadline_s: float, worker: Sequence[str] = WORKER
) -> Launch:
    """Run `worker` with `arguments` and return what came of it.

    Ctrl-C passes through, and ends the process first.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    alarm = ("--alarm", str(int(deadline_s) + _ALARM_LATER_S))
    try:
        ended = _run([*worker, *arguments, *alarm], deadline_s)
    except OSError as problem:  # out of processes, memory or disk: later launches may do better
        error = f"cannot start {worker[0]}: {problem.strerror or problem}"
        return _failed(labels, started, Failure.CRASHED, error, "")
    if ended.status is None:
        error = f"no answer after {deadline_s:g} s: stopped"
        return _failed(labels, started, Failure.DEADLINE, error, ended.stderr)
    with contextlib.suppress(ValidationError):
        refusal = _Refusal.model_validate_json(ended.stdout)
        return _failed(labels, started, Failure.REFUSED, refusal.error, ended.stderr)
    if ended.status != 0:
        return _failed(labels, started, Failure.CRASHED, _cause(ended), ended.stderr)
    try:
        answer = _Answer.model_validate_json(ended.stdout)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        error = f"the worker's answer is not one: {where}: {first['msg']}"
        return _failed(labels, started, Failure.GARBAGE, error, ended.stderr)
    return Launch(
        artifact=labels.artifact,
        artifact_sha256=labels.artifact_sha256,
        target=labels.target,
        order=labels.order,
        samples_ms=answer.samples_ms,
        warmup_ms=answer.warmup_ms,
        load_ms=answer.load_ms,
        peak_rss_mb=answer.peak_rss_mb,
        started=started,
        details={**answer.details, "tools": answer.tools},
    )


def _failed(labels: Labels, started: str, failure: Failure, error: str, stderr: str) -> Launch:
    details: Mapping[str, str] = {"failure": failure.value, "stderr": stderr}
    return Launch(
        artifact=labels.artifact,
        artifact_sha256=labels.artifact_sha256,
        target=labels.target,
        order=labels.order,
        samples_ms=(),
        started=started,
        details=details,
        error=" ".join(error.split()),
    )


def _cause(ended: _Ended) -> str:
    """Say why a process that did not answer ended."""
    status = ended.status or 0
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"the worker was killed by {name}{memory}"
    last = ended.stderr.splitlines()[-1:] or ["it printed nothing"]
    return f"the worker ended with status {status}: {last[0]}"


def _run(command: Sequence[str], deadline_s: float) -> _Ended:
    # Files rather than pipes: a worker that prints without end or leaves a child with the pipe
    # open cannot block us.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = None
        status: int | None = None
        try:
            with _interrupts_wait():
                # A session of its own: Ctrl-C in a terminal reaches us, who decide what ends.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            if has_ended(process, deadline_s):
                status = process.returncode
        finally:
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _Ended(status, _head(stdout), _tail(stderr))


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C and a polite kill back until the block is done, and raise then.

    Popen does not end its child if it is interrupted between fork and exec: nobody would know
    the process that has just been started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises KeyboardInterrupt in the main thread only
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda which, _frame: arrived.append(which))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if arrived:
        raise KeyboardInterrupt


def _head(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return file.read(min(size, _ANSWER_MOST_BYTES))  # which takes memory for as much as it is told


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _STDERR_TAIL_BYTES))
    return file.read().decode(errors="replace").strip()
