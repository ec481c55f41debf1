"""A bench whose disk is full at the end, or that is killed, loses no launch that ended."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from coronet_deploy.results.files import read_run
from support import COMMAND, Cli, fill

LAUNCHES = 4


def started(artifact: Path, output: Path, launches: int) -> subprocess.Popen[str]:
    """Start a bench and wait until so many launches are on disk."""
    line = [
        str(COMMAND), "bench", str(artifact), "--threads", "1", "--rounds", str(LAUNCHES),
        "--samples", "5", "--output", str(output),
    ]  # fmt: skip
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for path in output.glob("*.partial"):
            if path.read_bytes().count(b"\n") > launches:
                return process
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"the bench kept nothing: {process.communicate()}")


def test_a_disk_that_fills_up_costs_no_launch(cli: Cli, tiny: Path, disk: Path) -> None:
    bench = started(tiny / "tiny.onnx", disk, 1)
    filler = fill(disk)
    out, err = bench.communicate(timeout=120)
    last = err.splitlines()[-1]
    assert (bench.returncode, out) == (3, "")
    assert "No space left" in last
    assert f"{LAUNCHES} of {LAUNCHES} launches are kept in" in last
    (journal,) = disk.glob("*.partial")
    assert f"coronet-deploy results recover {journal}" in last
    filler.unlink()
    done = cli("results", "recover", journal, "--json")
    assert done.returncode == 0, done.stderr
    run = read_run(Path(json.loads(done.stdout)["run_file"]))
    assert [len(launch.samples_ms) for launch in run.launches] == [5] * LAUNCHES
    assert run.conditions["interrupted"] is False
    assert "onnxruntime" in run.tools
    assert not journal.exists()


def test_a_full_disk_is_told_before_anything_is_measured(cli: Cli, tiny: Path, disk: Path) -> None:
    fill(disk)
    done = cli("bench", tiny / "tiny.onnx", "--output", disk)
    assert done.returncode == 3
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "launch 1" not in done.stderr


def test_what_a_killed_bench_measured_is_recovered(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    bench = started(tiny / "tiny.onnx", tmp_path, 2)
    (journal,) = tmp_path.glob("*.partial")
    early = cli("results", "recover", journal)
    assert early.returncode == 2
    assert "goes on" in early.stderr
    bench.kill()
    bench.communicate()
    note = cli("bench", tiny / "missing.onnx", "--output", tmp_path)
    assert f"results recover {journal}" in note.stderr
    done = cli("results", "recover", journal, "--output", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    run = read_run(path)
    assert 2 <= len(run.launches) <= LAUNCHES
    assert run.conditions["interrupted"] is True
    assert run.tools
    table = cli("report", path)
    assert "Recovered from a journal" in table.stdout
