"""One launch on a phone: the runner there, started over adb, and what came of it.

Whatever becomes of it (it crashes, hangs, prints nonsense, its delegate refuses), the result is a
`Launch`: with samples, or with an `error` that says what happened. Only a phone that went away is
an exception (`DeviceLost`), because then nothing is known.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from coronet_deploy.bench.adb import AdbFlood, AdbTimeout, Device, ShellResult
from coronet_deploy.bench.launch import Failed, Failure, Labels
from coronet_deploy.bench.runner import RunnerError, RunnerResult, parse_lines
from coronet_deploy.bench.worker import SAMPLES_LEAST, WARMUP_MOST, WARMUP_SECONDS, has_settled
from coronet_deploy.vocabulary import Launch, Runtime

BACKENDS = {"cpu": "cpu", "gpu": "gpu", "nnapi": "nnapi", "qnn": "external"}
"""A bench's back ends, and what the runner calls how it gets there."""

_STDERR_TAIL = 2000
_SIGNALLED = 128
_KB_PER_MB = 1024
_NS_PER_MS = 1e6
# android_bench/README.md: the runner's exit statuses.
_FAILURES = {
    2: Failure.REFUSED,
    3: Failure.REFUSED,
    4: Failure.DELEGATION,
    5: Failure.REFUSED,
}


@dataclass(frozen=True)
class Setup:
    """Where things stand on the phone: paths there.

    `backend_libraries` and `backend_options` ("key=value") are by back end.
    """

    runner: str
    libraries: Mapping[Runtime, str]
    backend_libraries: Mapping[str, str] = field(default_factory=dict)
    backend_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mask: str | None = None

    def command(
        self, model: str, runtime: Runtime, backend: str, threads: int, *more: str
    ) -> list[str]:
        """Return the runner's command line for a model on a back end."""
        library = self.backend_libraries.get(backend)
        folders = [
            str(PurePosixPath(one).parent) for one in (self.libraries[runtime], library) if one
        ]
        return [
            "env",
            # A runtime or delegate may bring libraries of its own beside it; Qualcomm's DSP
            # looks for its half along a path of its own.
            f"LD_LIBRARY_PATH={':'.join(dict.fromkeys(folders))}",
            f"ADSP_LIBRARY_PATH={folders[-1]}",
            self.runner,
            *("--runtime", runtime.value),
            *("--library", self.libraries[runtime]),
            *("--model", model),
            *("--backend", BACKENDS[backend]),
            *(("--backend-library", library) if library else ()),
            *(
                word
                for option in self._options(runtime, backend)
                for word in ("--backend-option", option)
            ),
            *("--threads", str(threads)),
            *(("--cpu-mask", self.mask) if self.mask else ()),
            *more,
        ]

    def _options(self, runtime: Runtime, backend: str) -> tuple[str, ...]:
        """Return the back end's options; ONNX Runtime's providers go by a name."""
        given = self.backend_options.get(backend, ())
        named = any(option.startswith("provider=") for option in given)
        if runtime is Runtime.ONNX and backend == "qnn" and not named:
            return ("provider=QNN", *given)
        return given


def timing_arguments(samples: int, seconds: float, once_ms: float | None = None) -> tuple[str, ...]:
    """Return the runner's arguments for one timed launch.

    It stops after `samples`, or once `seconds` have passed, but never before `SAMPLES_LEAST` are
    taken, if `samples` allows as many: as on the host. The seconds are stretched to hold so many of
    `once_ms`.
    """
    least = min(SAMPLES_LEAST, samples)
    if once_ms is not None:
        seconds = max(seconds, math.ceil((least + 1) * once_ms / 1000))
    return (
        *("--warmup-runs", str(WARMUP_MOST)),
        *("--warmup-seconds", f"{WARMUP_SECONDS:g}"),
        *("--runs", str(samples)),
        *("--runs-least", str(least)),
        *("--seconds", f"{seconds:g}"),
    )


def execute(device: Device, command: list[str], deadline_s: float) -> RunnerResult:
    """Run the runner and return what it measured.

    Raises:
        Failed: it did not end well.
        DeviceLost: the phone went away.

    """
    try:
        result = device.shell(command, seconds=deadline_s)
    except AdbTimeout as error:
        told = error.stderr.decode(errors="replace")[-_STDERR_TAIL:]
        reason = f"no answer after {deadline_s:g} s: stopped"
        raise Failed(Failure.DEADLINE, reason, told) from error
    except AdbFlood as error:
        raise Failed(Failure.GARBAGE, "the runner wrote without end: stopped") from error
    return outcome(result)


def outcome(result: ShellResult) -> RunnerResult:
    """Return what a runner that ended measured (see `execute`)."""
    told = result.stderr.decode(errors="replace")[-_STDERR_TAIL:]
    if result.status > _SIGNALLED:
        number = result.status - _SIGNALLED
        with contextlib.suppress(ValueError):
            memory = " (out of memory?)" if number == signal.SIGKILL else ""
            what = f"the runner was killed by {signal.Signals(number).name}{memory}"
            raise Failed(Failure.CRASHED, what, told)
        raise Failed(Failure.CRASHED, f"the runner ended with status {result.status}", told)
    if result.status != 0 and not result.stdout.strip():
        # It did not begin: the phone's linker or its rules of what may run say why.
        failure = _FAILURES.get(result.status, Failure.CRASHED)
        reason = f"the runner ended with status {result.status}: {result.complaint}"
        raise Failed(failure, reason, told)
    try:
        parsed = parse_lines(result.stdout.decode(errors="replace").splitlines())
    except RunnerError as error:
        failure = _FAILURES.get(result.status, Failure.GARBAGE)
        raise Failed(failure, str(error), told) from error
    if parsed.interrupted:
        raise Failed(Failure.CRASHED, "the runner was interrupted on the phone", told)
    if not parsed.samples_ms:
        raise Failed(Failure.GARBAGE, "the runner ended without a sample", told)
    return parsed


def measured(labels: Labels, started: str, result: RunnerResult) -> Launch:
    """Return the launch that `result` is."""
    return Launch(
        artifact=labels.artifact,
        artifact_sha256=labels.artifact_sha256,
        target=labels.target,
        order=labels.order,
        samples_ms=result.samples_ms,
        warmup_ms=result.warmup_ms,
        load_ms=result.load_ms,
        peak_rss_mb=result.peak_rss_mb,
        started=started,
        details={"settled": has_settled(result.warmup_ms), **result.details},
    )


def failed(labels: Labels, started: str, why: Failed, details: Mapping[str, Any]) -> Launch:
    """Return the launch that failed."""
    return Launch(
        artifact=labels.artifact,
        artifact_sha256=labels.artifact_sha256,
        target=labels.target,
        order=labels.order,
        samples_ms=(),
        started=started,
        details={**details, "failure": why.failure.value, "stderr": why.stderr},
        error=" ".join(why.reason.split()),
    )


def now() -> str:
    """Return this moment, as a launch's `started`."""
    return datetime.now(UTC).isoformat(timespec="seconds")
