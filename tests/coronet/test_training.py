"""`coronet-deploy train` prunes to the target, resumes exactly, and refuses what is not right."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coronet_deploy.cli import main
from coronet_deploy.coronet.checkpoint import Stage, load_checkpoint
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.coronet.train import Trainer
from coronet_deploy.coronet.zoo import bundled_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.locks import exclusive
from coronet_deploy.networks.cost import macs, parameters
from support import COMMAND, TINY_PIX2PIX, Cli, kill_after_saves

RECIPE = f"""{TINY_PIX2PIX}[search]
steps = 12
target = 0.3
form = "collapsed"
channel_multiple = 2
slice_every = 3
[finetune]
steps = 8
freeze_norm_from = 0.5
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
    common = ("--data", data, "--threads", 1, "--save-every", 4, "--json")
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

    # Killed in the middle of the search, then where BatchNorm's statistics are to be taken anew.
    part = tmp_path / "part"
    line = [str(COMMAND), "train", str(recipe), *map(str, common), "--output", str(part)]
    kill_after_saves(line, part / "state.pt", saves=1)
    kill_after_saves([*line, "--resume"], part / "state.pt", saves=3)
    assert torch.load(part / "state.pt", weights_only=True)["step"] == 12 + 8 / 2
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
    assert "another recipe: search.steps was 2 and is 12" in second.stderr


