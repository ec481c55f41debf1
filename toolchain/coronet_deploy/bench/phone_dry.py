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
from coronet_deploy.bench.phone_launch import Setup, now, timing_arguments
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.phone_state import fixed_performance, read_screen, read_state
from coronet_deploy.bench.phone_trial import ONCE
from coronet_deploy.bench.phone_vendor import put_tools
from coronet_deploy.bench.plan import Plan, Subject
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
    read_screen(device)
    with PhoneLock(device), files.session(), fixed_performance(device):
        setup = Setup(
            runner=files.put(kit.runner),
            libraries={one: files.put(path) for one, path in sorted(kit.libraries.items())},
            backend_libraries={
                one: files.put(path) if isinstance(path, Path) else path
                for one, path in kit.backend_libraries.items()
            },
            backend_options=kit.backend_options,
            mask=settings.mask,
        )
        models = {one.name: files.put(one.path) for one in subjects}
        runtimes = {one.name: runtime_of(one.path) for one in subjects}
        vendors = put_tools(device, files, kit.vendor_tools)
        canary = Canary(device, settings.mask)
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
        canary.measure()
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
            read_state(device)
            if tool := vendors.tool_of(name, backend, target):
                labels = Labels(own, digests[own], target, planned.order)
                vendors.launch(tool, model, backend, labels, now(), setup, settings)
            else:
                line = setup.command(model, runtimes[own], backend, target.threads, *timing)
                device.shell(line, seconds=settings.deadline_s)
            canary.measure()
