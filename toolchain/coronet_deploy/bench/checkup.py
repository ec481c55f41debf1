"""Is everything there that a bench needs, and what to do about what is not: `doctor`.

Each check looks for itself and never raises: what is broken is what it reports.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from coronet_deploy.bench.adb import AdbError, AdbTimeout, Device, call_adb, find_adb, list_devices
from coronet_deploy.bench.attached import (
    DEVICE,
    SERIAL_VARIABLE,
    SILENT,
    SLOW,
    Attached,
    advice_for,
    serial_said,
)
from coronet_deploy.bench.building import (
    CMAKE_OLDEST,
    GET_CMAKE,
    GET_MAKE,
    cmake_version,
    make_program,
)
from coronet_deploy.bench.choose import called, candidates
from coronet_deploy.bench.elf import abi_of, machine_of
from coronet_deploy.bench.outdated import outdated
from coronet_deploy.bench.phone_files import ROOT
from coronet_deploy.bench.process import Limit, run_bounded
from coronet_deploy.bench.runner import NDK_OLDEST, find_ndk
from coronet_deploy.bench.together import ask_all
from coronet_deploy.errors import CoronetError, EnvironmentProblem
from coronet_deploy.verify.installed import MODULES, PACKAGES
from coronet_deploy.vocabulary import Runtime

RUNNER = "coronet-runner"
"""The file name of the program that measures on a phone."""

_FOLDER = "/data/local/tmp"
_ROOM_MB = 300
_QUICK_S = 15.0
_IMPORT_S = 60.0
_REASON_MOST = 200
# The USB class, subclass and protocol of adb's interface (AOSP, adb.h).
_ADB_INTERFACE = ("ff", "42", "01")
# Serials of phones by TCP, of emulators, and of wireless debugging as mDNS names it.
_NOT_BY_USB = re.compile(r":|^emulator-|\._adb(?:-tls-connect|-tls-pairing)?\._tcp")
# What no bench can do without. Of others it makes do: without seq no throttling is looked for,
# without flock a phone is held on this computer alone, and taskset is for --cpu-mask.
_TOOLS = ("timeout", "sha256sum", "env", "grep", "find")
_BUILD = "`coronet-deploy runner build --preset android`"
# What the runner's calls need; LiteRT's took other arguments before.
_OLDEST = {"LiteRT": " (libLiteRt.so of 2.3 or later)", "ONNX Runtime": " (1.17 or later)"}
_ARTIFACTS = {Runtime.TFLITE: "TFLite artifacts", Runtime.ONNX: "ONNX artifacts"}
_LIBRARIES = {
    "LiteRT": ("libLiteRt.so", "libtensorflowlite_c.so"),
    "ONNX Runtime": ("libonnxruntime.so",),
}


class Verdict(StrEnum):
    """What a check came to: a note is worth knowing and stops nothing."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked for: what was found, and what a person can do about it."""

    name: str
    verdict: Verdict
    found: str
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        return {**asdict(self), "verdict": self.verdict.value}


def check_host() -> Iterator[Check]:
    """Check what a bench on this host needs."""
    for runtime, package in PACKAGES.items():
        name, what = f"{package} (here)", _ARTIFACTS[runtime]
        try:
            told = f"{metadata.version(package)}, runs {what}"
        except metadata.PackageNotFoundError:
            fix = "pip install 'coronet-deploy[runtimes]'"
            yield Check(name, Verdict.MISSING, f"not installed: no {what}", fix)
            continue
        reason = _import_problem(MODULES[runtime])
        if reason is None:
            yield Check(name, Verdict.OK, told)
        else:
            fix = f"pip install --force-reinstall {package}, or install what it asks for"
            yield Check(name, Verdict.MISSING, f"installed, and does not load: {reason}", fix)


def _import_problem(module: str) -> str | None:
    """Return why a module cannot be imported, or None; a process of its own may crash over it."""
    try:
        ended = run_bounded([sys.executable, "-P", "-c", f"import {module}"], _IMPORT_S)
    except OSError as error:
        return error.strerror or str(error)
    if ended.status == 0:
        return None
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    if ended.status is not None and ended.status < 0:
        return f"killed by signal {-ended.status}"
    return lines[-1][:_REASON_MOST] if lines else "it gives no reason"


def check_phones(
    folder: Path,
    runner: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    usb: Path | None = None,
) -> Iterator[Check]:
    """Check what a bench on phones needs: adb, its server, each phone, runner and libraries.

    `folder` holds the native files for phones; `runner` is one that stands elsewhere.
    `environment` and `usb` (where Linux lists USB devices) are this machine's if not given.
    """
    told = os.environ if environment is None else environment
    abis = yield from _adb(usb or Path("/sys/bus/usb/devices"), serial_said(told))
    own = folder / RUNNER
    built = runner or (own if _is_there(own) else None)
    yield from _runner(built, told, abis)
    yield from _libraries(folder, abis)


