"""Measure artifacts on this host, one process a launch, in interleaved rounds.

What it tells is how artifacts compare on this kind of machine. It says nothing of phones.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from coronet_deploy.bench import cores, system
from coronet_deploy.bench.crashes import crash_notes, made_again
from coronet_deploy.bench.launch import WORKER, Failure, Labels, launch
from coronet_deploy.bench.plan import Plan, PlannedLaunch, Subject, make_plan
from coronet_deploy.errors import BadInput
from coronet_deploy.export.manifest import checked_manifest, manifest_path
from coronet_deploy.storage import existing_file, sha256_of
from coronet_deploy.verify.installed import require_installed
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Launch, Run, Target

HOST = "host"
BACKEND = "cpu"

# Called before each launch with how many are done, how many there are (0 while that is not known
# yet), and what runs now.
Progress = Callable[[int, int, str], None]


class Keeper(Protocol):
    """Who keeps a bench's launches as they end (a journal): never the cause that a bench ends."""

    def begin(self, run: Run, planned: int) -> None:
        """Take the run as it is before the first of `planned` launches."""

    def add(self, launch: Launch) -> None:
        """Take a launch that ended."""


class BenchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a bench; `run` holds the launches that had finished, `planned` counts all.

    A KeyboardInterrupt, so that a caller who does not ask ends as on any other Ctrl-C.
    """

    def __init__(self, run: Run, planned: int) -> None:
        super().__init__("interrupted")
        self.run = run
        self.planned = planned


@dataclass(frozen=True)
class OnDisk:
    """An artifact on disk as the run names it, with what is known of it."""

    name: str
    path: Path
    sha256: str
    manifest: Mapping[str, Any]


def bench_host(
    artifacts: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    threads: Sequence[int] = (1, 2),
    rounds: int = 6,
    samples: int = 30,
    seconds: float = 3.0,
    deadline_s: float = 300.0,
    command: Sequence[str] = (),
    progress: Progress = lambda _done, _total, _what: None,
    worker: Sequence[str] = WORKER,
    keeper: Keeper | None = None,
    own_load: float = 0.0,
) -> Run:
    """Return the run of `artifacts` on this host's CPU with each number of `threads`.

    Each of `rounds` launches every artifact once for every number of threads. A launch takes up to
    `samples` samples and stops early, but not below five, after `seconds`. One that has not
    answered after `deadline_s` is stopped, one that crashed is made once more. A failed launch is
    part of the run, as is one whose file was changed meanwhile: it fails. An artifact whose
    launches on a target all failed so far is not launched there again. `command` is kept in the run
    as what was called, and `keeper` gets each launch as it ends. Artifacts are called by their file
    names, or by `names`: then the same file may be measured under two. `own_load` is how much of
    the load average before the first launch may be left of a measurement of the caller's that has
    just ended: not other work.

    Raises:
        BadInput: an artifact is missing, given twice, or not what its manifest says; or nothing
            is asked for.
        EnvironmentProblem: a runtime that one of them takes is not installed.
        BenchInterrupted: Ctrl-C; carries what had finished.

    """
    if samples < 1 or not seconds > 0 or not deadline_s > 0:
        raise BadInput("a bench needs at least 1 sample, and more than 0 seconds")
    if any(count < 1 for count in threads):
        raise BadInput(f"threads {', '.join(map(str, threads))}: each at least 1")
    subjects = {subject.name: subject for subject in load_subjects(artifacts, names)}
    require_installed(runtime_of(subject.path) for subject in subjects.values())
    targets = [Target(HOST, BACKEND, count) for count in threads]
    plan = make_plan(subjects, targets, rounds)
    now = datetime.now(UTC)
    settings = {"rounds": rounds, "samples": samples, "seconds": seconds, "deadline_s": deadline_s}
    run = Run(
        id=f"{now:%Y%m%dT%H%M%SZ}-{HOST}-{secrets.token_hex(4)}",
        created=now.isoformat(timespec="seconds"),
        command=tuple(command),
        conditions={
            **system.host_facts(),
            "settings": settings,
            **({"own_load": own_load} if own_load else {}),
        },
        tools={},
        artifacts={name: subject.manifest for name, subject in subjects.items()},
        launches=(),
    )
    arguments = ("--samples", str(samples), "--seconds", str(seconds))
    unchanged = {name: _Unchanged(subject) for name, subject in subjects.items()}

    total = rounds * len(plan.subjects)
    moving = bool(run.conditions.get("virtual_machine"))
    round_trips: list[float] = []

    def make(planned: PlannedLaunch) -> Launch:
        subject, target = subjects[planned.subject.artifact], planned.subject.target
        if moving and target.threads > 1 and (now_ns := cores.round_trip_ns()):
            round_trips.append(now_ns)
        labels = Labels(subject.name, subject.sha256, target, planned.order)
        own = (str(subject.path.absolute()), "--threads", str(target.threads), *arguments)
        made = made_again(
            lambda: launch(labels, own, deadline_s=deadline_s, worker=worker),
            lambda told: progress(planned.order, total, told),
        )
        return made if made.error else unchanged[subject.name].checked(made)

    finished: list[Launch] = []
    before, ticks, quota = system.host_state(), system.cpu_ticks(), system.cpu_quota()
    if keeper:
        now_known = {**run.conditions, "before": before}
        keeper.begin(replace(run, conditions=now_known), total)

    def ended(*, interrupted: bool) -> Run:
        stolen = system.steal_percent(ticks, system.cpu_ticks())
        allowed = system.cores_allowed()
        after, most = system.host_state(), max(threads)
        notes = [
            *system.busy_notes(before["load_1min"], most, allowed, stolen, own_load),
            *system.shared_notes(most, allowed, system.cores_shared()),
            *system.load_notes(before["load_1min"], after["load_1min"], most),
            *system.quota_notes(quota, system.cpu_quota(), most),
            *cores.moved_notes(round_trips),
            *crash_notes(finished),
        ]
        conditions = {
            **run.conditions,
            "before": before,
            "after": after,
            "steal_percent": stolen,
            "core_round_trip_ns": _range(round_trips),
            "interrupted": interrupted,
            "notes": notes,
        }
        launches = tuple(finished)
        return replace(run, conditions=conditions, tools=_tools(launches), launches=launches)

    try:
        _carry_out(plan, make, finished, progress, keeper)
    except KeyboardInterrupt:
        raise BenchInterrupted(ended(interrupted=True), total) from None
    return ended(interrupted=False)


def _range(values: Sequence[float]) -> list[float] | None:
    """Return the least and the most, whole numbers; None of none."""
    return [round(min(values)), round(max(values))] if values else None


class _Unchanged:
    """Whether an artifact is still the file that the bench began with: an export may replace it."""

    def __init__(self, subject: OnDisk) -> None:
        self._subject = subject
        self._stamp = self._read_stamp()

    def checked(self, made: Launch) -> Launch:
        """Return a launch as it is, or failed if it may have run another file."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return made
        if stamp is not None and sha256_of(self._subject.path) == self._subject.sha256:
            self._stamp = stamp  # written anew, with the same bytes
            return made
        return replace(
            made,
            samples_ms=(),
            warmup_ms=(),
            load_ms=None,
            peak_rss_mb=None,
            details={"failure": Failure.CHANGED.value},
            error=f"{self._subject.path} was changed while the bench went on",
        )

    def _read_stamp(self) -> tuple[int, ...] | None:
        try:
            told = self._subject.path.stat()
        except OSError:
            return None
        return told.st_ino, told.st_size, told.st_mtime_ns


