"""`coronet-deploy compare --device` on a virtual phone: both sides in turn, and labelled."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.bench.runner import host_library
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import Runtime
from phone_bench import Bench, wait_for
from support import Cli
from virtual_phone import SM8550, AdbServer, VirtualPhone

# A virtual phone does not get warm, and this machine is noisy: a wide margin.
QUICK = (
    "--threads", 1, "--samples", 20, "--seconds", 0.2, "--canary-limit", 50,
    "--margin", 60, "--resolution", 80,
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def native(runner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runner and the TFLite runtime for the virtual phone."""
    folder = tmp_path_factory.mktemp("native")
    (folder / "coronet-runner").symlink_to(runner)
    (folder / "libLiteRt.so").symlink_to(host_library(Runtime.TFLITE))
    return folder


def compared(cli: Cli, tiny: Path, native: Path, place: Path, *more: object) -> Any:
    done = cli(
        "compare", tiny / "tiny.tflite", tiny / "tiny.tflite", "--device", "sm8550", *QUICK,
        "--phone-libraries", native, "--output", place, "--json", *more,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_file_against_itself_is_measured_in_turn_on_the_phone(
    cli: Cli, phone: VirtualPhone, tiny: Path, native: Path, tmp_path: Path
) -> None:
    status, told = compared(
        cli, tiny, native, tmp_path, "--rounds", 4, "--most", 8, "--inconclusive-ok"
    )
    assert status == 0, told
    (row,) = told["rows"]
    assert (row["device"], row["backend"]) == ("sm8550", "cpu")
    assert row["verdict"] in {"same", "inconclusive"}
    assert any("Emulated" in note for note in told["notes"])
    run = read_run(Path(told["run_files"][0]))
    assert [one.artifact.partition("/")[0] for one in run.launches] == [
        "base", "candidate", "candidate", "base",
    ] * 2  # fmt: skip
    assert run.conditions["serial"] == phone.serial
    if row["rerun_launches"] == [4, 4]:
        assert len(told["run_files"]) == 2


def test_a_phone_that_goes_away_for_good_is_not_said_to_be_gone_on_with(
    adb_server: AdbServer, faulty: Path, tiny: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes((tiny / "tiny.tflite").read_bytes() + b"\0")
    with VirtualPhone.boot(SM8550, adb_server) as own:
        bench = Bench(adb_server, own, faulty, tiny / "tiny.tflite", tmp_path / "runs")
        bench.mode("slow")
        own.fake("restart_seconds", "600")
        line = bench.line(other, "--rounds", "4", "--reconnect", "1")
        line[1] = "compare"
        with subprocess.Popen(
            line, stderr=subprocess.PIPE, text=True, env=bench.environment
        ) as process:
            wait_for(process, "launch 2 of 8")
            bench.wait_for_runner()
            own.kill_daemon()
            _, told = process.communicate(timeout=120)
    assert process.returncode == 3
    (path,) = bench.output.glob("*.json")
    # `compare` takes no --resume.
    assert f"1 of 8 launches kept in {path}\n" in told


def test_a_back_end_that_the_phone_lacks_is_invalid_and_not_a_verdict(
    cli: Cli, phone: VirtualPhone, tiny: Path, native: Path, tmp_path: Path
) -> None:
    assert phone.serial
    status, told = compared(
        cli, tiny, native, tmp_path, "--rounds", 4, "--most", 4, "--backend", "cpu,nnapi",
        "--no-parity",
    )  # fmt: skip
    assert status == 3
    rows = {row["backend"]: row for row in told["rows"]}
    assert rows["nnapi"]["verdict"] == "invalid"
    assert "failed" in rows["nnapi"]["reason"]
    assert rows["cpu"]["verdict"] != "invalid"
