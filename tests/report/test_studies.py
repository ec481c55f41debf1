"""What the studies of the verdict are built on: the slower twin, and pools dealt into sides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import launch_pool
import numpy as np
import onnx
import pytest
import slower_twin
import study_held_out
import study_history
import study_verdict
from study_verdict import Noise, pooled_ranks, sessions

from coronet_deploy.coronet.zoo import bundled_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.report.regression import Verdict, compare_launches
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run, Runtime
from support import Cli

MakeRun = Callable[..., Run]


def gate(base: launch_pool.Side, now: launch_pool.Side) -> Verdict:
    medians = [[float(np.median(launch)) for launch in side] for side in (base, now)]
    shift = compare_launches(*medians)
    return Verdict.SLOWER if shift.p_slower < 0.05 and shift.ratio > 1.025 else Verdict.SAME


def pooled(base: launch_pool.Side, now: launch_pool.Side) -> Verdict:
    return pooled_ranks(np.concatenate(base), np.concatenate(now))


def test_the_twin_has_five_percent_more_of_the_same_work(tmp_path: Path) -> None:
    layers = (slower_twin.LAYERS, slower_twin.LAYERS + 1)
    work = [slower_twin.multiply_adds(count, channels=32, size=128) for count in layers]
    assert work[1] / work[0] == pytest.approx(1.05, abs=1e-3)
    convolutions = []
    for count in layers:
        path = slower_twin.build(tmp_path, Runtime.ONNX, count, channels=8, size=16)
        nodes = onnx.load(path).graph.node
        convolutions.append(sum(node.op_type in {"Conv", "FusedConv"} for node in nodes))
        assert slower_twin.build(tmp_path, Runtime.TFLITE, count, channels=8, size=16).exists()
    assert convolutions[1] - convolutions[0] == 1
    assert convolutions[0] >= slower_twin.LAYERS


@pytest.mark.parametrize("number", ["0", "-3", "1.5"])
@pytest.mark.parametrize(
    ("study", "flag"),
    [
        (study_verdict, "--count"),
        (study_verdict, "--sessions"),
        (study_verdict, "--deals"),
        (study_verdict, "--threads"),
        (study_verdict, "--seconds"),
        (study_history, "--count"),
        (study_held_out, "--size"),
    ],
)
def test_a_study_of_nothing_is_refused_in_one_line(
    study: ModuleType,
    flag: str,
    number: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = "x" if flag == "--seconds" and number == "1.5" else number
    monkeypatch.setattr("sys.argv", [f"{study.__name__}.py", f"{flag}={given}"])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 2
    assert f"error: argument {flag}: {given!r} is not a" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("study", [study_verdict, study_history])
def test_a_seed_that_no_generator_takes_is_refused_in_one_line(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{study.__name__}.py", "--seed=-1"])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: argument --seed: -1 is below 0\n")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("nowhere.pt",), "checkpoint nowhere.pt does not exist"),
        ((bundled_checkpoint(), "--size=255"), "height and width must be multiples of 256"),
        ((bundled_checkpoint(),), "nowhere is not a folder of pictures"),
    ],
)
def test_what_a_study_cannot_read_is_refused_in_one_line(
    given: tuple[object, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ("study_held_out.py", *given, "--pictures", "nowhere")
    monkeypatch.setattr("sys.argv", [str(one) for one in line])
    with pytest.raises(SystemExit) as ended:
        study_held_out.main()
    assert ended.value.code == 2
    (last,) = capsys.readouterr().err.splitlines()
    assert told in last


def test_five_percent_in_run_files_is_slower_and_nothing_is_the_same(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    base = write_run(make_run({"a.onnx": 100.0}, rounds=10), tmp_path)
    twin = write_run(make_run({"a.onnx": 105.0}, rounds=10, id="twin"), tmp_path)
    for candidate, verdict, status in ((twin, "slower", 1), (base, "same", 0)):
        done = cli("compare", base, candidate, "--json")
        assert done.returncode == status, done.stderr
        assert {row["verdict"] for row in json.loads(done.stdout)["rows"]} == {verdict}


def test_dealt_launches_expose_pooled_samples_and_not_the_gate() -> None:
    random = np.random.default_rng(6)
    base, now = sessions(random, 25, 0.0, Noise())
    pool = [
        [launch for turn in zip(*sides, strict=True) for launch in turn]
        for sides in zip(base, now, strict=True)
    ]
    rates = launch_pool.false_alarms(pool, {"gate": gate, "pooled": pooled}, 1000, 1)
    assert rates["gate"].rate < 0.06
    assert rates["pooled"].rate > 0.2
    assert rates["gate"].rate < rates["gate"].bound < 0.1
    again = launch_pool.false_alarms(pool, {"gate": gate}, 1000, 1)
    assert again["gate"] == rates["gate"]


def test_a_deal_has_one_launch_of_every_turn_on_each_side() -> None:
    session = [np.array([float(number)]) for number in range(20)]
    base, now = launch_pool.deal(session, np.random.default_rng(0))
    turns = [{float(one[0]) // 2 for one in side} for side in (base, now)]
    assert turns == [set(range(10))] * 2
    assert {float(one[0]) for one in (*base, *now)} == set(range(20))


def test_no_alarm_is_bounded_by_how_much_was_seen() -> None:
    assert launch_pool.upper_bound(0, 100) == pytest.approx(1 - 0.05**0.01, abs=1e-6)
    assert launch_pool.Rate(0, 1000, (0.0,) * 10).bound > 0


def test_a_pool_is_read_by_sessions_and_short_ones_are_left_out(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for number, rounds in enumerate((20, 20, 7)):
        write_run(make_run({"a.onnx": 10.0}, rounds=rounds, id=f"r{number}"), tmp_path)
    rows = launch_pool.read_pool(tmp_path, 20)
    assert {target.threads: len(own) for (_, target), own in rows.items()} == {1: 2, 2: 2}
    with pytest.raises(BadInput, match="no session of 21 launches"):
        launch_pool.read_pool(tmp_path, 21)


def test_a_pool_of_two_kinds_is_refused_by_what_differs(make_run: MakeRun, tmp_path: Path) -> None:
    def session(name: str, samples: int = 30, digit: str = "a") -> None:
        run = make_run({"a.onnx": 10.0}, rounds=20, id=name)
        launches = tuple(replace(one, artifact_sha256=digit * 64) for one in run.launches)
        conditions = {"settings": {"rounds": 20, "samples": samples, "seconds": 1.0}}
        write_run(replace(run, launches=launches, conditions=conditions), tmp_path)

    session("r0")
    session("r1")
    launch_pool.read_pool(tmp_path, 20)
    session("r2", samples=5)
    with pytest.raises(BadInput, match="session r2 has samples 5, not 30"):
        launch_pool.read_pool(tmp_path, 20)
    (tmp_path / "r2.json").unlink()
    session("r3", digit="b")
    with pytest.raises(BadInput, match=r"session r3 has a\.onnx b{12}, not a{12}"):
        launch_pool.read_pool(tmp_path, 20)


def test_gathering_goes_on_with_the_same_files_and_settings_or_not_at_all(tmp_path: Path) -> None:
    artifacts, other, pool = tmp_path / "one", tmp_path / "two", tmp_path / "pool"
    for folder, layers in ((artifacts, 2), (other, 3)):
        folder.mkdir()
        slower_twin.build(folder, Runtime.ONNX, layers, channels=8, size=16).rename(
            folder / "a.onnx"
        )

    def gather(artifacts: Path, sessions: int, **changes: Any) -> None:
        settings: dict[str, Any] = {"launches": 1, "threads": [1], "seconds": 0.05}
        launch_pool.gather(artifacts, pool, sessions=sessions, **(settings | changes))

    gather(artifacts, 1)
    gather(artifacts, 2)
    assert len(list(pool.glob("*.json"))) == 2
    for changes, told in (
        ({"threads": [2]}, r"threads \[1\], not \[2\]"),
        ({"seconds": 0.5}, r"seconds 0\.05, not 0\.5"),
        ({"launches": 4}, "rounds 1, not 4"),
    ):
        with pytest.raises(BadInput, match=told):
            gather(artifacts, 3, **changes)
    with pytest.raises(BadInput, match=r"has a\.onnx [0-9a-f]{12}, not [0-9a-f]{12}"):
        gather(other, 3)
    assert len(list(pool.glob("*.json"))) == 2
