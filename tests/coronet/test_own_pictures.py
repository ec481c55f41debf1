"""A training leaves pictures of its task, and exports and comparisons take them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.coronet.data import Direction, open_training
from coronet_deploy.coronet.own_pictures import leave_pictures
from coronet_deploy.coronet.zoo import (
    CALIBRATION,
    INPUTS,
    bundled_checkpoint,
    bundled_pictures,
    own_pictures,
)
from coronet_deploy.images import list_pictures
from support import Cli

HORSES = "horse2zebra-resnet9"
CYCLEGAN = """
[model]
id = "tiny"
title = "Tiny"
task = "cyclegan"
architecture = "resnet_6blocks"
norm = "instance"
width = 4
[data]
load = 36
crop = 32
[search]
steps = 1
target = 0.5
form = "collapsed"
[finetune]
steps = 1
[qat]
steps = 1
[discriminator]
width = 4
"""


def _pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def _drawn(folder: Path, count: int, seed: int, size: tuple[int, int] = (40, 48)) -> None:
    """Fill a folder with `count` pictures of coloured squares, of (height, width) `size`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1]).save(folder / f"{i:02d}.png")


def test_each_generator_has_those_of_its_own_domain(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for seed, (name, count) in enumerate(
        {"trainA": 13, "trainB": 5, "testA": 2, "testB": 8}.items()
    ):
        _drawn(data / name, count, seed)
    recipe, output = tmp_path / "tiny.toml", tmp_path / "out"
    recipe.write_text(CYCLEGAN)
    line = ("train", recipe, "--data", data, "--threads", 1, "--output", output)
    done = cli(*line, "--set", "data.direction=BtoA")
    assert done.returncode == 0, done.stderr
    results = {
        output / "tiny.safetensors": "B",
        output / "tiny-reverse.safetensors": "A",
        output / "tiny-qat" / "tiny-qat.safetensors": "B",
        output / "tiny-reverse-qat" / "tiny-reverse-qat.safetensors": "A",
    }
    for result, domain in results.items():
        assert result.is_file()
        for kind, split, most in ((CALIBRATION, "train", 12), (INPUTS, "test", 6)):
            left = list_pictures(own_pictures(result) / kind)
            files = list_pictures(data / f"{split}{domain}")
            assert len(left) == min(len(files), most)
            known = {_pixels(path) for path in files}
            assert {_pixels(path) for path in left} <= known
    searched = output / "tiny.search.safetensors"
    assert own_pictures(searched) == own_pictures(output / "tiny.safetensors")


def test_halves_of_pairs_are_taken_apart_and_large_ones_squeezed(tmp_path: Path) -> None:
    _drawn(tmp_path / "data" / "train", 3, 0, (700, 900))
    for direction, half in ((Direction.A_TO_B, 0), (Direction.B_TO_A, 450)):
        training, held_out = open_training(tmp_path / "data", direction, 32, 32, paired=True)
        assert held_out is None
        result = tmp_path / direction / "tiny.safetensors"
        leave_pictures(result, training, held_out)
        left = own_pictures(result)
        # Of three pictures those to compare on leave none over.
        for kind in (CALIBRATION, INPUTS):
            for path, source in zip(
                list_pictures(left / kind), list_pictures(tmp_path / "data" / "train"), strict=True
            ):
                with Image.open(path) as picture, Image.open(source) as pair:
                    assert picture.size == (450, 512)
                    wanted = pair.crop((half, 0, half + 450, 700)).resize((450, 512), 3)
                    assert picture.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("count", [2, 7, 18, 40])
def test_without_held_out_ones_two_piles_of_the_training_set(count: int, tmp_path: Path) -> None:
    for seed, name in enumerate(("trainA", "trainB")):
        _drawn(tmp_path / "data" / name, count, seed)
    training, held_out = open_training(tmp_path / "data", Direction.A_TO_B, 32, 32, paired=False)
    result = tmp_path / "tiny.safetensors"
    leave_pictures(result, training, held_out)
    piles = [list_pictures(own_pictures(result) / kind) for kind in (CALIBRATION, INPUTS)]
    calibration, inputs = ({_pixels(path) for path in pile} for pile in piles)
    assert len(inputs) == min(count, 6)
    assert len(calibration) == (min(count - 6, 12) if count > 6 else count)
    assert not calibration & inputs or count <= 6


@pytest.mark.parametrize("anew", [False, True])
def test_what_lies_there_stays_unless_a_training_begins_anew(anew: bool, tmp_path: Path) -> None:
    for seed, name in enumerate(("trainA", "trainB")):
        _drawn(tmp_path / "data" / name, 4, seed)
    training, held_out = open_training(tmp_path / "data", Direction.A_TO_B, 32, 32, paired=False)
    result = tmp_path / "tiny.safetensors"
    first, beyond, other = (own_pictures(result) / INPUTS / f"{n}.png" for n in ("00", "05", "me"))
    first.parent.mkdir(parents=True)
    for path in (first, beyond, other):
        shutil.copyfile(bundled_pictures()[0], path)
    leave_pictures(result, training, held_out, anew=anew)
    assert (first.read_bytes() == other.read_bytes()) is not anew
    assert beyond.exists() is not anew
    assert len(list_pictures(first.parent)) == 4 + (1 if anew else 2)


def test_export_and_verify_take_those_beside_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    horses = tmp_path / "horses.safetensors"
    shutil.copyfile(bundled_checkpoint(HORSES), horses)
    for seed, kind in enumerate((CALIBRATION, INPUTS)):
        _drawn(own_pictures(horses) / kind, 3, seed, (64, 64))
    common = ("--dtype", "int8-full", "--runtime", "onnx", "--size", 64, "--min-psnr", 5)
    own = cli("export", horses, *common, "--output", tmp_path / "own")
    assert own.returncode == 0, own.stderr
    folders = [own_pictures(horses) / kind for kind in (INPUTS, CALIBRATION)]
    said = f"pictures of its task: {folders[0]} and {folders[1]}\n"
    assert said in own.stderr
    assert "bundled" not in own.stderr
    named = ("--pictures", folders[0], "--calibration", folders[1])
    told = cli("export", horses, *common, *named, "--output", tmp_path / "told")
    assert told.returncode == 0, told.stderr
    assert "pictures of its task" not in told.stderr
    (artifact,) = (tmp_path / "own").glob("*.onnx")
    for path in (artifact, artifact.with_name(f"{artifact.name}.json")):
        assert path.read_bytes() == (tmp_path / "told" / path.name).read_bytes()
    verified = cli("verify", artifact, "--checkpoint", horses)
    assert f"pictures of its task: {folders[0]}\n" in verified.stderr
    # A folder of one's own goes before, and ranges are then of a part of it.
    only = cli("export", horses, *common, "--pictures", folders[0], "--output", tmp_path / "only")
    assert only.returncode == 0, only.stderr
    assert "pictures of its task" not in only.stderr
    # Ranges alone: the comparison is on the bundled ones, which is told.
    shutil.rmtree(folders[0])
    half = cli("export", horses, *common, "--output", tmp_path / "half")
    assert f"pictures of its task: {folders[1]}\n" in half.stderr
    assert "INT8 is compared on the bundled label maps" in half.stderr


def test_a_folder_without_pictures_is_one_line(cli: Cli, tmp_path: Path) -> None:
    horses = tmp_path / "horses.safetensors"
    shutil.copyfile(bundled_checkpoint(HORSES), horses)
    empty = own_pictures(horses) / INPUTS
    empty.mkdir(parents=True)
    refused = cli("export", horses, "--output", tmp_path / "out")
    assert refused.returncode == 2
    assert f"{empty} holds no picture" in refused.stderr
    assert refused.stderr.count("\n") == 2  # with what is taken
