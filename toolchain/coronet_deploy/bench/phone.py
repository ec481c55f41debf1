"""Measure artifacts on a phone: interleaved launches, only while it is cool, only what is right.

    run = bench_phone(device, look_at(device), "sm8550", artifacts, kit, settings, ...)

The phone is held for this bench alone, gets what it lacks, and says whether it is cool; then each
artifact is tried on each back end (`phone_trial`), and what passed is timed in interleaved rounds
(`plan`). A phone that goes away is waited for and the bench goes on; one that does not come back
ends it, with the launches that had finished. However it ends, the phone is left as it was found.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from coronet_deploy import __version__
from coronet_deploy.bench.adb import AdbError, Device, DeviceLost
from coronet_deploy.bench.canary import Canary
from coronet_deploy.bench.conditions import Limits, cautions
from coronet_deploy.bench.crashes import crash_notes
from coronet_deploy.bench.emulation import emulated
from coronet_deploy.bench.host import BenchInterrupted, Keeper, OnDisk, Progress, load_subjects
from coronet_deploy.bench.identity import identity
from coronet_deploy.bench.launch import Failure, Labels
from coronet_deploy.bench.phone_back import PhoneGone, fix_again, state_after, wait_until_up
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_kit import (
    Kit,
    Settings,
    check_planned,
    combinations,
    finished_of,
    left_out,
    with_earlier,
)
from coronet_deploy.bench.phone_launch import Setup, execute, failed, now, timing_arguments
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.phone_look import Look
from coronet_deploy.bench.phone_parity import Reference, make_reference
from coronet_deploy.bench.phone_placement import crowded, narrowed, placed
from coronet_deploy.bench.phone_push import put_all
from coronet_deploy.bench.phone_state import fixed_performance, read_state
from coronet_deploy.bench.phone_timing import PhoneTimer, may_pass
from coronet_deploy.bench.phone_trial import Trial, Trials
from coronet_deploy.bench.phone_vendor import VendorTools
from coronet_deploy.bench.plan import Plan, PlannedLaunch, Subject
from coronet_deploy.bench.thermals import StillHot, Thermals
from coronet_deploy.images import Array
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Launch, Run, Target

LOSSES_MOST = 3
"""How often a phone may go away and come back during one bench."""

_QUICK_S = 20.0
_T = TypeVar("_T")


def bench_phone(
    device: Device,
    look: Look,
    name: str,
    artifacts: Sequence[Path],
    kit: Kit,
    settings: Settings,
    *,
    chipset: str | None = None,
    pictures: Callable[[int, int], list[Array]] | None = None,
    earlier: Run | None = None,
    command: Sequence[str] = (),
    progress: Progress = lambda _done, _total, _what: None,
    notes: Sequence[str] = (),
    keeper: Keeper | None = None,
    names: Sequence[str] | None = None,
) -> Run:
    """Return the run of `artifacts` on the phone, which the run calls `name`.

    `look` is the first at it. `pictures(height, width)` gives real pictures, (H, W, 3) in [-1, 1],
    to check the phone's against this host's; without it they are not checked. `earlier` is a run
    that was cut short: its finished launches are kept and the bench goes on from there. `notes` go
    into the run, and `keeper` gets each launch as it ends. Artifacts are called by their file
    names, or by `names`.

    Raises:
        BadInput: an artifact or a native file cannot be used, or `earlier` is of another bench.
        BenchInterrupted: Ctrl-C; carries what had finished.
        PhoneGone: the phone went away for good, or is full; carries what had finished.
        EnvironmentProblem: the phone is in use.

    """
    subjects = load_subjects(artifacts, names)
    bench = _Bench(device, name, subjects, kit, settings, progress, list(notes), keeper)
    bench.prepare(look, chipset, earlier, command)
    try:
        bench.carry_out(pictures)
    except KeyboardInterrupt:
        raise BenchInterrupted(bench.run(interrupted=True), bench.planned) from None
    except AdbError as error:
        raise PhoneGone(error, bench.run(lost=str(error)), bench.planned) from error
    return bench.run()


class _Bench:
    """One bench on one phone while it goes on."""

    def __init__(
        self,
        device: Device,
        name: str,
        subjects: Sequence[OnDisk],
        kit: Kit,
        settings: Settings,
        progress: Progress,
        notes: list[str],
        keeper: Keeper | None,
    ) -> None:
        self.device = device
        self.name = name
        self.subjects = {one.name: one for one in subjects}
        self.kit = kit
        self.settings = settings
        self.progress = progress
        self.notes = notes
        self.keeper = keeper
        self.files = PhoneFiles(device)
        self.lock = PhoneLock(device)
        self.finished: list[Launch] = []
        self.earlier: Run | None = None
        self.planned = 0
        self.losses = 0
        self.tools: dict[str, str] = {"coronet-deploy": __version__}
        self.conditions: dict[str, Any] = {}
        self.trials: dict[tuple[str, str], Trial] = {}
        self.backend_of: dict[Target, str] = {}
        self.vendors = VendorTools(device, self.files, {})
        self.thermals = Thermals(
            lambda: read_state(device),
            Canary(device, settings.mask),
            limit=settings.canary_limit,
            warmest=Limits(settings.warmest_c, settings.warmest_c),
            wait_s=settings.cool_s,
            total_s=settings.cool_total_s,
        )

    def prepare(
        self, look: Look, chipset: str | None, earlier: Run | None, command: Sequence[str]
    ) -> None:
        """Refuse what cannot work on such a phone before anything is pushed."""
        self.notes += left_out(self.subjects.values(), self.settings.backends)
        runtimes = {runtime_of(one.path) for one in self.subjects.values()}
        self.kit.check(look.machine, runtimes)
        facts = look.facts
        self.emulated = emulated(look.properties, look.machine)
        self.created = datetime.now(UTC)
        self.id = f"{self.created:%Y%m%dT%H%M%SZ}-{self.name}-{secrets.token_hex(4)}"
        self.command = tuple(command)
        self.conditions = {
            "device": self.name,
            **identity(self.device.serial, look.properties, self.emulated),
            "cpu": chipset or facts.get("soc"),
            "architecture": look.machine,
            "fingerprint": facts.get("build"),
            "kernel": facts.get("kernel"),
            "emulated_because": self.emulated,
            "phone": dict(facts),
            "clusters": [one.as_json() for one in look.clusters],
            "settings": self.settings.as_json(),
            "kit": self.kit.as_json(runtimes),
        }
        if earlier is not None:
            self.finished += finished_of(earlier, self.conditions, self.subjects)
            self.earlier = earlier
            self.conditions["resumed"] = earlier.id

    def carry_out(self, pictures: Callable[[int, int], list[Array]] | None) -> None:
        """Try and time everything; leaves the phone as it was found."""
        with ExitStack() as stack:
            # First of all: this host need not draw for a phone that another bench holds.
            stack.enter_context(self.lock)
            every = self.subjects.values()
            references = {one.name: make_reference(one, pictures) for one in every if pictures}
            stack.enter_context(self.files.session())
            refused = stack.enter_context(fixed_performance(self.device))
            self.conditions["fixed_performance"] = refused or "on"
            setup, models = self._persistently(self._push)
            before = self._persistently(lambda: read_state(self.device))
            self.conditions["before"] = before.as_json()
            self.notes += [*cautions(before), *crowded(self.settings.mask, self.settings.threads)]
            self._try(setup, models, references)
            if any(trial.failure is None for trial in self.trials.values()):
                self._settle()
            self._time(setup, models)
            self.notes += self.thermals.notes
            self.conditions["after"] = state_after(self.device, before, self.notes)

    def run(self, *, interrupted: bool = False, lost: str | None = None) -> Run:
        """Return the run as it stands; what ended before the first launch holds none."""
        cut_short = interrupted or lost is not None
        launches = [] if cut_short and not self.planned else self.finished
        told = narrowed(launches, self.conditions["clusters"], self.settings.mask)
        told += crash_notes(launches)
        lately = [one.details.get("failure") == Failure.THROTTLED for one in self.finished]
        conditions = {
            **self.conditions,
            "canary": {
                "baseline_ms": self.thermals.baseline_ms,
                "count": self.thermals.canary.count,
                "limit": self.thermals.limit,
            },
            "losses": self.losses,
            "throttled": any(lately),
            "interrupted": cut_short,
            "lost": lost,
            "notes": with_earlier([*self.notes, *told], self.earlier),
        }
        return Run(
            id=self.id,
            created=self.created.isoformat(timespec="seconds"),
            command=self.command,
            conditions=conditions,
            tools=dict(sorted(self.tools.items())),
            artifacts={one.name: one.manifest for one in self.subjects.values()},
            launches=tuple(sorted(launches, key=lambda one: one.order)),
            emulated=self.emulated is not None,
        )

    def _push(self) -> tuple[Setup, dict[str, str]]:
        """Put everything on the phone; returns the native files' and the artifacts' places."""
        self.progress(0, 0, "pushing")
        every, mask = list(self.subjects.values()), self.settings.mask
        there = put_all(self.device, self.files, self.kit, every, mask)
        self.vendors = there.vendors
        return there.setup, there.models

    def _try(
        self, setup: Setup, models: Mapping[str, str], references: Mapping[str, Reference]
    ) -> None:
        trials = Trials(
            self.device, self.files, setup, self.settings.deadline_s, self.settings.allow_fallback
        )
        pairs = combinations(self.subjects.values(), self.settings.backends)
        for done, (subject, backend) in enumerate(pairs):
            place = f"{done + 1} of {len(pairs)}"
            self.progress(0, 0, f"trying {subject.name} on {backend} ({place})")
            trial = self._persistently(
                lambda subject=subject, backend=backend: trials.run(  # type: ignore[misc] # bound now
                    models[subject.name],
                    runtime_of(subject.path),
                    backend,
                    max(self.settings.threads),
                    references.get(subject.name),
                )
            )
            self.trials[subject.name, backend] = trial
            self.tools.update(trial.tools)
            if trial.fallback:
                self.notes.append(
                    f"{subject.name} on {backend} ran partly on the CPU, which was allowed."
                )

    def _settle(self) -> None:
        self.thermals.say = lambda text: self.progress(0, 0, text)
        try:
            self._persistently(self.thermals.settle)
        except StillHot as hot:
            self.notes.append(f"The phone was not cool before the first launch: {hot}.")

    def _time(self, setup: Setup, models: Mapping[str, str]) -> None:
        """Make the planned launches in order, those that an earlier run made left out."""
        kept = list(self.finished)
        sequence = self._plan()
        check_planned(kept, sequence)
        self.planned = len(sequence)
        if self.keeper:
            self.keeper.begin(self.run(), self.planned)
        made = {(one.artifact, one.target, one.order) for one in self.finished}
        measured_ones = {(one.artifact, one.target) for one in self.finished}
        failed_ones: set[tuple[str, Target]] = set()
        for done, one in enumerate(sequence):
            self.thermals.say = lambda text, done=done: self.progress(done, len(sequence), text)  # type: ignore[misc] # bound now
            key = (one.subject.artifact, one.subject.target)
            if (*key, one.order) in made or key in failed_ones - measured_ones:
                continue
            what = f"{one.subject} {self.thermals.temperature}".strip()
            self.progress(done, len(sequence), what)
            launch = self._persistently(lambda one=one: self._launch(one, setup, models))  # type: ignore[misc] # bound now
            self.finished.append(launch)
            if self.keeper:
                self.keeper.add(launch)
            if launch.error is None:
                measured_ones.add(key)
            elif not may_pass(launch, self.thermals):
                failed_ones.add(key)
        self.progress(len(sequence), len(sequence), "done")

    def _plan(self) -> tuple[PlannedLaunch, ...]:
        """Return the launches to make; what failed its trial is recorded as failed, once each."""
        subjects = []
        refused = []
        for (name, backend), trial in self.trials.items():
            # What the CPU did part of is called so wherever it is shown.
            label = f"{backend}+cpu" if trial.fallback else backend
            for threads in self.settings.threads:
                subject = Subject(name, Target(self.name, label, threads))
                if trial.failure is None:
                    runtime = runtime_of(self.subjects[name].path)
                    others = self.vendors.targets(self.name, backend, threads, runtime)
                    subjects += [subject, *(Subject(name, one) for one in others)]
                    self.backend_of |= dict.fromkeys((subject.target, *others), backend)
                else:
                    refused.append((subject, trial.failure, trial.details))
        plan = Plan(tuple(subjects), self.settings.rounds) if subjects else None
        sequence = plan.launches(self.name) if plan else ()
        for order, (subject, failure, details) in enumerate(refused, len(sequence)):
            digest = self.subjects[subject.artifact].sha256
            labels = Labels(subject.artifact, digest, subject.target, order)
            self.finished.append(failed(labels, now(), failure, details))
        return sequence

    def _launch(self, planned: PlannedLaunch, setup: Setup, models: Mapping[str, str]) -> Launch:
        subject, target = self.subjects[planned.subject.artifact], planned.subject.target
        backend, model = self.backend_of[target], models[subject.name]
        labels = Labels(subject.name, subject.sha256, target, planned.order)
        timer = PhoneTimer(self.files, self.thermals, self.settings.repeats)
        if tool := self.vendors.tool_of(self.name, backend, target):
            return timer.launch(
                labels,
                lambda started: self.vendors.launch(
                    tool, model, backend, labels, started, setup, self.settings
                ),
                {},
            )
        trial = self.trials[subject.name, backend]
        timing = timing_arguments(self.settings.samples, self.settings.seconds, trial.once_ms)
        runtime = runtime_of(subject.path)
        command = setup.command(model, runtime, backend, target.threads, *timing)
        return timer.launch(
            labels,
            lambda started: placed(
                labels,
                started,
                execute(self.device, command, self.settings.deadline_s),
                backend,
                fallback=trial.fallback,
                mask=self.settings.mask,
            ),
            {**trial.details, "tools": dict(trial.tools)},
        )

    def _persistently(self, action: Callable[[], _T]) -> _T:
        """Do something on the phone; if it goes away, wait for it, and do it again."""
        while True:
            try:
                self.lock.require()
                return action()
            except DeviceLost:
                self.losses += 1
                if self.losses > LOSSES_MOST:
                    raise
                self._welcome_back()

    def _welcome_back(self) -> None:
        """Wait for the phone and make it what it was: locked, with all files, nothing running."""
        self.progress(0, 0, f"phone {self.device.serial} went away: waiting for it")
        wait_until_up(self.device, self.settings.reconnect_s)
        self.notes.append("The phone went away during the bench, and came back.")
        try:
            self.lock.renew()
            self.notes += fix_again(self.device, self.conditions)
            self.files.put_again()
        except AdbError as error:
            if isinstance(error, DeviceLost):
                return  # what is done next finds out, and counts
            raise
