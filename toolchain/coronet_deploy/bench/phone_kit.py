"""What a bench on a phone is given: native files, and how to measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coronet_deploy.bench.canary import LIMIT
from coronet_deploy.bench.elf import check_machine
from coronet_deploy.bench.host import OnDisk
from coronet_deploy.errors import BadInput
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Runtime

CPU = "cpu"
LIBRARY_FLAGS = {
    Runtime.TFLITE: "--litert-library",
    Runtime.ONNX: "--onnxruntime-library",
}


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
            BadInput: one is missing, or for another machine.

        """
        check_machine(self.runner, "--runner", machine)
        for runtime in sorted(set(runtimes)):
            if runtime not in self.libraries:
                raise BadInput(
                    f"{LIBRARY_FLAGS[runtime]} is not given, and {runtime.value} artifacts need it",
                    hint="or --phone-libraries with a folder that holds it",
                )
            check_machine(self.libraries[runtime], LIBRARY_FLAGS[runtime], machine)
        for path in self.vendor_tools:
            check_machine(path, "--vendor-tool", machine)
        for backend, library in self.backend_libraries.items():
            if isinstance(library, Path):
                check_machine(library, f"--backend-library {backend}", machine)


@dataclass(frozen=True)
class Settings:
    """How to measure on a phone; times in seconds.

    `repeats` is how often a launch that throttled is made again, `cool_s` bounds each cool-down,
    `reconnect_s` the wait for a phone that went away; `mask` pins to CPUs, hexadecimal.
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
