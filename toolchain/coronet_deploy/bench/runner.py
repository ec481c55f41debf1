"""The C runner of `android_bench/`: building it, and reading what it prints."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from coronet_deploy.errors import EnvironmentProblem, missing_package
from coronet_deploy.storage import atomic_path, data_dir
from coronet_deploy.vocabulary import Runtime

NAME = "coronet-runner"
_LINES_TOLD = 80
_KB_PER_MB = 1024
_NS_PER_MS = 1e6


class Preset(StrEnum):
    """What a runner is built for."""

    HOST = "host"
    AARCH64_LINUX = "aarch64-linux"
    ANDROID = "android"


class RunnerError(Exception):
    """The runner's output is not that of a launch that ended well; the message says why."""


@dataclass(frozen=True)
class RunnerResult:
    """What a launch of the runner measured.

    `nodes_taken` of `nodes` is what the back end runs, None where the runtime does not say;
    `tools` are the versions of runner and runtime, `details` the rest of the header.
    """

    samples_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    load_ms: float | None
    peak_rss_mb: float | None
    nodes_taken: int | None
    nodes: int | None
    partitions: int | None
    tools: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def parse_lines(lines: Sequence[str]) -> RunnerResult:
    """Return what the runner's lines say.

    Raises:
        RunnerError: one of them is an error or none of the protocol's, or the last is missing.

    """
    found: dict[str, dict[str, Any]] = {}
    taken: dict[str, list[float]] = {"sample": [], "warmup": []}
    for line in lines:
        try:
            one = json.loads(line)
            kind = one["kind"]
            if kind in taken:
                taken[kind].append(one["ns"] / _NS_PER_MS)
            else:
                found[kind] = one
        except (ValueError, TypeError, KeyError) as error:
            raise RunnerError(f"garbage from the runner: {line[:_LINES_TOLD]!r}") from error
    if "error" in found:
        raise RunnerError(str(found["error"].get("message")))
    if "header" not in found or "end" not in found:
        raise RunnerError("the runner's output is cut short")
    header, end = found["header"], found["end"]
    try:
        return RunnerResult(
            tuple(taken["sample"]),
            tuple(taken["warmup"]),
            header["load_ns"] / _NS_PER_MS,
            None if end["peak_rss_kb"] is None else end["peak_rss_kb"] / _KB_PER_MB,
            header.get("nodes_taken"),
            header.get("nodes"),
            header.get("partitions"),
            {"runner": str(header["version"]), "runtime": str(header["runtime_version"])},
            {key: header[key] for key in _KEPT if key in header},
        )
    except (KeyError, TypeError) as error:
        raise RunnerError(f"the runner's header or end lacks {error}") from error


_KEPT = ("cpus_allowed_list", "threads", "model_bytes", "fully_accelerated", "transfers")


def host_library(runtime: Runtime) -> Path:
    """Return the runtime's library that its Python package on this host carries.

    Raises:
        EnvironmentProblem: the package is not installed, or carries none.

    """
    package, pattern = {
        Runtime.TFLITE: ("ai_edge_litert", "libLiteRt.so"),
        Runtime.ONNX: ("onnxruntime", "capi/libonnxruntime.so*"),
    }[runtime]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_package(package, "runtimes")
    for folder in spec.submodule_search_locations:
        for library in sorted(Path(folder).glob(pattern)):
            return library
    raise EnvironmentProblem(f"the package {package} carries no {pattern}")


def build(preset: Preset, output: Path) -> Path:
    """Build the runner for `preset` with CMake, put it into the folder `output`, return its path.

    Raises:
        EnvironmentProblem: CMake, the compiler or the NDK is missing, or the build fails.

    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise EnvironmentProblem(
            "cmake is not installed", hint="apt-get install cmake, or your system's way"
        )
    if preset is Preset.ANDROID:
        _check_ndk()
    source = data_dir("android_bench")
    with tempfile.TemporaryDirectory(prefix="coronet-runner-") as folder:
        _step([cmake, "-S", str(source), "--preset", preset.value, "-B", folder], source)
        _step([cmake, "--build", folder], source)
        result = output / NAME
        with atomic_path(result) as temporary:
            shutil.copy2(Path(folder) / NAME, temporary)
    return result


def _check_ndk() -> None:
    root = os.environ.get("ANDROID_NDK_HOME")
    toolchain = Path(root or "") / "build" / "cmake" / "android.toolchain.cmake"
    if root and toolchain.is_file():
        return
    reason = f"{root} holds no NDK" if root else "ANDROID_NDK_HOME is not set"
    raise EnvironmentProblem(
        f"cannot build for Android: {reason}",
        hint="install the NDK, r26 or later, and set ANDROID_NDK_HOME to its folder",
    )


def _step(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if result.returncode:
        told = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        errors = [line for line in told if "rror" in line]
        raise EnvironmentProblem(
            f"building the runner failed: {(errors or told or ['no reason given'])[0].strip()}",
            hint="install a C compiler for what it is built for (gcc, gcc-aarch64-linux-gnu)",
        )