def _carry_out(
    plan: Plan,
    make: Callable[[PlannedLaunch], Launch],
    finished: list[Launch],
    progress: Progress,
    keeper: Keeper | None,
) -> None:
    """Make the host's launches in order, appending each to `finished` as it ends."""
    planned = plan.launches(HOST)
    measured: set[Subject] = set()
    failed: set[Subject] = set()
    for done, one in enumerate(planned):
        progress(done, len(planned), str(one.subject))
        if one.subject in failed - measured:
            continue
        result = make(one)
        finished.append(result)
        if keeper:
            keeper.add(result)
        (failed if result.error else measured).add(one.subject)
    progress(len(planned), len(planned), "done")


def load_subjects(artifacts: Iterable[Path], names: Sequence[str] | None) -> list[OnDisk]:
    """Return the artifacts as a run names them: by `names`, or by their file names.

    Raises:
        BadInput: one is missing or is not what its manifest says, or there is none.

    """
    paths = list(artifacts) if names else list(dict.fromkeys(artifacts))
    if not paths:
        raise BadInput("no artifact to measure")
    subjects = []
    for name, path in zip(names or names_of(paths), paths, strict=True):
        existing_file(path, "artifact")
        digest = sha256_of(path)
        subjects.append(OnDisk(name, path, digest, described(path, digest)))
    return subjects


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return what a run calls the artifacts `paths`, each given once."""
    by_file = [path.name for path in paths]
    # Two folders may hold files of one name: only then the folder is part of the name.
    return [path.name if by_file.count(path.name) == 1 else str(path) for path in paths]


def described(artifact: Path, digest: str) -> Mapping[str, Any]:
    """Return the artifact's manifest, or its runtime, size and hash alone if it has none."""
    if os.path.exists(manifest_path(artifact)):  # noqa: PTH110 - its name may be too long
        return checked_manifest(artifact).as_json()
    return {
        "runtime": runtime_of(artifact).value,
        "bytes": artifact.stat().st_size,
        "sha256": digest,
    }


def _tools(launches: Iterable[Launch]) -> dict[str, str]:
    """Return the versions that the launches' processes used."""
    tools: dict[str, str] = {}
    for one in launches:
        tools.update(one.details.get("tools", {}))
    return dict(sorted(tools.items()))
