"""The C runner of `android_bench/`: building it, running it here, and reading what it prints."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from coronet_deploy.bench.building import generator, run_step
from coronet_deploy.bench.process import run_bounded
from coronet_deploy.errors import EnvironmentProblem, missing_package
from coronet_deploy.storage import atomic_path, data_dir
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Runtime

NAME = "coronet-runner"
PROTOCOL = 1
"""Of the lines that are read here; `android_bench/README.md` describes them."""

NDK_OLDEST = 26
"""The oldest release of Android's NDK that builds the runner."""

_NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
_SDK_VARIABLES = ("ANDROID_HOME", "ANDROID_SDK_ROOT")
_LINES_TOLD = 80
_KB_PER_MB = 1024
_NS_PER_MS = 1e6
_COUNT_MOST = 2**63


class Preset(StrEnum):
    """What a runner is built for."""

    HOST = "host"
    AARCH64_LINUX = "aarch64-linux"
    ANDROID = "android"


class RunnerError(Exception):
    """The runner's output is not that of a launch that ended well; the message says why."""


class RunnerRefused(RunnerError):
    """The runner said that it cannot do what was asked; `code` is its word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RunnerGarbage(RunnerError):
    """A line is none of the protocol's."""


class RunnerTruncated(RunnerError):
    """The output ends before the runner did its work."""


class RunnerKilled(RunnerError):
    """A signal ended the runner: it crashed, or somebody stopped it."""


class RunnerTimeout(RunnerError):
    """The runner was stopped, for it took longer than it was given."""


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
    interrupted: bool = False


def parse_lines(lines: Sequence[str]) -> RunnerResult:
    """Return what the runner's lines say.

    Raises:
        RunnerRefused: one of them is an error.
        RunnerGarbage: one of them is none of the protocol's.
        RunnerTruncated: lines are missing.

    """
    rows = [_row(line) for line in lines]
    found = {row["kind"]: row for row in rows if row["kind"] in _ONCE}
    samples, warmup = (
        tuple(row["ns"] / _NS_PER_MS for row in rows if row["kind"] == kind) for kind in _TIMED
    )
    if "error" in found:
        error = found["error"]
        raise RunnerRefused(str(error.get("code")), str(error.get("message")))
    if "header" not in found or "end" not in found:
        raise RunnerTruncated("the runner's output is cut short")
    header, end = found["header"], found["end"]
    spoken = header.get("protocol", PROTOCOL)
    if spoken != PROTOCOL:
        raise RunnerGarbage(
            f"the runner speaks protocol {spoken}, and {PROTOCOL} is read here: build it again"
        )
    if end.get("samples") != len(samples):
        raise RunnerTruncated(
            f"{len(samples)} samples arrived of the {end.get('samples')} that were taken"
        )
    try:
        load_ns, peak_kb = _count(header["load_ns"]), _count(end["peak_rss_kb"])
        nodes_taken, nodes, partitions = (
            _count(header.get(key)) for key in ("nodes_taken", "nodes", "partitions")
        )
        return RunnerResult(
            samples,
            warmup,
            None if load_ns is None else load_ns / _NS_PER_MS,
            None if peak_kb is None else peak_kb / _KB_PER_MB,
            nodes_taken,
            nodes,
            partitions,
            {"runner": str(header["version"]), "runtime": str(header["runtime_version"])},
            {key: header[key] for key in _KEPT if key in header},
            bool(end.get("interrupted")),
        )
    except KeyError as error:
        raise RunnerGarbage(f"the runner's header or end lacks {error}") from error


def _row(line: str) -> dict[str, Any]:
    """Return one line of the protocol."""
    with contextlib.suppress(ValueError, RecursionError):
        row = json.loads(line)
        kind = row.get("kind") if isinstance(row, dict) else None
        if kind in _ONCE or (kind in _TIMED and _count(row.get("ns"))):
            return dict(row)
    raise RunnerGarbage(f"garbage from the runner: {line[:_LINES_TOLD]!r}")


def _count(value: object) -> int | None:
    """Return a count or a duration of the protocol; None for null."""
    if value is None:
        return None
    # Not a bool, which is an int too; and what C's long long does not hold, no runner wrote.
    if type(value) is int and 0 <= value < _COUNT_MOST:
        return value
    raise RunnerGarbage(f"garbage from the runner: {str(value)[:_LINES_TOLD]!r} is no count")


