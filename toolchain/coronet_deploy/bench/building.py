"""A step of building the runner with CMake, and why it failed: its own words, and what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from coronet_deploy.errors import EnvironmentProblem

CMAKE_OLDEST = (3, 21)
"""The oldest CMake that reads `android_bench/CMakePresets.json`."""

GET_CMAKE = f"install CMake {'.'.join(map(str, CMAKE_OLDEST))} or later"
GET_MAKE = "install make or ninja"
_GET_COMPILER = "install a C compiler for what it is built for (gcc, gcc-aarch64-linux-gnu)"

_TOO_OLD = re.compile(r"or higher is required|\"version\" field|version too new|argument --preset")
_NO_MAKE = re.compile(r"unable to find a build program|CMAKE_MAKE_PROGRAM is not set")
# A headline says where, and the indented lines below it what.
_OF_CMAKE = re.compile(r"^CMake Error(?: at .*:\n|: )(.+\n?(?:\n?[ \t]+\S.*\n?)*)", re.MULTILINE)
_REASON_MOST = 300


def run_step(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run one command of a build in `folder`.

    Raises:
        EnvironmentProblem: it failed; says why, and what to do about that.

    """
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=folder,
        env={**environment, "LC_ALL": "C"},  # what is looked for below is English
    )
    if result.returncode:
        reason = reason_of(result.stdout, result.stderr)
        raise EnvironmentProblem(
            f"building the runner failed: {reason[:_REASON_MOST]}",
            hint=_hint_for(result.stderr),
        )


def reason_of(stdout: str, stderr: str) -> str:
    """Return what tells best why CMake, a compiler or a linker failed.

    A compiler's error is the cause of CMake's; under ninja it stands on stdout.
    """
    lines = [line.strip() for line in (stderr + "\n" + stdout).splitlines() if line.strip()]
    for mark in (": error:", "undefined reference"):
        if told := next((line for line in lines if mark in line), None):
            return told
    if found := _OF_CMAKE.search(stderr):
        return " ".join(found[1].split())
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["no reason given"])[0]


def generator(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments that have CMake use ninja, where that is here and make is not."""
    if "CMAKE_GENERATOR" in environment or make_program() != shutil.which("ninja"):
        return []
    return ["-G", "Ninja"]


def make_program() -> str | None:
    """Return the path of what runs a build: make, or else ninja; None if neither is here."""
    return next(filter(None, map(shutil.which, ("gmake", "make", "ninja"))), None)


def cmake_version(text: str) -> tuple[int, ...] | None:
    """Return the numbers in what `cmake --version` says, or None if it says none."""
    found = re.search(r"version ([0-9]+(?:\.[0-9]+)+)", text)
    return tuple(map(int, found[1].split("."))) if found else None


def _hint_for(stderr: str) -> str:
    if _TOO_OLD.search(stderr):
        return GET_CMAKE
    return GET_MAKE if _NO_MAKE.search(stderr) else _GET_COMPILER
