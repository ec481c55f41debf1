"""A bench of real artifacts, with the failures that a bench must survive."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from coronet_deploy.bench.clusters import core_names
from coronet_deploy.bench.host import bench_host
from coronet_deploy.bench.system import (
    CpuTicks,
    Quota,
    busy_notes,
    cores_shared,
    cpu_quota,
    host_facts,
    host_state,
    load_notes,
    quota_notes,
    shared_notes,
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


def crashing(tmp_path: Path, starts: str) -> tuple[str, ...]:
    """Return a worker that crashes at some of its starts, as "n == 1" says of their numbers."""
    count = tmp_path / "count"
    code = (
        f"import os, pathlib; p = pathlib.Path({str(count)!r}); "
        "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1)); "
        f"{starts} and os.abort(); print('{{\"samples_ms\": [1.0]}}')"
    )
    return (sys.executable, "-c", code)


def test_a_launch_that_crashed_is_made_once_more_and_told(tiny: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    run = bench_host(
        [tiny / "tiny.onnx"],
        threads=(1,),
        rounds=3,
        worker=crashing(tmp_path, "n == 1"),
        progress=lambda *told: seen.append(told),
    )
    assert [launch.error for launch in run.launches] == [None, None, None]
    assert (1, 3, "the worker was killed by SIGABRT: once more") in seen
    (crash,) = run.launches[1].details["crashed_launches"]
    assert crash["reason"] == "the worker was killed by SIGABRT"
    assert crash["started"]
    (note,) = [one for one in run.conditions["notes"] if "crash" in one]
    assert note == (
        "tiny.onnx on cpu, 1 thread: a launch was made again after a crash: "
        "the worker was killed by SIGABRT."
    )
    run_to_json(run)


def test_a_launch_that_crashes_twice_fails_and_a_later_one_is_tried_again(
    tiny: Path, tmp_path: Path
) -> None:
    worker = crashing(tmp_path, "n in (1, 2)")
    run = bench_host([tiny / "tiny.onnx"], threads=(1,), rounds=3, worker=worker)
    assert [bool(launch.error) for launch in run.launches] == [False, True, False]
    assert run.launches[1].error == "the worker was killed by SIGABRT, twice"
    assert run.launches[1].details["failure"] == "crashed"
    assert [len(one.samples_ms) for one in run.launches] == [1, 0, 1]


def test_an_artifact_that_is_replaced_meanwhile_is_not_measured_as_the_one_it_was(
    tiny: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "tiny.onnx"
    whole = (tiny / "tiny.onnx").read_bytes()
    artifact.write_bytes(whole)

    def export(done: int, _total: int, _what: str) -> None:
        if done == 1:  # the same bytes, as an export of the same network writes
            artifact.unlink()
            artifact.write_bytes(whole)
        if done == 2:
            artifact.write_bytes((tiny / "tiny.tflite").read_bytes())
        if done == 3:
            artifact.unlink()

    code = "print('{\"samples_ms\": [1.0]}')"
    worker = (sys.executable, "-c", code)
    run = bench_host([artifact], threads=(1,), rounds=4, worker=worker, progress=export)
    first, same, other, gone = run.launches
    assert (first.error, same.error) == (None, None)
    for launch in (other, gone):
        assert launch.samples_ms == ()
        assert launch.error == f"{artifact} was changed while the bench went on"


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
    assert busy_notes(2.2, 2, 2, 0.0, own_load=2) == []
    assert "2.75" in busy_notes(2.75, 2, 2, 0.0, own_load=2)[0]
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


def test_what_a_container_is_allowed_and_who_came_meanwhile_is_told(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "cgroup"
    inner = root / "pod" / "job"
    inner.mkdir(parents=True)
    own.write_text("1:cpu:/old\n0::/pod/job\n")
    assert cpu_quota(root, own) is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(root, own) is None
    (root / "pod" / "cpu.max").write_text("150000 100000\n")
    (root / "pod" / "cpu.stat").write_text("usage_usec 1\nnr_periods 9\nnr_throttled 7\n")
    assert cpu_quota(root, own) == Quota(1.5, 7)
    own.write_text("0::/\n")  # as in a container, which sees its own group as the root
    (root / "cpu.max").write_text("400000 100000\n")
    assert cpu_quota(root, own) == Quota(4.0, 0)
    assert quota_notes(Quota(2, 5), Quota(2, 5), 2) == []
    assert quota_notes(None, None, 8) == []
    tight, stopped = quota_notes(Quota(1.5, 5), Quota(1.5, 8), 2)
    assert "2 threads" in tight
    assert "1.5 cores" in tight
    assert "3 times" in stopped
    assert load_notes(0.5, 2.9, 2) == load_notes(None, 9.0, 1) == []
    (risen,) = load_notes(0.5, 4.5, 2)
    assert "0.50 to 4.50" in risen


def test_hardware_threads_of_one_core_are_no_cores(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert [cores_shared(cpus, tmp_path) for cpus in ({0, 1, 2, 3}, {0, 1}, {1, 3})] == [2, 2, 1]
    assert cores_shared({0, 9}, tmp_path) is None
    assert cores_shared((), tmp_path) is None
    assert shared_notes(2, 4, 2) == shared_notes(2, 2, None) == []
    assert shared_notes(4, 2, 1) == []  # there is another note for more threads than CPUs
    assert shared_notes(3, 4, 2) == ["3 threads shared 2 physical cores (4 CPUs)."]
    assert shared_notes(2, 2, 1) == ["2 threads shared 1 physical core (2 CPUs)."]


def test_a_host_of_arm_cores_is_named_by_them() -> None:
    core = "processor\t: {}\nCPU implementer\t: {}\nCPU part\t: {}\nCPU revision\t: 1\n"
    n1 = "\n".join(core.format(n, "0x41", "0xd0c") for n in range(4))
    assert core_names(n1) == "Neoverse-N1"
    mixed = [core.format(0, "0x41", "0xd05"), core.format(1, "0x61", "0x22")]
    assert core_names("\n".join(mixed)) == "Cortex-A55 + Arm core 0x61/0x022"
    assert core_names("processor\t: 0\nvendor_id\t: GenuineIntel\n") is None


def test_a_target_reads_in_words(tiny: Path) -> None:
    told: list[str] = []
    bench_host(
        [tiny / "tiny.onnx"], threads=(2,), rounds=1, samples=1,
        progress=lambda _done, _total, what: told.append(what),
    )  # fmt: skip
    assert told[0] == "tiny.onnx on host cpu, 2 threads"
