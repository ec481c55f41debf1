"""Quantisation-aware fine-tuning helps, can be stopped, and refuses what it cannot tune."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from coronet_deploy.cli import main
from coronet_deploy.coronet.checkpoint import Stage, load_checkpoint
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.coronet.rounding import Rounded
from coronet_deploy.coronet.tuning import Tuner
from coronet_deploy.coronet.zoo import bundled_calibration, bundled_checkpoint, bundled_pictures
from coronet_deploy.errors import BadInput, GateFailed
from support import COMMAND, Cli, keeps_latents, kill_after_saves

HORSES, FACADES = "horse2zebra-resnet9", "facades-unet256"
RECIPE = """
seed = 3
[model]
id = "stripes"
title = "Stripes"
task = "cyclegan"
architecture = "resnet_6blocks"
norm = "instance"
width = 4
[data]
load = 26
crop = 24
[search]
steps = 2
target = 0.6
form = "collapsed"
[finetune]
steps = 2
[qat]
steps = 8
load = 72
crop = 64
settle_every = 3
[discriminator]
width = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of two piles of pictures: house fronts, and their mirror images."""
    for name, flip in (("A", False), ("B", True)):
        for split, count in (("train", 5), ("test", 2)):
            folder = tmp_path / "data" / f"{split}{name}"
            folder.mkdir(parents=True)
            paths = bundled_calibration() if split == "train" else bundled_pictures()
            for path in paths[:count]:
                with Image.open(path) as picture:
                    turned = ImageOps.mirror(picture) if flip else picture
                    turned.convert("RGB").resize((96, 96)).save(folder / path.name)
    return tmp_path / "data"


def test_gradients_pass_a_rounding_and_end_where_values_clip() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Tanh()).eval()
    rounded = Rounded(network, 1.0)
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    rounded.settle([x])
    rounded(x).sum().backward()
    first = network.get_parameter("0.weight")
    assert first.grad is not None
    exact = torch.autograd.grad(network(x).sum(), first)[0]
    assert first.grad == pytest.approx(exact, rel=0.1, abs=0.05 * float(exact.abs().max()))
    first.grad.zero_()
    rounded(1000 * x).sum().backward()  # all is beyond the ranges
    assert not first.grad.any()


def test_tuning_helps_and_resumes_exactly(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    horses = bundled_checkpoint(HORSES)
    common = ("--data", data, "--threads", 1, "--save-every", 2, "--qat", horses, "--json")
    line = ("train", recipe, *common, "--set", "qat.steps=60")
    whole = cli(*line, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    told = json.loads(whole.stdout)
    simulated = told["simulated_psnr_db"]
    assert simulated["after"] > simulated["before"] + 0.5
    result = Path(told["checkpoint"])
    tuned, before = load_checkpoint(result), load_checkpoint(horses)
    keeps_latents(tuned, before)
    assert (tuned.id, tuned.plan, tuned.full) == (f"{HORSES}-qat", before.plan, before.full)
    assert (result.parent / "samples" / "000060.png").is_file()

    part = tmp_path / "part"
    killed = [str(COMMAND), *map(str, line), "--output", str(part)]
    kill_after_saves(killed, part / "state.pt", saves=1)
    kill_after_saves([*killed, "--resume"], part / "state.pt", saves=2)
    resumed = cli(*line, "--output", part, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len((part / "metrics.csv").read_text().splitlines()) == 1 + 60
    assert (part / result.name).read_bytes() == result.read_bytes()

    again = cli(*line, "--output", part)
    assert again.returncode == 2
    assert "is of an earlier training" in again.stderr
    other = horses.with_stem(f"{HORSES}-long")
    foreign = cli("train", recipe, *common[:-3], "--qat", other, "--set", "qat.steps=60",
                  "--output", part, "--resume")  # fmt: skip
    assert foreign.returncode == 2
    assert "state is of another checkpoint than" in foreign.stderr
    assert foreign.stderr.count("\n") == 1


def test_a_recipe_with_the_table_tunes_what_it_trained(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    common = ("train", recipe, "--data", data, "--threads", 1, "--output", output, "--json")
    done = cli(*common)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = ["stripes", "stripes-reverse"]
    assert [Path(one).stem for one in told["checkpoints"]] == names
    results = [Path(one["checkpoint"]) for one in told["qat"]]
    assert results == [output / f"{name}-qat" / f"{name}-qat.safetensors" for name in names]
    # The opposite direction's has learned from its own domain.
    assert [load_checkpoint(one).header.direction for one in results] == ["AtoB", "BtoA"]
    held = [one.read_bytes() for one in results]
    at_once = cli(*common, "--resume")
    assert (at_once.returncode, at_once.stdout) == (0, done.stdout)
    assert at_once.stderr == (
        "stripes: finished, all 4 steps are done\n"
        "stripes-qat: finished, all 8 steps are done\n"
        "stripes-reverse-qat: finished, all 8 steps are done\n"
    )
    shutil.rmtree(results[1].parent)  # as if killed before it
    resumed = cli(*common, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert [one.read_bytes() for one in results] == held


def test_a_dense_generator_is_tuned_to_a_dense_one(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "dense.safetensors"
    assert cli("materialize", bundled_checkpoint(HORSES), "--output", dense).returncode == 0
    tuned = cli("train", recipe, "--data", data, "--threads", 1, "--qat", dense, "--json",
                "--set", "qat.steps=1", "--output", tmp_path / "out")  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    checkpoint = load_checkpoint(Path(json.loads(tuned.stdout)["checkpoint"]))
    assert (checkpoint.header.stage, checkpoint.latents) == (Stage.DENSE, None)
    assert checkpoint.plan == load_checkpoint(dense).plan


def test_what_cannot_be_tuned_is_one_line(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    common = ("train", recipe, "--data", data, "--output", tmp_path / "out")
    missing = cli(*common, "--qat", tmp_path / "none.safetensors")
    odd = cli(*common, "--qat", bundled_checkpoint(FACADES))
    for refused, said in (
        (missing, "none.safetensors does not exist"),
        (odd, "pictures of 64 pixels: "),
    ):
        assert refused.returncode == 2
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["qat.crop=80"], "qat.crop 80 is larger than qat.load 72"),
        (["qat.steps=0"], "qat.steps: "),
        (["qat.crop=20"], "qat.crop 20: at least 24"),
        (["qat.step=1"], "qat.step: "),
        (["model.norm=batch"], "qat.tails has no effect: it is for InstanceNorm"),
    ],
)
def test_a_table_that_cannot_be_is_refused(values: list[str], said: str, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("[qat]", "[qat]\ntails = 0.001"))
    with pytest.raises(BadInput, match=said):
        read_recipe(recipe, values)


def test_what_could_not_be_tuned_is_told_before_the_training(
    recipe: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    line = ["train", str(recipe), "--data", str(data), "--output", str(output)]
    assert main([*line, "--set", "qat.crop=66"]) == 2
    assert "qat.crop 66: pictures of resnet_6blocks are multiples of 4" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("name", ["state.pt", "stripes-reverse-qat.safetensors"])
def test_an_earlier_tuning_in_the_way_is_told_before_the_training(
    name: str, recipe: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What `rm out/*` leaves.
    left = tmp_path / "out" / "stripes-reverse-qat" / name
    left.parent.mkdir(parents=True)
    left.touch()
    line = ["train", str(recipe), "--data", str(data), "--output", str(tmp_path / "out")]
    assert main(line) == 2
    assert f"{left} is of an earlier training (go on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "stripes.safetensors").exists()


def test_weights_that_are_no_numbers_end_it(recipe: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(bundled_checkpoint(HORSES))
    tuner = Tuner(read_recipe(recipe, ["qat.lr=1e30"]), checkpoint, data, tmp_path / "out")
    with pytest.raises(GateFailed, match="finite"):
        tuner.run(lambda _: None, save_every=100)
    assert not (tmp_path / "out" / f"{HORSES}-qat.safetensors").exists()
