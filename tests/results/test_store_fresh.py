"""Where there was no store, a command that brings no run into one leaves none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs
from coronet_deploy.results.store import list_runs, open_store
from coronet_deploy.vocabulary import Run
from support import Cli, fill

MakeRun = Callable[..., Run]


@pytest.fixture
def cut(make_run: MakeRun, tmp_path: Path) -> Path:
    """Return a run file that was cut short."""
    path = write_run(make_run(0), tmp_path / "bad")
    path.write_bytes(path.read_bytes()[:300])
    return path


def _names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("action", ["import", "rebuild"])
@pytest.mark.parametrize("place", ["s.sqlite", "new/er/s.sqlite"])
def test_a_command_that_fails_leaves_no_store(
    action: str, place: str, cut: Path, cli: Cli, tmp_path: Path
) -> None:
    for runs, reason in ((cut, "is not a run file"), (tmp_path / "nowhere", "does not exist")):
        done = cli("results", action, runs, "--store", tmp_path / place)
        assert done.returncode == 2
        assert reason in done.stderr
        assert place not in done.stdout
        assert _names_below(tmp_path) == ["bad", "bad/r0000.json"]


def test_a_full_disk_keeps_no_store_without_a_run(
    make_run: MakeRun, disk: Path, cli: Cli, tmp_path: Path
) -> None:
    run = write_run(make_run(0), tmp_path / "runs")
    filler = fill(disk)
    done = cli("results", "import", run, "--store", disk / "new" / "s.sqlite")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert _names_below(disk) == [filler.name]


def test_a_store_that_somebody_fills_is_not_removed(
    make_run: MakeRun, cut: Path, cli: Cli, tmp_path: Path
) -> None:
    place = tmp_path / "new" / "s.sqlite"
    run = write_run(make_run(1), tmp_path / "good")
    program = "import sys\nfrom coronet_deploy.results.store import open_store\n"
    program += "with open_store(sys.argv[1], make=True) as store:\n"
    program += "    with store.write():\n        pass\n    print(flush=True)\n    input()\n"
    line = [sys.executable, "-c", program, str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with open_store(place, make=True) as store:
            first.communicate("\n")  # it had made the store, and brought nothing into it
            assert import_runs(store, [run]).added == 1
    assert cli("results", "import", cut, "--store", place).returncode == 2
    with open_store(place) as store:
        assert [one.id for one in list_runs(store)] == ["r0001"]