_TIMED = ("sample", "warmup")
_ONCE = ("header", "end", "error")
_KEPT = ("cpus_allowed_list", "threads", "model_bytes", "fully_accelerated", "transfers")


def host_command(runner: Path, artifact: Path, *more: object) -> list[str]:
    """Return the command line that runs `artifact` here, by the library of its Python package.

    Raises:
        BadInput: the file's name is not that of an artifact.
        EnvironmentProblem: the runtime is not installed.

    """
    runtime = runtime_of(artifact)
    words = (runner, "--runtime", runtime.value, "--library", host_library(runtime))
    return [str(word) for word in (*words, "--model", artifact, *more)]


def run_runner(command: Sequence[str], seconds: float) -> RunnerResult:
    """Run the runner by `command` on this host, for at most `seconds`, and return what it measured.

    Raises:
        RunnerError: it did not end well; the class says how.
        EnvironmentProblem: it cannot be started.

    """
    try:
        ended = run_bounded(command, seconds)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot start {command[0]}: {error.strerror or error}",
            hint="coronet-deploy runner build --preset host",
        ) from error
    if ended.flooded:
        raise RunnerGarbage("the runner prints without end: stopped")
    if ended.status is None:
        raise RunnerTimeout(f"no answer after {seconds:g} s: stopped")
    if ended.status < 0:
        names = {one.value: one.name for one in signal.Signals}
        named = names.get(-ended.status, f"signal {-ended.status}")
        raise RunnerKilled(f"the runner was killed by {named}")
    result = parse_lines(ended.stdout.decode(errors="replace").splitlines())
    if ended.status:
        raise RunnerTruncated(f"the runner ended with status {ended.status} and gave no reason")
    return result


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
    environment = dict(os.environ)
    if preset is Preset.ANDROID:
        environment["ANDROID_NDK_HOME"] = str(find_ndk(environment).folder)
    source = data_dir("android_bench")
    with tempfile.TemporaryDirectory(prefix="coronet-runner-") as folder:
        configure = [cmake, "-S", str(source), "--preset", preset.value, "-B", folder]
        run_step([*configure, *generator(environment)], source, environment)
        run_step([cmake, "--build", folder], source, environment)
        result = output / NAME
        with atomic_path(result) as temporary:
            shutil.copy2(Path(folder) / NAME, temporary)
    return result


@dataclass(frozen=True)
class Ndk:
    """Android's NDK on this machine; `revision` ("27.2.1") is None if it says none as NDKs do."""

    folder: Path
    revision: str | None


def find_ndk(environment: Mapping[str, str]) -> Ndk:
    """Return the NDK that `environment` names, or else the newest of the SDK that it names.

    Raises:
        EnvironmentProblem: there is none, or it is too old to build the runner.

    """
    folder = _ndk_folder(environment)
    revision = None
    if folder is None:
        reason = f"{_NDK_VARIABLES[0]} is not set"
    elif not os.path.isfile(folder / "build" / "cmake" / "android.toolchain.cmake"):  # noqa: PTH113 - Path.is_file raises
        reason = f"{folder} holds no NDK"
    else:
        revision = _ndk_revision(folder)
        if revision is None or int(revision.split(".")[0]) >= NDK_OLDEST:
            return Ndk(folder, revision)
        reason = f"the NDK in {folder} is r{revision.split('.')[0]} ({revision})"
    raise EnvironmentProblem(
        f"cannot build for Android: {reason}",
        hint=f"install the NDK, r{NDK_OLDEST} or later, and set ANDROID_NDK_HOME to its folder",
    )


def _ndk_folder(environment: Mapping[str, str]) -> Path | None:
    for variable in _NDK_VARIABLES:
        if folder := environment.get(variable):
            return Path(folder).absolute()  # CMake starts in another folder
    for variable in _SDK_VARIABLES:
        if folder := environment.get(variable):
            releases = (Path(folder) / "ndk").absolute().glob("[0-9]*")
            if newest := max(releases, key=_by_number, default=None):
                return newest
    return None


def _by_number(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]{1,9}", path.name)]


def _ndk_revision(folder: Path) -> str | None:
    """Return the NDK's release, if it says one as NDKs do."""
    try:
        text = (folder / "source.properties").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^Pkg\.Revision\s*=\s*([0-9]{1,9}(?![0-9])\S*)", text, re.MULTILINE)
    return found[1] if found else None