def _adb(usb: Path, wanted: str | None) -> Generator[Check, None, tuple[str, ...]]:
    """Check adb and what is attached; returns what the phones' native files must be for.

    `wanted` is the phone that `ANDROID_SERIAL` names.
    """
    try:
        program = find_adb()
        version = call_adb(["version"], seconds=_QUICK_S).stdout.decode(errors="replace")
    except CoronetError as error:
        yield Check("adb", Verdict.MISSING, error.what, error.hint)
        return ()
    told = re.search(r"^Version (\S+)", version, re.MULTILINE)
    yield Check("adb", Verdict.OK, f"{program}, version {told[1] if told else 'unknown'}")
    try:
        # Starts the server if need be, and says on stderr if another adb's server was there.
        said = call_adb(["start-server"], seconds=60.0).stderr.decode(errors="replace")
        phones = list_devices()
    except CoronetError as error:
        fix = "`adb kill-server`, then again; is another program on its port (5037)?"
        yield Check("adb server", Verdict.MISSING, error.what, fix)
        return ()
    if "doesn't match" in said:
        fix = "keep one adb on this machine: `which -a adb`"
        yield Check("adb server", Verdict.NOTE, "replaced one of another adb's version", fix)
    else:
        yield Check("adb server", Verdict.OK, "answers")
    yield from _usb(usb, phones)
    if wanted:
        yield _chosen(wanted, phones)
    abis: dict[str, None] = {}
    for check, abi in ask_all(_phone, phones):
        yield check
        if abi is not None:
            abis[abi] = None
    return tuple(abis)


def _chosen(wanted: str, phones: tuple[Attached, ...]) -> Check:
    """Check that the phone is there that a bench would take of several."""
    by_adb = any(phone.serial == wanted for phone in phones)
    if by_adb or called(wanted, candidates(phones)):
        return Check(SERIAL_VARIABLE, Verdict.OK, f"{wanted}, which is attached")
    verdict = Verdict.MISSING if phones else Verdict.NOTE
    fix = f"attach it, or unset {SERIAL_VARIABLE}"
    return Check(SERIAL_VARIABLE, verdict, f"{wanted}, which is not attached", fix)


def _usb(usb: Path, phones: tuple[Attached, ...]) -> Iterator[Check]:
    """Tell a phone that is plugged in but not listed, which nothing else would."""
    plugged = _adb_interfaces(usb)
    listed = sum(re.search(_NOT_BY_USB, phone.serial) is None for phone in phones)
    if plugged > listed:
        yield Check(
            "USB",
            Verdict.MISSING,
            f"{plugged} phones with USB debugging are plugged in, adb lists {listed}",
            "install the udev rules for Android phones, then `adb kill-server`",
        )
    if not phones and not plugged:
        fix = "plug a phone in, and switch USB debugging on in its developer options"
        yield Check("phone", Verdict.NOTE, "none is attached", fix)


def _adb_interfaces(usb: Path) -> int:
    names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
    count = 0
    for folder in usb.glob("*:*"):
        try:
            numbers = tuple((folder / name).read_text().strip() for name in names)
        except OSError:
            continue
        count += numbers == _ADB_INTERFACE
    return count


def _phone(phone: Attached, limit: Limit) -> tuple[Check, str | None]:
    """Check that a phone is ready and can do what a bench asks of it; also returns its ABI."""
    name = f"phone {phone.serial}"
    if phone.state != DEVICE:
        return Check(name, Verdict.MISSING, phone.state, phone.advice), None
    device = Device(phone.serial, limit=limit)
    abi = None
    try:
        abi = device.properties().get("ro.product.cpu.abi")
        return _tools(name, device) or _folder(name, device) or _abi(name, device, abi), abi
    except AdbError as error:
        state = SLOW if isinstance(error, AdbTimeout) else SILENT
        fix = error.hint or advice_for(state, phone.serial)
        return Check(name, Verdict.MISSING, error.what, fix), abi


def _tools(name: str, device: Device) -> Check | None:
    """Return what is wrong with the phone's tools, or None."""
    script = f"for one in {' '.join(_TOOLS)}; do command -v $one >/dev/null || echo $one; done"
    lacks = device.shell(script, seconds=_QUICK_S).text.split()
    if not lacks:
        return None
    fix = "use a phone with a newer Android"
    return Check(name, Verdict.MISSING, f"lacks {', '.join(lacks)}", fix)


def _folder(name: str, device: Device) -> Check | None:
    """Return what is wrong with the folders that a bench writes to, or None."""
    if device.shell(["test", "-w", _FOLDER], seconds=_QUICK_S).status != 0:
        return Check(name, Verdict.MISSING, f"{_FOLDER} cannot be written", "restart it")
    if device.shell(f"test ! -e {ROOT} || test -w {ROOT}", seconds=_QUICK_S).status != 0:
        fix = f"remove it: `adb root`, then `adb shell rm -r {ROOT}`, then `adb unroot`"
        return Check(name, Verdict.MISSING, f"{ROOT} cannot be written", fix)
    room = _free_mb(device)
    if room is None or room >= _ROOM_MB:
        return None
    fix = f"make room: a bench needs some {_ROOM_MB} MB"
    return Check(name, Verdict.MISSING, f"{room} MB are free", fix)


