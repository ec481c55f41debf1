"""What a bench would tell a phone, command by command, without telling it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from coronet_deploy.bench.canary import Canary
from coronet_deploy.bench.dryrun import DryDevice
from coronet_deploy.bench.host import load_subjects
from coronet_deploy.bench.launch import Labels
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_kit import Kit, Settings, combinations
from coronet_deploy.bench.phone_launch import now, timing_arguments
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.phone_look import look_at
from coronet_deploy.bench.phone_push import put_all
from coronet_deploy.bench.phone_state import fixed_performance, read_state
from coronet_deploy.bench.phone_trial import ONCE
from coronet_deploy.bench.plan import Plan, Subject
from coronet_deploy.bench.thermals import Thermals
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Target


def say_bench(
    serial: str,
    name: str,
    artifacts: Sequence[Path],
    kit: Kit,
    settings: Settings,
    say: Callable[[str], None],
    pictures: int = 0,
) -> None:
    """Call `say` with each adb command of a bench in which nothing goes wrong, in order.

    `pictures` is how many are drawn to check the phone's with.

    Raises:
        BadInput: an artifact or a native file cannot be used.

    """
    subjects = load_subjects(artifacts, None)
    pairs = combinations(subjects, settings.backends)
    device = DryDevice(serial, say)
    files = PhoneFiles(device)
    look_at(device)
    with PhoneLock(device), files.session(), fixed_performance(device):
        there = put_all(device, files, kit, subjects, settings.mask)
        setup, models, vendors = there.setup, there.models, there.vendors
        runtimes = {one.name: runtime_of(one.path) for one in subjects}
        read_state(device)
        for one, backend in pairs:
            model, runtime = models[one.name], runtimes[one.name]
            line = setup.command(model, runtime, backend, max(settings.threads), *ONCE)
            given, made = files.work_path("input"), files.work_path("output")
            for number in range(pictures):
                device.push(Path(f"input-{number}"), given)
                device.shell(
                    [*line, "--input", given, "--output", made], seconds=settings.deadline_s
                )
                device.pull(made, Path("output"))
            if not pictures:
                device.shell(line, seconds=settings.deadline_s)
        thermals = Thermals(lambda: read_state(device), Canary(device, settings.mask))
        thermals.settle()
        digests = {one.name: one.sha256 for one in subjects}
        timed: dict[Subject, str] = {}
        for one, backend in pairs:
            for threads in settings.threads:
                others = vendors.targets(name, backend, threads, runtimes[one.name])
                for target in (Target(name, backend, threads), *others):
                    timed[Subject(one.name, target)] = backend
        timing = timing_arguments(settings.samples, settings.seconds)
        for planned in Plan(tuple(timed), settings.rounds).launches(name):
            own, target = planned.subject.artifact, planned.subject.target
            model, backend = models[own], timed[planned.subject]
            thermals.wait_until_cool()
            if tool := vendors.tool_of(name, backend, target):
                labels = Labels(own, digests[own], target, planned.order)
                vendors.launch(tool, model, backend, labels, now(), setup, settings)
            else:
                line = setup.command(model, runtimes[own], backend, target.threads, *timing)
                device.shell(line, seconds=settings.deadline_s)
            thermals.measure()
        read_state(device)
