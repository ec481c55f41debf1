"""Native files that are too old are told before anything is pushed, and by the runner itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from coronet_deploy.bench.checkup import Check, Verdict, check_phones
from coronet_deploy.bench.outdated import RUNNER_OLDEST, outdated
from coronet_deploy.bench.phone_kit import Kit
from coronet_deploy.bench.runner import RunnerRefused, host_command, host_library, run_runner
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Runtime
from phone_bench import Bench

RIG = Path(__file__).parents[1] / "rig"
MACHINE = "x86_64"


@pytest.fixture
def old_runner(runner: Path, tmp_path: Path) -> Path:
    """Return a runner that says of itself that it is of version 1."""
    own = f'"version":"{RUNNER_OLDEST}"'.encode()
    held = runner.read_bytes()
    assert held.count(own) == 1
    path = tmp_path / "old" / runner.name
    path.parent.mkdir()
    path.write_bytes(held.replace(own, b'"version":"1"'))
    path.chmod(0o755)
    return path


@pytest.fixture
def old_litert(tmp_path: Path) -> Path:
    """Return a library with the calls of an old LiteRT."""
    path = tmp_path / "litert" / "libLiteRt.so"
    path.parent.mkdir()
    flags = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["gcc", *flags, "-o", path, RIG / "old_litert.c"], check=True)
    return path


def test_what_is_built_and_installed_here_is_new_enough(runner: Path) -> None:
    assert outdated(runner) is None
    told = subprocess.run([runner, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"coronet-runner {RUNNER_OLDEST}\n"
    for runtime in Runtime:
        assert outdated(host_library(runtime)) is None


def test_old_files_are_refused_by_their_flags(
    runner: Path, old_runner: Path, old_litert: Path
) -> None:
    library = {Runtime.TFLITE: host_library(Runtime.TFLITE)}
    Kit(runner, library).check(MACHINE, library)
    said = f"--runner {old_runner} is a runner of version 1, and {RUNNER_OLDEST} or later"
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        Kit(old_runner, library).check(MACHINE, library)
    assert "runner build" in (caught.value.hint or "")
    said = f"--litert-library {old_litert} is LiteRT of before 2.1.6"
    with pytest.raises(BadInput, match=re.escape(said)):
        Kit(runner, {Runtime.TFLITE: old_litert}).check(MACHINE, library)


def test_the_doctor_tells_them_too(old_runner: Path, old_litert: Path, tmp_path: Path) -> None:
    def found(name: str, runner: Path, folder: Path) -> Check:
        checks = check_phones(folder, runner, environment={}, usb=tmp_path)
        return next(check for check in checks if check.name == name)

    check = found("runner", old_runner, old_litert.parent)
    assert (check.verdict, "of version 1" in check.found) == (Verdict.MISSING, True)
    assert "runner build" in (check.fix or "")
    check = found("LiteRT for phones", old_runner, old_litert.parent)
    assert (check.verdict, "before 2.1.6" in check.found) == (Verdict.MISSING, True)
    assert "2.3 or later" in (check.fix or "")


def test_a_bench_refuses_an_old_runner_before_it_tells_the_phone_anything(
    bench: Bench, old_runner: Path
) -> None:
    done = bench("--runner", old_runner)
    assert done.returncode == 2
    assert "is a runner of version 1" in done.stderr
    assert "pushing" not in done.stderr


def test_the_runner_refuses_an_old_litert_before_it_crashes(
    runner: Path, old_litert: Path, tiny: Path
) -> None:
    command = host_command(runner, tiny / "tiny.tflite", "--library", old_litert)
    with pytest.raises(RunnerRefused, match=r"older than 2\.1\.6.*2\.3 or later") as caught:
        run_runner(command, 60)
    assert caught.value.code == "library"
