"""A training on a device that is not the CPU: nothing is left behind, and the host seldom waits.

The device is one that only pretends (`pretended.py`): no GPU is needed, and no kernel is tried.
Where there is a GPU, CORONET_TEST_DEVICE=cuda has it tried too.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from coronet_deploy.coronet.checkpoint import METADATA_KEY
from quality_data import write_pairs, write_squeezenet
from support import kill_after_saves

RECIPE = """
seed = 3
[model]
id = "tiny"
title = "Tiny"
task = "{task}"
architecture = "{architecture}"
norm = "{norm}"
width = 4
[data]
load = {load}
crop = {crop}
batch = {batch}
[search]
steps = 4
target = 0.5
form = "{form}"
slice_every = 2
[finetune]
steps = 4
{more}[discriminator]
width = 4
[machine]
precision = "{precision}"
channels_last = {last}
"""
QAT = """
[qat]
steps = 2
load = 36
crop = 32
"""
CYCLEGAN = {
    "task": "cyclegan",
    "architecture": "resnet_6blocks",
    "norm": "instance",
    "load": 36,
    "crop": 32,
    "batch": 1,
    "more": "",
}
PIX2PIX = {
    "task": "pix2pix",
    "architecture": "unet_128",
    "norm": "batch",
    "load": 132,
    "crop": 128,
    "batch": 2,
    "more": "freeze_norm_from = 0.5\n",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of pictures, as pairs side by side and as two piles."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "data"
    for split, width in (("train", 32), ("val", 32), ("trainA", 16), ("trainB", 16)):
        (folder / split).mkdir(parents=True)
        for i in range(3):
            small = rng.integers(0, 256, (16, width, 3), dtype=np.uint8)
            Image.fromarray(small).resize((width * 8, 128)).save(folder / split / f"{i}.png")
    return folder


COMMAND = [sys.executable, str(Path(__file__).with_name("pretended.py"))]
"""`coronet-deploy` where the pretended device is."""


def command(device: str, recipe: Path, data: Path, output: Path, *more: str) -> list[str]:
    line = [*COMMAND, "train", str(recipe), "--data", str(data), "--threads", "1"]
    return [*line, "--output", str(output), "--device", device, *more]


def trained(
    device: str, recipe: Path, data: Path, output: Path, *more: str
) -> tuple[dict[str, bytes], list[int]]:
    """Return the files that a training left, and how often each step waited for its device."""
    waits = output.with_suffix(".json")
    done = subprocess.run(
        command(device, recipe, data, output, *more),
        env={**os.environ, "PRETENDED_WAITS": str(waits)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*.png")}
    for path in output.rglob("*.safetensors"):
        files[str(path.relative_to(output))] = without_history(path, device)
    return files, json.loads(waits.read_text())


def without_history(path: Path, device: str) -> bytes:
    """Return a checkpoint without the history, which names the device, and checks that it does."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[METADATA_KEY])
    assert header.pop("history")[-1]["device"] == device
    return save(load_file(path), {METADATA_KEY: json.dumps(header)})


def written(tmp_path: Path, form: str, precision: str, game: dict[str, object]) -> Path:
    path = tmp_path / "recipe.toml"
    last = str(precision == "bf16").lower()
    path.write_text(RECIPE.format(form=form, precision=precision, last=last, **game))
    return path


def test_it_learns_what_the_cpu_learns(data: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "collapsed", "fp32", CYCLEGAN)
    with recipe.open("a") as file:
        file.write(QAT)
    here, waits = trained("cpu", recipe, data, tmp_path / "cpu")
    assert not sum(waits)
    there, waits = trained("pretended", recipe, data, tmp_path / "pretended")
    assert sum(waits)
    assert sorted(here) == sorted(there)
    assert {name for name in here if here[name] != there[name]} == set()
    assert sum(name.endswith("-qat.safetensors") for name in here) == 2


def test_one_that_begins_with_a_trained_generator_learns_what_the_cpu_learns(
    data: Path, tmp_path: Path
) -> None:
    recipe = written(tmp_path, "published", "fp32", PIX2PIX)
    trained("cpu", recipe, data, tmp_path / "whole", "--set", "search.target=1")
    begun = ("--from", str(tmp_path / "whole"))
    here, _ = trained("cpu", recipe, data, tmp_path / "cpu", *begun)
    there, waits = trained("pretended", recipe, data, tmp_path / "pretended", *begun)
    assert sum(waits)
    assert there["tiny.safetensors"] == here["tiny.safetensors"]


def test_its_first_steps_are_those_of_the_cpu(data: Path, tmp_path: Path) -> None:
    device = os.environ.get("CORONET_TEST_DEVICE", "pretended")
    rows = {}
    for name, precision in (("cpu", "fp32"), (device, "fp32"), (device, "bf16")):
        output = tmp_path / f"{name}-{precision}"
        files, _ = trained(name, written(tmp_path, "collapsed", precision, CYCLEGAN), data, output)
        assert {"tiny.safetensors", "tiny-reverse.safetensors"} <= set(files)
        rows[output.name] = list(csv.DictReader((output / "metrics.csv").open()))
    here = rows.pop("cpu-fp32")
    for name, there in rows.items():
        near = 0.1 if name.endswith("bf16") else 1e-3
        for loss in ("d", "d_back", "gan", "gan_back", "cycle", "cycle_back"):
            assert float(there[0][loss]) == pytest.approx(float(here[0][loss]), rel=near), name
        assert float(there[-1]["ratio"]) == pytest.approx(float(here[-1]["ratio"]), abs=0.01)


def test_a_resumed_one_learns_the_same(data: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "published", "fp32", PIX2PIX)
    here, _ = trained("cpu", recipe, data, tmp_path / "cpu")
    output, short = tmp_path / "pretended", ("--save-every", "1")
    line = command("pretended", recipe, data, output, *short)
    for saves in (3, 2):  # in the search, and in fine-tuning
        kill_after_saves(line, output / "state.pt", saves)
        line = [*line, "--resume"]
    there, _ = trained("pretended", recipe, data, output, *short, "--resume")
    assert there["tiny.safetensors"] == here["tiny.safetensors"]


def test_the_host_seldom_waits(data: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "collapsed", "bf16", CYCLEGAN)
    files, waits = trained("pretended", recipe, data, tmp_path / "out")
    assert "tiny.safetensors" in files
    assert len(waits) == 8 + 1
    # For the losses; of each generator, twice for its latents and once for its plan.
    assert max(waits[1], waits[3]) <= 1 + 2 * 3
    assert max(waits[5:8]) <= 1
    assert waits[2] <= 7 + 2 * 3 * 13  # dead channels are sliced, of 13 groups


def test_pictures_are_judged_there_as_here(tmp_path: Path) -> None:
    pairs, features = write_pairs(tmp_path / "pairs", 4), tmp_path / "squeezenet.safetensors"
    write_squeezenet(features)
    line = [*COMMAND, "evaluate", "--data", str(pairs), "--features", str(features), "--json"]
    said = []
    for device in ("cpu", "pretended"):
        waits = tmp_path / f"{device}.json"
        done = subprocess.run(
            [*line, "--direction", "AtoB", "--device", device],
            env={**os.environ, "PRETENDED_WAITS": str(waits)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # A picture comes back of the generator, and features of what was given, made and true;
        # and twice it is tried whether the device works.
        assert json.loads(waits.read_text()) == [0 if device == "cpu" else 4 * (1 + 3) + 2]
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
