"""Locks: who holds what is told apart from a disk that has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coronet_deploy.results.files import read_run
from coronet_deploy.results.journal import SUFFIX, Journal, goes_on, left_behind, running
from support import TINY_PIX2PIX

RUN = Path(__file__).parents[1] / "results/fixtures/run-v1.json"
ELSEWHERE = "(choose a folder on another file system)"

_LOCKS_FAIL = """
import errno, fcntl, os, sys
code = getattr(errno, sys.argv[1])
def refuse(*_):
    raise OSError(code, os.strerror(code))
fcntl.flock = refuse
from coronet_deploy.cli import main
sys.exit(main(sys.argv[2:]))
"""


def _with_locks_failing(code: str, *line: object) -> str:
    """Return what a command says, last, where the system answers each lock with `code`."""
    done = subprocess.run(
        [sys.executable, "-c", _LOCKS_FAIL, code, *map(str, line)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr
    return done.stderr.splitlines()[-1].removeprefix("coronet-deploy: error: ")


@pytest.fixture
def training(tmp_path: Path) -> list[object]:
    """Return the line of a training whose output folder is there."""
    recipe, output = tmp_path / "recipe.toml", tmp_path / "out"
    phases = "[search]\nsteps = 2\ntarget = 0.5\n[finetune]\nsteps = 2\n"
    recipe.write_text(f"{TINY_PIX2PIX}{phases}")
    output.mkdir()
    return ["train", recipe, "--data", tmp_path / "nowhere", "--output", output]


@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "EINVAL", "ENOSYS"])
def test_a_disk_without_locks_is_not_said_to_be_in_use(code: str, training: list[object]) -> None:
    reason = os.strerror(getattr(errno, code))
    told = _with_locks_failing(code, *training)
    assert told == f"{training[-1]} cannot be locked: {reason} {ELSEWHERE}"


@pytest.mark.parametrize("code", ["EWOULDBLOCK", "EACCES"])
def test_what_others_hold_is_said_to_be_in_use(code: str, training: list[object]) -> None:
    told = _with_locks_failing(code, *training)
    wait = "(wait for it, or choose another folder)"
    assert told == f"{training[-1]} is in use by another run {wait}"


def test_a_journal_whose_bench_cannot_be_told_of_is_not_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(RUN)
    journal = Journal(tmp_path)
    journal.begin(run, len(run.launches))
    journal.close()
    told = _with_locks_failing("ENOLCK", "results", "recover", journal.path)
    assert told == f"{journal.path} cannot be locked: No locks available {ELSEWHERE}"
    assert list(tmp_path.iterdir()) == [journal.path]
    assert left_behind(tmp_path) == [journal.path]

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)  # a bench beside it looks at it, and goes on
    assert (left_behind(tmp_path), running(tmp_path)) == ([], [])
    other = Journal(tmp_path / "other")
    other.begin(run, len(run.launches))
    assert other.kept == len(run.launches)
    assert other.end(run, tmp_path / "other").exists()


def test_a_bench_waits_for_one_that_looks_at_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(RUN)
    take, asked = fcntl.flock, []

    def beside(handle: int, how: int) -> None:
        asked.append(how)
        with (tmp_path / f"{run.id}{SUFFIX}").open("rb") as look:
            take(look.fileno(), fcntl.LOCK_SH)
            ended = threading.Timer(0.1, take, (look.fileno(), fcntl.LOCK_UN))
            ended.start()
            take(handle, how)
            ended.join()

    monkeypatch.setattr("fcntl.flock", beside)
    journal = Journal(tmp_path)
    journal.begin(run, len(run.launches))
    monkeypatch.undo()
    assert asked == [fcntl.LOCK_EX]
    assert goes_on(tmp_path / f"{run.id}{SUFFIX}")
    journal.close()
