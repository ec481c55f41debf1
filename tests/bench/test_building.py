"""How the runner is built: `runner build`, its presets, and why a build failed."""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from coronet_deploy.bench.elf import machine_of
from coronet_deploy.bench.runner import Preset, build
from coronet_deploy.errors import EnvironmentProblem
from support import Cli


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        (None, "ANDROID_NDK_HOME is not set"),
        ("", "holds no NDK"),
        ("25.2.9519653", "is r25 .*r26 or later"),
    ],
)
def test_building_for_android_without_its_ndk_says_what_to_do(
    revision: str | None, said: str, cli: Cli, tmp_path: Path
) -> None:
    settings = {key: value for key, value in os.environ.items() if not key.startswith("ANDROID_")}
    if revision is not None:
        settings["ANDROID_NDK_HOME"] = str(tmp_path / "ndk")
    if revision:
        toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
        toolchain.parent.mkdir(parents=True)
        toolchain.touch()
        (tmp_path / "ndk" / "source.properties").write_text(f"Pkg.Revision = {revision}\n")
    result = cli("runner", "build", "--output", tmp_path / "out", env=settings)
    assert result.returncode == 3
    assert re.search(said, result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not os.environ.get("CI") and not shutil.which("aarch64-linux-gnu-gcc"),
    reason="needs gcc-aarch64-linux-gnu",
)
def test_the_android_preset_leaves_the_compiler_to_the_ndk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for the NDK: its toolchain file chooses Debian's cross compiler.
    folder = tmp_path / "ndk" / "build" / "cmake"
    folder.mkdir(parents=True)
    (folder / "android.toolchain.cmake").write_text(
        "set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\nset(ANDROID TRUE)\n"
        "set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)\n"
        "if(ANDROID_ABI)\n"  # CMake's own trials get none of the preset's variables
        'file(WRITE "$ENV{ASKED}" "${ANDROID_ABI} ${ANDROID_PLATFORM}")\nendif()\n'
    )
    (tmp_path / "ndk" / "source.properties").write_text("Pkg.Revision = 26.1.10909125\n")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    built = build(Preset.ANDROID, tmp_path / "out")
    assert machine_of(built) == "aarch64"
    assert alignments(built) == {16384}  # phones with pages of 16 KB load nothing less
    assert (tmp_path / "asked").read_text() == "arm64-v8a android-29"


def alignments(program: Path) -> set[int]:
    """Return how the loadable segments of a 64-bit ELF file are aligned, in bytes."""
    data = program.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + n * size) for n in range(count)]
    return {header[-1] for header in headers if header[0] == 1}


@pytest.mark.parametrize(
    ("said", "reason", "hint"),
    [
        (
            """CMake Error at CMakeLists.txt:1 (cmake_minimum_required):
  CMake 3.21 or higher is required.  You are running version 3.18.4


""",
            "CMake 3.21 or higher is required. You are running version 3.18.4",
            "install CMake 3.21 or later",
        ),
        (
            'CMake Error: Could not read presets from /x: Unrecognized "version" field\n',
            'Could not read presets from /x: Unrecognized "version" field',
            "install CMake 3.21 or later",
        ),
        (
            "CMake Error: Unknown argument --preset\nCMake Error: Run 'cmake --help'\n",
            "Unknown argument --preset",
            "install CMake 3.21 or later",
        ),
        (
            """CMake Error: CMake was unable to find a build program corresponding to "Unix Make".
CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage
""",
            "CMake was unable to find a build program",
            "install make or ninja",
        ),
        (
            """CMake Error at Modules/CMakeDetermineCCompiler.cmake:49 (message):
  Could not find compiler set in environment variable CC:

  /none.
Call Stack (most recent call first):
  CMakeLists.txt:2 (project)
""",
            "Could not find compiler set in environment variable CC: /none.",
            "install a C compiler",
        ),
        (
            """main.c: In function 'main':
main.c:1:24: error: 'x' undeclared
gmake: *** [Makefile:91: all] Error 2
""",
            "main.c:1:24: error: 'x' undeclared",
            "install a C compiler",
        ),
    ],
)
def test_a_build_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str, hint: str
) -> None:
    cmake = tmp_path / "cmake"
    (tmp_path / "said").write_text(said)
    cmake.write_text(
        "#!/bin/sh\necho '-- Configuring incomplete, errors occurred!'\n"
        f'[ "$LC_ALL" = C ] && cat {tmp_path}/said >&2; exit 1\n'
    )
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with pytest.raises(EnvironmentProblem) as refused:
        build(Preset.HOST, tmp_path / "out")
    assert reason in refused.value.what
    assert "Call Stack" not in refused.value.what
    assert hint in (refused.value.hint or "")


def test_ninja_builds_it_where_there_is_no_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake, ninja = tmp_path / "bin" / "cmake", tmp_path / "bin" / "ninja"
    cmake.parent.mkdir()
    cmake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        'if [ "$1" = --build ]; then : > "$2/coronet-runner"; fi\n'
    )
    ninja.write_text("#!/bin/sh\n")
    for program in (cmake, ninja):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(cmake.parent))
    monkeypatch.delenv("CMAKE_GENERATOR", raising=False)
    build(Preset.HOST, tmp_path / "out")
    assert "-G Ninja" in (tmp_path / "asked").read_text().splitlines()[0]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_built(
    cli: Cli, tmp_path: Path
) -> None:
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text(f"#!/bin/sh\ntouch {tmp_path / 'built'}\nexit 1\n")
    cmake.chmod(0o755)
    (tmp_path / "file").touch()
    environment = {"PATH": f"{cmake.parent}:{os.environ['PATH']}"}
    for output in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/coronet")):
        done = cli("runner", "build", "--preset", "host", "--output", output, env=environment)
        assert done.returncode == 3
        assert f"cannot write {output}" in done.stderr
    assert not (tmp_path / "built").exists()


def test_building_without_cmake_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="cmake is not installed"):
        build(Preset.HOST, tmp_path)
    assert list(tmp_path.iterdir()) == []
