"""`coronet-deploy train` prunes to the target, resumes exactly, and refuses what is not right."""

from __future__ import annotations

import csv
import json
import resource
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.coronet.checkpoint import Stage, load_checkpoint
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.cost import macs, parameters
from coronet_deploy.storage import exclusive
from support import COMMAND, Cli, kill_after_saves

RECIPE = """
[model]
id = "tiny"
title = "Tiny"
architecture = "unet_128"
norm = "batch"
width = 8
[data]
direction = "BtoA"
load = 132
crop = 128
[search]
steps = 12
target = 0.3
form = "collapsed"
channel_multiple = 2
slice_every = 3
[finetune]
steps = 8
freeze_norm_from = 0.5
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
    rng = np.random.default_rng(1)
    for split, count in (("train", 5), ("val", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            small = rng.integers(0, 256, (8, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((256, 128))
            picture.save(tmp_path / "data" / split / f"{i}.png")
    return tmp_path / "data"


def test_training_meets_its_target_and_resumes_exactly(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    common = ("--data", data, "--threads", 1, "--save-every", 5, "--json")
    whole = cli("train", recipe, *common, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    result = json.loads(whole.stdout)
    checkpoint = load_checkpoint(Path(result["checkpoint"]))
    assert checkpoint.header.stage is Stage.FINETUNED
    ratio = macs(checkpoint.plan) / macs(checkpoint.full)
    assert 0.2 < ratio <= 0.3
    assert result["macs_ratio"] == pytest.approx(ratio)
    searched = load_checkpoint(tmp_path / "whole" / "tiny.search.safetensors")
    assert searched.plan == checkpoint.plan

    rows = list(csv.DictReader((tmp_path / "whole" / "metrics.csv").open()))
    assert len(rows) == 20
    ratios = [float(row["ratio"]) for row in rows]
    assert ratios[0] > 0.8
    assert ratios == sorted(ratios, reverse=True)
    assert (tmp_path / "whole" / "samples" / "000020.png").is_file()
    with Image.open(tmp_path / "whole" / "curve.png") as curve:
        assert len(curve.convert("RGB").resize((200, 200)).getcolors(1 << 16) or []) > 20

    # Killed in the middle of the search, then in the middle of fine-tuning.
    part = tmp_path / "part"
    line = [str(COMMAND), "train", str(recipe), *map(str, common), "--output", str(part)]
    kill_after_saves(line, part / "state.pt", saves=1)
    kill_after_saves([*line, "--resume"], part / "state.pt", saves=2)
    assert not (part / "tiny.safetensors").exists()
    resumed = cli("train", recipe, *common, "--output", part, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected = (tmp_path / "whole" / "tiny.safetensors").read_bytes()
    assert (part / "tiny.safetensors").read_bytes() == expected


def test_another_recipe_is_not_resumed(cli: Cli, recipe: Path, data: Path, tmp_path: Path) -> None:
    common = ("--data", data, "--threads", 1, "--output", tmp_path / "out")
    first = cli("train", recipe, *common, "--set", "search.steps=2", "--set", "finetune.steps=0")
    assert first.returncode == 0, first.stderr
    second = cli("train", recipe, *common, "--resume")
    assert second.returncode == 2
    assert "another recipe" in second.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("width = 8\n[data]", "widht = 8\n[data]"), "model.widht: Extra inputs"),
        (("target = 0.3", "target = -1"), "search.target"),
        (("steps = 12", 'steps = "many"'), "search.steps"),
        (("crop = 128", "crop = 133"), "data: Value error, crop 133 is larger than load 132"),
        (("[model]", "[model"), "recipe.toml"),
        (('norm = "batch"', 'norm = "layer"'), "model.norm"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(
    change: tuple[str, str], said: str, recipe: Path
) -> None:
    recipe.write_text(RECIPE.replace(*change))
    with pytest.raises(BadInput) as caught:
        read_recipe(recipe)
    assert said in str(caught.value)
    assert str(recipe) in str(caught.value)


def test_a_target_can_be_a_number_of_macs_or_of_parameters(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    full = read_recipe(recipe).full
    for measure, cost in (("macs", macs), ("parameters", parameters)):
        wanted = 0.4 * cost(full)
        line: list[object] = ["train", recipe, "--data", data, "--output", tmp_path / measure]
        line += ["--set", f"search.target={wanted}", "--set", f"search.measure={measure}"]
        result = cli(*line, "--set", "finetune.steps=0")
        assert result.returncode == 0, result.stderr
        plan = load_checkpoint(tmp_path / measure / "tiny.safetensors").plan
        assert 0.9 * wanted < cost(plan) <= wanted
    refused = cli(*line, "--set", f"search.target={parameters(full) + 1}")
    assert refused.returncode == 2
    assert "of the parameters" in refused.stderr


def test_values_can_be_overridden(recipe: Path) -> None:
    changed = read_recipe(recipe, ["search.target=0.5", "loss.gan=lsgan"])
    assert changed.search.target == 0.5
    assert changed.loss.gan == "lsgan"
    with pytest.raises(BadInput, match=r"search\.targte"):
        read_recipe(recipe, ["search.targte=0.5"])
    with pytest.raises(BadInput, match="not KEY=VALUE"):
        read_recipe(recipe, ["search.target"])


@pytest.mark.parametrize("kind", ["no folder", "empty", "broken", "narrow"])
def test_bad_data_is_named(kind: str, cli: Cli, recipe: Path, data: Path, tmp_path: Path) -> None:
    bad = data / "train" / "3.png"
    if kind == "no folder":
        data, said = tmp_path / "nowhere", "is not a folder of pictures"
    elif kind == "empty":
        for path in (data / "train").iterdir():
            path.unlink()
        said = "holds no picture"
    elif kind == "broken":
        bad.write_bytes(bad.read_bytes()[:40])
        said = f"{bad} is not a readable picture"
    else:
        Image.new("RGB", (101, 128)).save(bad)
        said = f"{bad} is 101x128"
    result = cli("train", recipe, "--data", data, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_named(cli: Cli, recipe: Path, data: Path) -> None:
    result = cli("train", recipe, "--data", data, "--device", "meta:7x")
    assert result.returncode == 2
    assert "--device meta:7x: torch cannot use it here" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_full_disk_costs_one_line_and_not_the_last_state(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    common = ("--data", data, "--output", output, "--threads", 1, "--save-every", 2)
    result = cli(
        "train",
        recipe,
        *common,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 3
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in output.iterdir() if path.is_file()} <= {".lock"}


def test_losses_that_explode_stop_the_training(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    result = cli(
        "train", recipe, "--data", data, "--output", tmp_path / "out", "--set", "optimiser.lr=1e30"
    )
    assert result.returncode == 1
    assert "not all finite" in result.stderr
    assert not (tmp_path / "out" / "tiny.safetensors").exists()


def test_two_trainings_do_not_share_an_output(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with exclusive(output):
        result = cli("train", recipe, "--data", data, "--output", output)
    assert result.returncode == 3
    assert f"{output} is in use by another run" in result.stderr
    assert not (output / "state.pt").exists()


def test_an_interrupted_training_keeps_its_last_step(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    common = ("--data", data, "--threads", 1, "--set", "finetune.steps=130", "--output")
    part, line = tmp_path / "part", [str(COMMAND), "train", str(recipe)]
    line += [*map(str, common), str(part), "--save-every", "1000"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        process.stderr.readline()  # a hundred steps are done
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    rows = list(csv.DictReader((part / "metrics.csv").open()))
    assert 100 <= len(rows) < 142
    resumed = cli("train", recipe, *common, part, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = cli("train", recipe, *common, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    results = [(tmp_path / name / "tiny.safetensors").read_bytes() for name in ("part", "whole")]
    assert results[0] == results[1]


def test_a_target_of_one_trains_the_plain_network(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    line = ("train", recipe, "--data", data, "--output", tmp_path, "--set", "search.target=1")
    result = cli(*line, "--set", "search.steps=0", "--set", "finetune.steps=2")
    assert result.returncode == 0, result.stderr
    checkpoint = load_checkpoint(tmp_path / "tiny.safetensors")
    assert checkpoint.header.stage is Stage.DENSE
    assert checkpoint.plan == checkpoint.full
    assert not (tmp_path / "tiny.search.safetensors").exists()


def test_steps_can_run_in_bfloat16(cli: Cli, recipe: Path, data: Path, tmp_path: Path) -> None:
    line = ("train", recipe, "--data", data, "--set", "machine.channels_last=true", "--output")
    short = ("--set", "search.steps=2", "--set", "finetune.steps=2")
    plain = cli(*line, tmp_path / "fp32", *short)
    half = cli(*line, tmp_path / "bf16", *short, "--set", "machine.precision=bf16")
    assert (plain.returncode, half.returncode) == (0, 0), plain.stderr + half.stderr
    first, other = (
        next(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("fp32", "bf16")
    )
    for loss in ("d", "gan", "l1"):
        assert first[loss] != other[loss]
        assert float(first[loss]) == pytest.approx(float(other[loss]), rel=0.05)


def test_tensorboard_gets_the_losses(cli: Cli, recipe: Path, data: Path, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    result = cli("train", recipe, "--data", data, "--output", tmp_path, "--tensorboard")
    assert result.returncode == 0, result.stderr
    log = events.EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    logged = [event.value for event in log.Scalars("loss/l1")]
    assert logged == pytest.approx([float(row["l1"]) for row in rows])
