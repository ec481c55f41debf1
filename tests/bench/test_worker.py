"""The worker: it times inferences and nothing else, and answers in one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from coronet_deploy.bench import worker
from coronet_deploy.bench.launch import WORKER


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [*WORKER, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.tflite"])
def test_it_measures_a_real_artifact(tiny: Path, name: str) -> None:
    done = ask(tiny / name, "--threads", 2, "--samples", 7, "--seconds", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    assert len(answer["samples_ms"]) == 7
    assert all(sample > 0 for sample in answer["samples_ms"] + answer["warmup_ms"])
    assert answer["load_ms"] > 0
    assert answer["peak_rss_mb"] >= answer["details"]["rss_before_mb"] > 1
    assert answer["details"]["fully_accelerated"] is True
    assert {"coronet-deploy", "numpy"} < set(answer["tools"])


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.tflite"])
def test_threads_are_those_that_were_asked_for(tiny: Path, name: str) -> None:
    seen = [
        json.loads(ask(tiny / name, "--threads", threads, "--samples", 1, "--seconds", 1).stdout)[
            "details"
        ]["os_threads"]
        for threads in (1, 3)
    ]
    assert seen[1] - seen[0] == 2


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.tflite"])
def test_a_broken_artifact_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not a model" * 100)
    done = ask(path, "--threads", 1, "--samples", 5, "--seconds", 1)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert str(path) in error
    assert "\n" not in error


def test_a_module_in_the_users_folder_is_not_imported(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('the wrong module')")
    done = subprocess.run(
        [*WORKER, str(tiny / "tiny.onnx"), "--threads=1", "--samples=1", "--seconds=1"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_sampling_stops_at_the_count_or_at_the_time_but_not_below_the_least() -> None:
    assert len(worker.take_samples(lambda: None, worker.Budget(40, 60.0))) == 40
    slow = worker.take_samples(lambda: None, worker.Budget(1000, 1e-9))
    assert len(slow) == worker.SAMPLES_LEAST
    assert len(worker.take_samples(lambda: None, worker.Budget(2, 1e-9))) == 2


def test_warm_up_settles_on_steady_times_and_gives_up_on_wild_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert worker.has_settled([90, 30, 12, 10.1, 10.0, 10.2, 10.1, 10.0, 10.1])
    assert not worker.has_settled([50, 40, 30, 20, 15, 12])
    assert not worker.has_settled([10, 10, 10])

    def warmed(times_ms: list[float]) -> tuple[list[float], bool]:
        given = iter(times_ms)
        monkeypatch.setattr(worker, "time_once", lambda _: next(given))
        return worker.warm_up(lambda: None)

    steady = [90.0, 30, 12, 10.1, 10.0, 10.2, 10.1, 10.0, 10.1, 10.0, 10.1]
    assert warmed(steady) == (steady[:8], True)
    # Every window of three is eight times as slow as the one before it.
    wild = [2.0**i for i in range(2 * worker.WARMUP_MOST)]
    assert warmed(wild) == (wild[: worker.WARMUP_MOST], False)
