"""`coronet-deploy bench --device CHIPSET`: the part of the command that is about phones."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._phone_flags import COOL_DOWNS, PHONE_FILES, RUNNER
from coronet_deploy.errors import BadInput, EnvironmentProblem

if TYPE_CHECKING:  # heavy, and --help needs none of them
    from coronet_deploy.bench.adb import Device
    from coronet_deploy.bench.choose import Candidate
    from coronet_deploy.bench.host import Progress
    from coronet_deploy.bench.phone_kit import Kit, Settings
    from coronet_deploy.images import Array
    from coronet_deploy.results.journal import Journal
    from coronet_deploy.vocabulary import Run, Runtime

_LIBRARIES = {
    "tflite": ("libLiteRt.so", "libtensorflowlite_c.so"),
    "onnx": ("libonnxruntime.so",),
}
# Of Android's read-only partitions makers keep their libraries on some or others.
_ON_PHONE = tuple(
    f"/{name}/"
    for name in ("vendor", "odm", "system", "system_ext", "product", "apex", "data/local")
)


def measure_phone(
    args: argparse.Namespace,
    artifacts: Sequence[Path],
    progress: Progress,
    journal: Journal,
    names: Sequence[str] | None = None,
) -> Run:
    """Measure on the phone that `--device` means; `journal` keeps the launches as they end.

    Artifacts are called by their file names, or by `names`.

    Raises:
        CoronetError: see `phone.bench_phone` and `choose.find`.

    """
    from coronet_deploy.bench.adb import Device
    from coronet_deploy.bench.choose import find
    from coronet_deploy.bench.clusters import differences
    from coronet_deploy.bench.phone import bench_phone
    from coronet_deploy.bench.phone_look import look_at
    from coronet_deploy.profiles import load_profiles

    profiles = load_profiles(args.profiles) if args.profiles else load_profiles()
    earlier = read_earlier(args.resume) if args.resume else None
    found = find(args.device, serial=args.serial, profiles=profiles)
    device = Device(found.attached.serial)
    look = look_at(device)
    if look.screen == "on":
        print(
            f"the screen of phone {device.serial} is on: if somebody uses it, it is slower",
            file=sys.stderr,
        )
    told = differences(look.clusters, found.profile) if found.profile else ()
    notes = [*told, *_asked_otherwise(args)]
    return bench_phone(
        device,
        look,
        name_of(found),
        artifacts,
        read_kit(args, look.machine, artifacts),
        read_settings(args),
        chipset=found.chipset,
        pictures=None if args.no_parity else _reader(_paths(args)),
        earlier=earlier,
        command=("coronet-deploy", *sys.argv[1:]),
        progress=progress,
        notes=notes,
        keeper=journal,
        names=names,
    )


def _asked_otherwise(args: argparse.Namespace) -> list[str]:
    """Return a sentence for each thing asked for that a reader of the figures must know."""
    told = []
    if args.no_parity:
        told.append("The phone's pictures were not checked (--no-parity).")
    if args.cpu_mask:
        told.append(f"Launches were pinned to some of the CPUs (--cpu-mask {args.cpu_mask}).")
    told += [
        f"{name} was given {option} (--backend-option)." for name, option in args.backend_option
    ]
    return told


def dry_run(args: argparse.Namespace, artifacts: Sequence[Path]) -> int:
    """Print what a bench would tell the phone; asks only which phones there are."""
    from coronet_deploy.bench.adb import Device
    from coronet_deploy.bench.attached import serial_said
    from coronet_deploy.bench.choose import ANY, find
    from coronet_deploy.bench.phone_dry import say_bench
    from coronet_deploy.profiles import find_profile, load_profiles

    profiles = load_profiles(args.profiles) if args.profiles else load_profiles()
    name, serial, machine = args.device, args.serial or serial_said() or "SERIAL", "aarch64"
    try:
        found = find(name, serial=args.serial, profiles=profiles)
    except EnvironmentProblem as error:
        if name != ANY:
            try:
                name = find_profile(name, profiles).id
            except BadInput:  # a phone by its address, which no profile stands for
                raise error from None
        print(f"no phone yet: {error}", file=sys.stderr)
    else:
        name, serial = name_of(found), found.attached.serial
        machine = _machine(Device(serial))
    kit, pictures = read_kit(args, machine, artifacts), _paths(args)
    say_bench(serial, name, artifacts, kit, read_settings(args), print, len(pictures))
    return 0


def read_earlier(path: Path) -> Run:
    """Return the run to go on with.

    Raises:
        BadInput: it is no run file; of a journal, says how it becomes one.

    """
    from coronet_deploy.results.files import read_run
    from coronet_deploy.results.journal import SUFFIX, recovery
    from coronet_deploy.storage import existing_file

    data = existing_file(path, "--resume").read_bytes()
    if path.suffix == SUFFIX:
        raise BadInput(
            f"--resume {path} is the journal of a bench that was cut off, and no run file",
            hint=f"`{recovery(path)}` makes a run file of it",
        )
    try:
        binary = "\0" in data.decode()
    except UnicodeDecodeError:
        binary = True
    if binary:
        raise BadInput(f"--resume {path} is no run file: it is not text")
    return read_run(path)


def name_of(found: Candidate) -> str:
    """Return what a run calls the phone: its profile, or what it calls its chipset."""
    if found.profile:
        return found.profile.id
    return re.sub(r"[^A-Za-z0-9._-]", "-", (found.chipset or found.attached.serial).lower())


def read_settings(args: argparse.Namespace) -> Settings:
    """Return how to measure, as the flags say."""
    from coronet_deploy.bench.phone_kit import Settings

    return Settings(
        backends=args.backend,
        threads=args.threads,
        rounds=args.rounds,
        samples=args.samples,
        seconds=args.seconds,
        deadline_s=args.deadline,
        allow_fallback=args.allow_fallback,
        repeats=args.repeats,
        cool_s=args.cool_down,
        cool_total_s=args.cool_down_total or COOL_DOWNS * args.cool_down,
        warmest_c=args.warmest,
        canary_limit=args.canary_limit,
        reconnect_s=args.reconnect,
        mask=args.cpu_mask,
    )


def read_kit(args: argparse.Namespace, machine: str, artifacts: Sequence[Path]) -> Kit:
    """Return the native files for a phone of `machine`, as the flags say or where they stand.

    Raises:
        BadInput: one that is needed is missing; says which flag and which folder.

    """
    from coronet_deploy.bench.elf import abi_of
    from coronet_deploy.bench.phone_kit import LIBRARY_FLAGS, Kit
    from coronet_deploy.verify.runtimes import runtime_of

    folder = args.phone_libraries or PHONE_FILES / abi_of(machine)
    given = {"tflite": args.litert_library, "onnx": args.onnxruntime_library}
    libraries: dict[Runtime, Path] = {}
    for runtime in sorted({runtime_of(path) for path in artifacts}):
        libraries[runtime] = given[runtime] or _find(
            folder, _LIBRARIES[runtime], LIBRARY_FLAGS[runtime], f"{runtime} artifacts"
        )
    runner = args.runner or _find(folder, (RUNNER,), "--runner", "a bench on a phone")
    backends: dict[str, Path | str] = {}
    for backend, path in args.backend_library:
        backends[backend] = path if path.startswith(_ON_PHONE) else Path(path)
    options: dict[str, tuple[str, ...]] = {}
    for backend, option in args.backend_option:
        options[backend] = (*options.get(backend, ()), option)
    for name in sorted({*backends, *options} - set(args.backend)):
        raise BadInput(
            f"--backend-library or --backend-option {name}: --backend does not name {name}"
        )
    return Kit(runner, libraries, backends, options, tuple(args.vendor_tool))


def _find(folder: Path, names: Sequence[str], flag: str, what: str) -> Path:
    for name in names:
        if os.path.isfile(folder / name):  # noqa: PTH113 - Path.is_file raises of closed folders
            return folder / name
    build = (
        "`coronet-deploy runner build --preset android` makes it; "
        if flag == "--runner"
        else "unpack it from the runtime's Android package; "
    )
    raise BadInput(
        f"{names[0]} is needed for {what}, and {folder} holds none",
        hint=f"{build}give it with {flag} or its folder with --phone-libraries",
    )


def _machine(device: Device) -> str:
    return device.shell(["uname", "-m"], seconds=15.0, check=True).text


def _paths(args: argparse.Namespace) -> list[Path]:
    """Return the pictures to check the phone's with; none with `--no-parity`."""
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.images import list_pictures

    if args.no_parity:
        return []
    return list_pictures(args.pictures) if args.pictures else bundled_pictures()


def _reader(paths: Sequence[Path]) -> Callable[[int, int], list[Array]]:
    from coronet_deploy.images import read_picture

    return lambda height, width: [read_picture(path, height, width) for path in paths]
