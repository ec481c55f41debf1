"""What a bench on a phone is given: native files, and how to measure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coronet_deploy.bench.canary import LIMIT
from coronet_deploy.bench.conditions import Limits
from coronet_deploy.bench.elf import check_machine
from coronet_deploy.bench.host import OnDisk
from coronet_deploy.bench.outdated import check_age
from coronet_deploy.bench.plan import PlannedLaunch
from coronet_deploy.errors import BadInput
from coronet_deploy.storage import sha256_of
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Launch, Run, Runtime

CPU = "cpu"
LIBRARY_FLAGS = {
    Runtime.TFLITE: "--litert-library",
    Runtime.ONNX: "--onnxruntime-library",
}

_SETTING_FLAGS = {
    "backends": "backend",
    "deadline_s": "deadline",
    "mask": "cpu-mask",
    "warmest_c": "warmest",
}
"""The flags of settings that are not called what their flags are."""

_BEFORE = "Before the bench was gone on with:"

_WAITS = ("cool_s", "cool_total_s", "reconnect_s")
"""Settings that say how long to wait for a phone: no launch differs by them."""


@dataclass(frozen=True)
class Kit:
    """The native files a bench puts on a phone, here.

    `backend_libraries` (delegates, execution providers) and `backend_options` ("key=value") are by
    back end; a library that is on the phone already is a path there.
    """

    runner: Path
    libraries: Mapping[Runtime, Path]
    backend_libraries: Mapping[str, Path | str] = field(default_factory=dict)
    backend_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vendor_tools: tuple[Path, ...] = ()

    def check(self, machine: str, runtimes: Iterable[Runtime]) -> None:
        """Let files through that a phone of the machine `machine` can run, if none lacks.

        Raises:
            BadInput: one is missing, for another machine, or too old.

        """
        check_machine(self.runner, "--runner", machine)
        check_age(self.runner, "--runner", "build it again with `coronet-deploy runner build`")
        for runtime in sorted(set(runtimes)):
            if runtime not in self.libraries:
                raise BadInput(
                    f"{LIBRARY_FLAGS[runtime]} is not given, and {runtime.value} artifacts need it",
                    hint="or --phone-libraries with a folder that holds it",
                )
            check_machine(self.libraries[runtime], LIBRARY_FLAGS[runtime], machine)
            newer = "unpack it from a newer release of the runtime's Android package"
            check_age(self.libraries[runtime], LIBRARY_FLAGS[runtime], newer)
        for path in self.vendor_tools:
            check_machine(path, "--vendor-tool", machine)
        for backend, library in self.backend_libraries.items():
            if isinstance(library, Path):
                check_machine(library, f"--backend-library {backend}", machine)

    def as_json(self, runtimes: Iterable[Runtime]) -> dict[str, str | list[str]]:
        """Return what a run for `runtimes` keeps of the kit, by flag: SHA-256, and options.

        Of a library that is on the phone already, it is the path there.
        """
        told: dict[str, str | list[str]] = {"runner": sha256_of(self.runner)}
        for runtime in sorted(set(runtimes)):
            flag = LIBRARY_FLAGS[runtime].removeprefix("--")
            told[flag] = sha256_of(self.libraries[runtime])
        for backend, library in sorted(self.backend_libraries.items()):
            own = sha256_of(library) if isinstance(library, Path) else library
            told[f"backend-library {backend}"] = own
        for backend, options in sorted(self.backend_options.items()):
            told[f"backend-option {backend}"] = list(options)
        if self.vendor_tools:
            told["vendor-tool"] = sorted(map(sha256_of, self.vendor_tools))
        return told


@dataclass(frozen=True)
class Settings:
    """How to measure on a phone; times in seconds.

    `repeats` is how often a launch that throttled is made again, `cool_s` bounds each cool-down and
    `cool_total_s` those in vain together, `warmest_c` is how warm skin and battery may be,
    `reconnect_s` bounds the wait for a phone that went away; `mask` pins to CPUs, hexadecimal.
    """

    backends: tuple[str, ...] = (CPU,)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 6
    samples: int = 30
    seconds: float = 3.0
    deadline_s: float = 300.0
    allow_fallback: bool = False
    repeats: int = 2
    cool_s: float = 300.0
    cool_total_s: float = 900.0
    warmest_c: float = Limits.skin_c
    canary_limit: float = LIMIT
    reconnect_s: float = 60.0
    mask: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the settings that a run keeps, as plain JSON values."""
        plain = asdict(self)
        return {**plain, "backends": list(self.backends), "threads": list(self.threads)}


