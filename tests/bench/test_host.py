"""A bench of real artifacts, with the failures that a bench must survive."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from coronet_deploy.bench.host import bench_host
from coronet_deploy.bench.system import (
    CpuTicks,
    busy_notes,
    host_facts,
    host_state,
    steal_percent,
    tool_versions,
)
from coronet_deploy.errors import BadInput
from coronet_deploy.results.schema import run_to_json
from coronet_deploy.storage import sha256_of


def test_both_runtimes_are_measured_in_interleaved_launches(tiny: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    run = bench_host(
        [tiny / "tiny.onnx", tiny / "tiny.tflite"],
        threads=(1, 2),
        rounds=2,
        samples=6,
        command=("coronet-deploy", "bench"),
        progress=lambda *told: seen.append(told),
    )
    assert [launch.error for launch in run.launches] == [None] * 8
    order = [(launch.artifact, launch.target.threads) for launch in run.launches]
    assert order[:4] == [("tiny.onnx", 1), ("tiny.onnx", 2), ("tiny.tflite", 1), ("tiny.tflite", 2)]
    assert order[4:] == order[3::-1]
    assert {len(launch.samples_ms) for launch in run.launches} == {6}
    assert run.artifacts["tiny.onnx"]["sha256"] == sha256_of(tiny / "tiny.onnx")
    assert {"onnxruntime", "ai-edge-litert"} < set(run.tools)
    assert {"cpu", "cores", "kernel", "before", "after", "steal_percent"} < set(run.conditions)
    assert run.emulated is False
    assert [done for done, _, _ in seen] == list(range(9))
    assert {total for _, total, _ in seen} == {8}
    run_to_json(run)


def test_a_failing_artifact_costs_no_other_its_samples_and_is_given_up(
    tiny: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x00" * 64)
    run = bench_host([broken, tiny / "tiny.onnx"], threads=(1,), rounds=3, samples=5)
    failed = [launch for launch in run.launches if launch.artifact == "broken.tflite"]
    good = [launch for launch in run.launches if launch.artifact == "tiny.onnx"]
    assert len(failed) == 1
    assert str(broken) in (failed[0].error or "")
    assert [len(launch.samples_ms) for launch in good] == [5, 5, 5]


def test_a_launch_that_fails_once_is_tried_again(tiny: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = (
        f"import os, pathlib; p = pathlib.Path({str(count)!r}); "
        "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); "
        "n == 1 and os.abort(); print('{\"samples_ms\": [1.0]}')"
    )
    run = bench_host(
        [tiny / "tiny.onnx"], threads=(1,), rounds=3, worker=(sys.executable, "-c", code)
    )
    assert [bool(launch.error) for launch in run.launches] == [False, True, False]
    assert run.launches[1].error == "the worker was killed by SIGABRT"


def test_files_of_one_name_in_two_folders_stay_apart(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny.onnx"
    copy.write_bytes((tiny / "tiny.onnx").read_bytes())
    run = bench_host([tiny / "tiny.onnx", copy], threads=(1,), rounds=1, samples=1)
    assert set(run.artifacts) == {str(tiny / "tiny.onnx"), str(copy)}


def test_what_cannot_be_measured_is_refused_before_anything_runs(
    tiny: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "tiny.onnx"
    stranger.write_bytes((tiny / "tiny.onnx").read_bytes())
    (tmp_path / "tiny.onnx.json").write_text(json.dumps({"schema_version": 1, "nmae": "x"}))
    with pytest.raises(BadInput, match=r"tiny\.onnx\.json.*"):
        bench_host([stranger], rounds=1)
    with pytest.raises(BadInput, match="no artifact"):
        bench_host([], rounds=1)
    with pytest.raises(BadInput, match=r"missing\.onnx does not exist"):
        bench_host([tmp_path / "missing.onnx"], rounds=1)
    with pytest.raises(BadInput, match="threads 1, 0"):
        bench_host([tiny / "tiny.onnx"], threads=(1, 0))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match=r"notes\.txt"):
        bench_host([tmp_path / "notes.txt"])


def test_conditions_are_plain_json_and_say_what_disturbs() -> None:
    json.dumps([host_facts(), host_state()], allow_nan=False)
    assert steal_percent(CpuTicks(10, 1000), CpuTicks(15, 1100)) == 5.0
    assert steal_percent(None, CpuTicks(1, 2)) is None
    assert busy_notes(0.1, 2, 2, 0.0) == []
    notes = " ".join(busy_notes(1.75, 4, 2, 3.0))
    assert "1.75" in notes
    assert "4 threads were asked of 2" in notes
    assert "3.0 %" in notes
    assert "numpy" in tool_versions("numpy", "no-such-package")


def test_a_system_that_pins_nothing_and_tells_no_load_is_described_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.delattr("os.sched_getaffinity")  # macOS has none
    monkeypatch.setattr("os.getloadavg", refuse)
    assert host_facts()["cores_allowed"] == host_facts()["cores"]
    assert host_state()["load_1min"] is None


def test_a_target_reads_in_words(tiny: Path) -> None:
    told: list[str] = []
    bench_host(
        [tiny / "tiny.onnx"], threads=(2,), rounds=1, samples=1,
        progress=lambda _done, _total, what: told.append(what),
    )  # fmt: skip
    assert told[0] == "tiny.onnx on host cpu, 2 threads"