def _abi(name: str, device: Device, abi: str | None) -> Check:
    """Return what the phone runs and how much room it has."""
    room = _free_mb(device)
    told = f"{abi or 'unknown'}, {'unknown room' if room is None else f'{room} MB free'}"
    if abi is None or abi.startswith("arm64"):
        return Check(name, Verdict.OK, told)
    return Check(name, Verdict.NOTE, told, f"build the runner and take libraries for {abi}")


def _free_mb(device: Device) -> int | None:
    """Return the free megabytes of the folder that a bench writes to, by `df -k`."""
    df = device.shell(["df", "-k", _FOLDER], seconds=_QUICK_S).text
    found = re.search(r"\s([0-9]+)\s+[0-9]+%\s+/\S*\s*$", df)
    return int(found[1]) // 1024 if found else None


def _runner(
    runner: Path | None, environment: Mapping[str, str], abis: Collection[str]
) -> Iterator[Check]:
    """Check the runner, or whether it can be built."""
    if runner is not None:
        yield _native("runner", runner, abis, _BUILD)
        return
    ndk = _ndk(environment)
    yield _cmake()
    make = make_program()
    yield (
        Check("make or ninja", Verdict.OK, make)
        if make
        else Check("make or ninja", Verdict.MISSING, "neither on PATH", GET_MAKE)
    )
    yield ndk
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    yield (
        Check("C compiler", Verdict.OK, f"{compiler}, for a runner on this host")
        if compiler
        else Check("C compiler", Verdict.NOTE, "none, so no runner on this host", "install gcc")
    )


def _cmake() -> Check:
    """Check that there is a CMake that reads the runner's presets."""
    cmake = shutil.which("cmake")
    if cmake is None:
        return Check("cmake", Verdict.MISSING, "not on PATH", GET_CMAKE)
    try:
        said = run_bounded([cmake, "--version"], _QUICK_S).stdout.decode(errors="replace")
    except OSError as error:
        return Check("cmake", Verdict.MISSING, f"{cmake}: {error.strerror}", GET_CMAKE)
    version = cmake_version(said)
    told = f"{cmake}, {'.'.join(map(str, version)) if version else 'of an unknown version'}"
    if version and version < CMAKE_OLDEST:
        return Check("cmake", Verdict.MISSING, told, GET_CMAKE)
    return Check("cmake", Verdict.OK, told)


def _libraries(folder: Path, abis: Collection[str]) -> Iterator[Check]:
    """Check that there is a runtime's library for phones; one is enough to measure its format."""
    found = {
        what: next((folder / name for name in names if _is_there(folder / name)), None)
        for what, names in _LIBRARIES.items()
    }
    for what, path in found.items():
        name = f"{what} for phones"
        fix = f"put {' or '.join(_LIBRARIES[what])} from its Android package there{_OLDEST[what]}"
        if path is not None:
            yield _native(name, path, abis, fix)
            continue
        verdict = Verdict.NOTE if any(found.values()) else Verdict.MISSING
        yield Check(name, verdict, f"not in {folder}", fix)


def _native(name: str, path: Path, abis: Collection[str], fix: str) -> Check:
    """Check that `path` is a native file, new enough, that an attached phone, if any, can run."""
    try:
        machine, old = machine_of(path), outdated(path)
    except (CoronetError, OSError) as error:
        told = error.what if isinstance(error, CoronetError) else f"{path}: {error.strerror}"
        return Check(name, Verdict.MISSING, told, fix)
    if machine is None:
        told = f"{path} is no native program or library (no ELF file)"
        return Check(name, Verdict.MISSING, told, fix)
    if abis and abi_of(machine) not in abis:
        told = f"{path} is for {machine}, and what is attached is {', '.join(abis)}"
        return Check(name, Verdict.MISSING, told, fix)
    if old is not None:
        return Check(name, Verdict.MISSING, f"{path} is {old}", fix)
    return Check(name, Verdict.OK, f"{path}, for {machine}")


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises of folders that are closed to us


def _ndk(environment: Mapping[str, str]) -> Check:
    """Check that there is an NDK that is new enough; the runner for phones is built with it."""
    name = "Android NDK"
    fix = f"install release {NDK_OLDEST} or later and set ANDROID_NDK_HOME, or give --runner"
    try:
        ndk = find_ndk(environment)
    except (EnvironmentProblem, OSError) as error:
        told = error.what if isinstance(error, EnvironmentProblem) else str(error)
        return Check(name, Verdict.MISSING, told.removeprefix("cannot build for Android: "), fix)
    release = ndk.revision or "of an unknown release"
    return Check(name, Verdict.OK, f"{ndk.folder}, {release}: {_BUILD} makes the runner")
