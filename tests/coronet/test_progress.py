"""What `train` says on the way, on a terminal and where there is none."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib import rcParams
from PIL import Image

from coronet_deploy import cpu
from coronet_deploy.cli import _train_told, main
from coronet_deploy.cli._train_told import Progress, Reading, tell_faster
from coronet_deploy.coronet import train
from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.curve import plot_curve
from coronet_deploy.coronet.data import Direction, open_training
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.state import StepReport
from coronet_deploy.coronet.zoo import bundled_checkpoint
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture

STEPS = 250


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_train_told, "time", clock)
    return clock


def steps_told(clock: Clock, seconds: float, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that a training of steps of so many `seconds` tells."""
    progress = Progress("MACs", "what is trained")
    for step in range(STEPS):
        clock.now += seconds
        progress(StepReport(step, STEPS, "search", 0.5, 0.0, 1e-4, {"d": 0.1}, 2, seconds))
    told = capsys.readouterr().err
    assert told.endswith("\n")
    return told.split("\n")[:-1]


def test_slow_steps_are_told_of_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, *lines = steps_told(clock, 6.0, capsys)
    assert heading == "what is trained"
    numbers = [int(line.split("/")[0].split()[-1]) for line in lines]
    assert numbers[:3] == [1, 6, 11]
    assert numbers == sorted(set(numbers))
    assert max(after - before for before, after in pairwise(numbers)) == 5
    assert {100, 200} <= set(numbers)
    assert "0.3 images/s" in lines[0]
    assert "25 min left" in lines[0]


def test_fast_steps_are_told_of_by_the_hundred(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, *lines = steps_told(clock, 0.001, capsys)
    assert heading == "what is trained"
    assert [line.split()[1] for line in lines] == [f"100/{STEPS}", f"200/{STEPS}"]


@pytest.mark.parametrize(
    ("flags", "steps", "precision", "device", "told"),
    [
        ("amx_bf16 amx_int8", 1000, "fp32", "cpu", True),
        ("avx512_bf16", 1000, "fp32", "cpu", False),
        ("amx_bf16 amx_int8", 999, "fp32", "cpu", False),
        ("amx_bf16 amx_int8", 1000, "bf16", "cpu", False),
        ("amx_bf16 amx_int8", 1000, "fp32", "cuda:0", False),
    ],
)
def test_a_long_training_is_told_of_what_its_cpu_can(
    flags: str,
    steps: int,
    precision: str,
    device: str,
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : fpu {flags} sse\n")
    monkeypatch.setattr(cpu, "_TOLD", cpuinfo)
    model = {"id": "tiny", "title": "Tiny", "architecture": "unet_128", "norm": "batch"}
    recipe = Recipe.model_validate(
        {"model": model, "data": {"load": 128, "crop": 128}, "machine": {"precision": precision},
         "search": {"steps": 400, "target": 0.5}, "finetune": {"steps": steps - 400}}
    )  # fmt: skip
    tell_faster(recipe, device)
    assert ("--set machine.precision=bf16" in capsys.readouterr().err) is told


def test_a_terminal_sees_the_last_step_on_a_line_that_ends(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    told = steps_told(clock, 0.3, capsys)  # the last step comes soon after a look
    assert told[-1].split("\r")[-1].startswith(f"\033[Ksearch {STEPS}/{STEPS} ")


def test_a_long_trainings_curve_is_drawn_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object) -> None:
        raise AssertionError("a legend looks at every point for its place")

    monkeypatch.setattr("matplotlib.legend.Legend._find_best_position", search)
    monkeypatch.setitem(rcParams, "savefig.bbox", "tight")  # a style of the user's
    losses = {"d": 0.5, "gan": 0.7, "l1": 0.2}
    rows = [StepReport(i, 9, "search", 1 - i / 10, 0.0, 1e-4, losses, 1, 0.1) for i in range(9)]
    full = full_plan(Architecture.RESNET_9)
    plot_curve(tmp_path / "curve.png", rows, Controller(full, 0.1, 8, 4))
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (840, 600)


def test_a_missing_tensorboard_is_told_before_pictures_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = ["train", "facades-unet256", "--data", str(tmp_path / "nowhere"), "--tensorboard"]
    assert main(line) == 3
    assert "'coronet-deploy[tensorboard]'" in capsys.readouterr().err


def test_a_folder_that_no_result_could_be_read_from_is_told_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o\udcffut"
    line = ["train", "facades-unet256", "--data", str(tmp_path), "--output", str(output)]
    for tune in ([], ["--qat", str(bundled_checkpoint())]):
        assert main([*line, *tune]) == 2
        assert "is not UTF-8, and no checkpoint could be read from" in capsys.readouterr().err
    assert not output.exists()


def test_pictures_that_take_their_time_are_counted(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (12, 12)).save(tmp_path / name / f"{i}.png")
    reading = Reading()

    def told(what: str, done: int, total: int) -> None:
        clock.now += 3.0
        reading(what, done, total)

    open_training(tmp_path, Direction.A_TO_B, 12, 8, paired=False, told=told)
    piles = [tmp_path / "trainA", tmp_path / "trainB"]
    expected = [f"{done} of 4 pictures in {pile}" for pile in piles for done in (2, 4)]
    assert capsys.readouterr().err.splitlines() == expected


def test_batches_for_the_statistics_of_batchnorm_are_counted(
    clock: Clock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "_RECALIBRATION_BATCHES", 5)
    (tmp_path / "data" / "train").mkdir(parents=True)
    Image.new("RGB", (48, 24)).save(tmp_path / "data" / "train" / "0.png")
    model = {"id": "tiny", "title": "T", "architecture": "resnet_6blocks", "norm": "batch"}
    tables = {"model": model | {"width": 8}, "data": {"load": 24, "crop": 24}}
    steps = {"search": {"steps": 1, "target": 1}, "finetune": {"steps": 1}}
    recipe = Recipe.model_validate(tables | steps | {"discriminator": {"width": 8}})
    reading = Reading()

    def told(what: str, done: int, total: int) -> None:
        clock.now += 3600.0 if done == 1 else 3.0  # the training before the first
        reading(what, done, total)

    train.Trainer(recipe, tmp_path / "data", tmp_path / "out", told=told).run(lambda _: None)
    expected = [f"{done} of 5 batches for the BatchNorm statistics of tiny" for done in (3, 5)]
    assert capsys.readouterr().err.splitlines() == expected
