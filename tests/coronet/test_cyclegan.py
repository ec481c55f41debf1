"""CycleGAN: two generators pruned while they learn on unpaired pictures, alone and in a team."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coronet_deploy.coronet.checkpoint import Stage, load_checkpoint
from coronet_deploy.coronet.pool import ImagePool
from coronet_deploy.networks.cost import macs
from support import COMMAND, Cli, kill_after_saves

RECIPE = """
[model]
id = "stripes"
title = "Stripes"
task = "cyclegan"
architecture = "resnet_6blocks"
norm = "instance"
width = 8
[data]
load = 40
crop = 32
pool = 3
[search]
steps = 9
target = 0.3
form = "collapsed"
slice_every = 2
[finetune]
steps = 5
[loss]
gan = "lsgan"
[discriminator]
width = 8
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    for folder, count in (("trainA", 5), ("trainB", 4), ("testA", 2), ("testB", 3)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(count):
            small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((50, 40))
            picture.save(tmp_path / "data" / folder / f"{i}.jpg")
    return tmp_path / "data"


def test_both_generators_are_pruned_and_a_killed_run_resumes_exactly(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    common = ("--data", data, "--threads", 1, "--save-every", 4, "--json")
    whole = cli("train", recipe, *common, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    names = json.loads(whole.stdout)["checkpoints"]
    assert [Path(name).name for name in names] == [
        "stripes.safetensors",
        "stripes-reverse.safetensors",
    ]
    there, back = (load_checkpoint(Path(name)) for name in names)
    assert (there.header.direction, back.header.direction) == ("AtoB", "BtoA")
    for checkpoint in (there, back):
        assert checkpoint.header.stage is Stage.FINETUNED
        assert checkpoint.header.task == "cyclegan"
        assert 0.2 < macs(checkpoint.plan) / macs(checkpoint.full) <= 0.3
    assert there.plan != back.plan  # each has latents of its own
    rows = list(csv.DictReader((tmp_path / "whole" / "metrics.csv").open()))
    assert all(float(row["identity"]) > 0 and float(row["cycle_back"]) > 0 for row in rows)
    with Image.open(tmp_path / "whole" / "samples" / "000014.png") as grid:
        assert grid.width == 6 * 32 + 5 * 4

    part = tmp_path / "part"
    line = [str(COMMAND), "train", str(recipe), *map(str, common), "--output", str(part)]
    kill_after_saves(line, part / "state.pt", saves=1)
    resumed = cli("train", recipe, *common, "--output", part, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("stripes.safetensors", "stripes-reverse.safetensors"):
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("task", ["cyclegan", "pix2pix"])
def test_two_processes_train_as_one_with_their_pictures(
    task: str, cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    if task == "pix2pix":
        recipe.write_text(RECIPE.replace("pool = 3\n", ""))
        rng = np.random.default_rng(3)
        data = tmp_path / "pairs"
        (data / "train").mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / "train" / f"{i}.png")
    # A pool holds what its own process drew: it is left out. A game of two amplifies rounding
    # tenfold a step: in double precision there is little to amplify.
    settings = [f"model.task={task}", "machine.precision=fp64", "model.dropout=0"]
    settings += ["data.pool=0"] if task == "cyclegan" else []
    shared = ["train", str(recipe), "--data", str(data), "--threads", "1", "--device", "cpu"]
    shared += [argument for setting in settings for argument in ("--set", setting)]
    one = cli(*shared, "--set", "data.batch=2", "--output", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    team = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    team += ["--no-python", str(COMMAND), *shared, "--output", str(tmp_path / "two")]
    two = subprocess.run(team, capture_output=True, text=True, timeout=300, check=False)
    assert two.returncode == 0, two.stderr
    assert "FutureWarning" not in two.stderr
    alone = cli(*shared, "--output", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    first, second, half = (
        load_checkpoint(tmp_path / name / "stripes.safetensors") for name in ("one", "two", "alone")
    )
    assert first.plan == second.plan
    expected, seen = first.network.state_dict(), second.network.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(seen[name], tensor, rtol=0, atol=1e-7)
    # Seeing half of the pictures makes a difference that is larger by far.
    others = [half.network.state_dict()[name] - t for name, t in expected.items()]
    assert half.plan != first.plan or max(float(o.abs().max()) for o in others) > 1e-4
    losses = [
        [float(v) for k, v in row.items() if k in {"d", "gan", "l1", "cycle", "identity"}]
        for row in csv.DictReader((tmp_path / "two" / "metrics.csv").open())
    ]
    known = csv.DictReader((tmp_path / "one" / "metrics.csv").open())
    for row, values in zip(known, losses, strict=True):
        wanted = [float(v) for k, v in row.items() if k in {"d", "gan", "l1", "cycle", "identity"}]
        assert values == pytest.approx(wanted, abs=1e-7)


def test_the_pool_swaps_half_of_the_fakes_once_it_is_full() -> None:
    pool = ImagePool(4, seed=5)
    shown = [float(pool.swap(torch.full((1, 1, 1, 1), float(i)), i)) for i in range(400)]
    assert shown[:4] == [0, 1, 2, 3]
    older = sum(value != i for i, value in enumerate(shown[4:], 4))
    assert 150 < older < 250
    assert len(set(shown)) >= 396 - 4
    again = ImagePool(4, seed=5)
    for i in range(200):
        again.swap(torch.full((1, 1, 1, 1), float(i)), i)
    resumed = ImagePool(4, seed=5)
    resumed.load(again.state())
    rest = [float(resumed.swap(torch.full((1, 1, 1, 1), float(i)), i)) for i in range(200, 400)]
    assert rest == shown[200:]


def test_a_torn_environment_of_torchrun_is_one_line(cli: Cli, recipe: Path, data: Path) -> None:
    result = cli("train", recipe, "--data", data, env={"RANK": "0"})
    assert result.returncode == 2
    assert "RANK is set, but not as torchrun does" in result.stderr
    assert result.stderr.count("\n") == 1