def combinations(subjects: Iterable[OnDisk], backends: Sequence[str]) -> list[tuple[OnDisk, str]]:
    """Return which artifact goes to which back end: a GPU takes no ONNX file here.

    Raises:
        BadInput: there is nothing to measure.

    """
    pairs = [
        (one, backend)
        for one in subjects
        for backend in backends
        if not (backend == "gpu" and runtime_of(one.path) is Runtime.ONNX)
    ]
    if not pairs:
        raise BadInput(
            "--backend gpu takes no ONNX artifact: ONNX Runtime has no GPU back end on phones",
            hint="name a .tflite artifact, or another back end",
        )
    return pairs


def left_out(subjects: Iterable[OnDisk], backends: Sequence[str]) -> list[str]:
    """Return a note for each artifact and back end that `combinations` leaves out."""
    subjects = list(subjects)
    pairs = combinations(subjects, backends)
    return [
        f"{one.name} was not measured on {backend}: ONNX Runtime has no GPU back end on phones."
        for one in subjects
        for backend in backends
        if (one, backend) not in pairs
    ]


def finished_of(
    earlier: Run, now: Mapping[str, Any], subjects: Mapping[str, OnDisk]
) -> list[Launch]:
    """Return the finished launches of a run that was cut short, to go on from under `now`.

    Raises:
        BadInput: it measured something else than `subjects`, or otherwise, or on another phone.

    """
    check_same_bench(earlier, now)
    for name, manifest in earlier.artifacts.items():
        subject = subjects.get(name)
        if subject is None or subject.manifest != manifest:
            told = "is not given now" if subject is None else "is another file"
            raise BadInput(f"run {earlier.id} cannot be gone on with: {name} {told}")
    return [one for one in earlier.launches if one.error is None]


def check_same_bench(earlier: Run, now: Mapping[str, Any]) -> None:
    """Let a run through that was measured under the conditions `now`, so that they are one bench.

    Of a run that keeps nothing of its kit, as older ones do, the kit is not looked at.

    Raises:
        BadInput: it is of another phone, or other settings or native files; says which.

    """
    then = earlier.conditions
    # Runs once kept adb's address of a phone as its serial.
    same = {"device": {now["device"]}, "serial": {now["serial"], now["address"]}}
    if then.get("fingerprint"):  # of Android's build: an update brings other drivers and clocks
        same["fingerprint"] = {now.get("fingerprint")}
    told = [
        f"the {key} {_changed(then.get(key), now[key])}"
        for key, known in same.items()
        if then.get(key) not in known
    ]
    settings, own = _mapping(then.get("settings")), now["settings"]
    if settings:  # runs kept nothing of a setting before there was a flag for it
        settings = {"warmest_c": Settings.warmest_c, **settings}
    told += [
        f"--{_SETTING_FLAGS.get(name, name.replace('_', '-'))} "
        f"{_changed(settings.get(name), own.get(name))}"
        for name in dict.fromkeys([*own, *settings])
        if name not in _WAITS and settings.get(name) != own.get(name)
    ]
    if kit := _mapping(then.get("kit")):
        # A runtime that the earlier run had no artifact for is none that it measured with.
        new = {flag.removeprefix("--") for flag in LIBRARY_FLAGS.values()} - set(kit)
        told += [
            f"--{name} {_changed(kit.get(name), now['kit'].get(name))}"
            for name in dict.fromkeys([*now["kit"], *kit])
            if name not in new and kit.get(name) != now["kit"].get(name)
        ]
    if told:
        raise BadInput(
            f"run {earlier.id} cannot be gone on with: {'; '.join(told)}",
            hint="go on as it was begun, or begin anew without --resume",
        )


def with_earlier(notes: Iterable[str], earlier: Run | None) -> list[str]:
    """Return a bench's notes and those of the run it goes on with, whose launches it holds too."""
    own = dict.fromkeys(notes)
    told = earlier.conditions.get("notes") if earlier else None
    before = map(str, told) if isinstance(told, list | tuple) else ()
    return [
        *own,
        *(
            one if one.startswith(_BEFORE) else f"{_BEFORE} {one}"
            for one in before
            if one not in own
        ),
    ]


def check_planned(kept: Iterable[Launch], sequence: Iterable[PlannedLaunch]) -> None:
    """Check that all launches of an earlier run are among those that are planned now.

    Raises:
        BadInput: one is not, as where an artifact is new, or a back end works that did not.

    """
    planned = {(one.subject.artifact, one.subject.target, one.order) for one in sequence}
    for one in kept:
        if (one.artifact, one.target, one.order) not in planned:
            raise BadInput(
                f"the run cannot be gone on with: launch {one.order + 1} of {one.artifact} on "
                f"{one.target.backend} is not among those that are planned now",
                hint="the artifacts, their order or the back ends that work are others than then: "
                "go on as it was begun, or begin anew without --resume",
            )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _changed(then: object, now: object) -> str:
    return f"was {_plain(then)} then and is {_plain(now)} now"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    return f"the file {text[:12]}" if re.fullmatch("[0-9a-f]{64}", text) else text