def test_an_earlier_training_is_not_replaced(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    steps = ("--set", "search.steps=2", "--set", "finetune.steps=0")
    common = ("--data", data, "--threads", 1, "--output", tmp_path / "out")
    line = ("train", recipe, *common, *steps)
    first = cli(*line)
    assert first.returncode == 0, first.stderr
    held = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    second = cli(*line)
    assert second.returncode == 2
    assert "state.pt is of an earlier training" in second.stderr
    assert "--resume" in second.stderr
    # One whose result was taken away makes it again: its dropout, too, is drawn anew.
    (result,) = (path for path in held if path.name == "tiny.safetensors")
    result.unlink()
    third = cli(*line, "--resume")
    assert third.returncode == 0, third.stderr
    assert result.read_bytes() == held[result]


def test_a_finished_training_is_told_and_left_alone(
    cli: Cli, recipe: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    common = ("train", recipe, "--data", data, "--threads", 1, "--output", output, "--json")
    line = (*common, "--set", "search.steps=2", "--set", "finetune.steps=1")
    first = cli(*line)
    assert first.returncode == 0, first.stderr
    held = stamps(output)
    shutil.rmtree(data)  # nobody looks at pictures any more
    second = cli(*line, "--resume")
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert second.stderr == "tiny: finished, all 3 steps are done\n"
    assert stamps(output) == held
    other = cli(*common, "--set", "search.steps=2", "--set", "finetune.steps=2", "--resume")
    assert other.returncode == 2
    assert "another recipe: finetune.steps was 1 and is 2" in other.stderr


def test_a_folder_in_the_way_is_told_before_pictures_are_read(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, output = tmp_path / "nowhere", tmp_path / "out"
    line = ["train", str(recipe), "--data", str(nowhere), "--output", str(output)]
    for tune in ([], ["--qat", str(bundled_checkpoint())]):
        assert main([*line, *tune, "--resume"]) == 2
        assert f"{output}/state.pt does not exist: there is nothing" in capsys.readouterr().err
        assert not output.exists()
        with exclusive(output):
            assert main([*line, *tune]) == 3
        assert f"{output} is in use by another run" in capsys.readouterr().err
        (output / "state.pt").touch()
        assert main([*line, *tune]) == 2
        assert f"{output}/state.pt is of an earlier training" in capsys.readouterr().err
        shutil.rmtree(output)


def stamps(folder: Path) -> dict[Path, int]:
    """Return when each file and folder in `folder` was last written."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_broken_state_is_not_resumed(cli: Cli, recipe: Path, data: Path, tmp_path: Path) -> None:
    values = ["search.steps=1", "finetune.steps=0"]
    output = tmp_path / "out"
    common = ("train", recipe, "--data", data, "--threads", 1, "--output", output)
    line = (*common, *(one for value in values for one in ("--set", value)))
    first = cli(*line)
    assert first.returncode == 0, first.stderr
    state = output / "state.pt"
    whole = state.read_bytes()
    middle = len(whole) // 2
    read = read_recipe(recipe, values)
    trainer = Trainer(read, data, output)
    for harmed in (
        b"",
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    ):
        state.write_bytes(harmed)
        with pytest.raises(BadInput, match=r"state\.pt is not a whole training state"):
            trainer.resume()
    torch.save({"recipe": read.model_dump_json()}, state)
    second = cli(*line, "--resume")
    assert second.returncode == 2
    assert f"{state} is not a whole training state" in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("width = 8\n[data]", "widht = 8\n[data]"), "model.widht: there is no such"),
        (("target = 0.3", "target = -1"), "search.target"),
        (("steps = 12", 'steps = "many"'), "search.steps"),
        (("crop = 128", "crop = 133"), "data: crop 133 is larger than load 132"),
        (("[model]", "[model"), "recipe.toml"),
        (('norm = "batch"', 'norm = "layer"'), "model.norm"),
        (("crop = 128", "crop = 100"), "data.crop 100: pictures of unet_128 are multiples of 128"),
        (("target = 0.3", "target = 2"), "search.target 2, a number of MACs, is"),
        (("channel_multiple = 2", "channel_multiple = 64"), "channel_multiple 64 leave no channel"),
        (("steps = 12", "steps = 0"), "search.steps"),
        (("[model]", "seed = 4294967296\n[model]"), "seed: Input should be less than"),
        (("[model]", f"seed = {'[' * 3000}\n[model]"), "recipe.toml"),
    ],
)
def test_a_wrong_recipe_names_file_and_key(
    change: tuple[str, str], said: str, recipe: Path
) -> None:
    recipe.write_text(RECIPE.replace(*change).replace("steps = 8", "steps = 0"))
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
        shown = {"macs": "MACs"}.get(measure, measure)
        assert f"{cost(plan) / cost(full):.4f} of the {shown}" in result.stdout
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


@pytest.mark.parametrize("kind", ["no folder", "empty", "broken", "narrow", "square"])
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
        width = 101 if kind == "narrow" else 128
        Image.new("RGB", (width, 128)).save(bad)
        said = f"{bad} is {width}x128: not two pictures"
    result = cli("train", recipe, "--data", data, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_named(cli: Cli, recipe: Path, data: Path) -> None:
    for name in ("meta:7x", "meta"):
        result = cli("train", recipe, "--data", data, "--device", name)
        assert result.returncode == 2
        assert f"--device {name}: torch cannot use it here" in result.stderr
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
    assert f"cannot write {output / 'state.pt'}: File too large (choose" in result.stderr
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


def test_weights_that_explode_in_the_last_step_are_no_result(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    # CycleGAN's generators step before its discriminators: no loss tells of it any more.
    (tmp_path / "recipe.toml").write_text(
        '[model]\nid = "tiny"\ntitle = "t"\ntask = "cyclegan"\narchitecture = "resnet_6blocks"\n'
        'norm = "instance"\nwidth = 8\n[data]\nload = 36\ncrop = 32\n[search]\nsteps = 1\n'
        "target = 0.5\n[finetune]\nsteps = 0\n[discriminator]\nwidth = 8\n[optimiser]\nlr = 1e30\n"
    )
    piles = tmp_path / "piles"
    for name in ("trainA", "trainB"):
        (piles / name).mkdir(parents=True)
        (piles / name / "0.png").write_bytes((data / "train" / "0.png").read_bytes())
    output = tmp_path / "out"
    result = cli("train", tmp_path / "recipe.toml", "--data", piles, "--output", output)
    assert result.returncode == 1
    assert "is not finite" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(output.glob("*.safetensors"))


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
        next(line for line in process.stderr if " 100/142 " in line)
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
