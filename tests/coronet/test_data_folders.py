"""Which folders training reads, and what is said of a folder that is laid out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from coronet_deploy.coronet.data import Direction, open_training
from coronet_deploy.errors import BadInput
from support import Cli

SIDE = 12


def write_pair(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2 * SIDE, SIDE)).save(path)


def held_out(data: Path) -> list[str] | None:
    _, pictures = open_training(data, Direction.A_TO_B, SIDE, 8, paired=True)
    return None if pictures is None else pictures.names


def test_samples_are_of_val_or_where_that_is_missing_or_empty_of_test(tmp_path: Path) -> None:
    write_pair(tmp_path / "train" / "0.png")
    assert held_out(tmp_path) is None
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / ".gitkeep").touch()
    with pytest.raises(BadInput, match="val holds no picture"):
        held_out(tmp_path)
    write_pair(tmp_path / "test" / "1.png")
    assert held_out(tmp_path) == ["1.png"]
    write_pair(tmp_path / "val" / "more" / "2.png")
    with pytest.raises(BadInput, match=r"those in its folder more are not looked at: move them up"):
        held_out(tmp_path)
    write_pair(tmp_path / "val" / "3.png")
    assert held_out(tmp_path) == ["3.png"]


PAIRS_SIDE_BY_SIDE = "has no trainA and no trainB (its train is for Pix2Pix, which takes pairs side"


@pytest.mark.parametrize(
    ("folders", "paired", "told"),
    [
        (["train"], False, PAIRS_SIDE_BY_SIDE),
        (["trainA"], False, "has no trainB (pictures of the one kind go into trainA, and of the"),
        (["."], False, "has no trainA and no trainB (it holds pictures itself: --data takes the"),
        (["."], True, "has no train and no trainA and no trainB (it holds pictures itself"),
        (["tran"], True, "has no train and no trainA and no trainB (pairs side by side go into"),
    ],
)
def test_a_folder_of_another_layout_is_told_the_one_that_is_wanted(
    folders: list[str], paired: bool, told: str, tmp_path: Path
) -> None:
    for name in folders:
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (2 * SIDE, SIDE)).save(tmp_path / name / "0.png")
    with pytest.raises(BadInput) as caught:
        open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=paired)
    assert str(caught.value).startswith(f"{tmp_path} {told}")


RECIPE = """
[model]
id = "tiny"
title = "Tiny"
architecture = "resnet_6blocks"
norm = "batch"
width = 4
[data]
load = 26
crop = 24
[search]
steps = 1
target = 0.6
[finetune]
steps = 1
[discriminator]
width = 4
"""


def test_pairs_of_unlike_shapes_are_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for folder, place in (("trainA", 0), ("trainB", 1)):
        for i in range(2):
            path = tmp_path / "data" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48 if place * i else 32, 32)).save(path)

    line = ("train", tmp_path / "recipe.toml", "--data", tmp_path / "data")
    done = cli(*line, "--output", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    both = " and ".join(
        f"{tmp_path / 'data' / folder / '1.png'} {size}"
        for folder, size in (("trainA", "is 32x32"), ("trainB", "48x32"))
    )
    assert f"1 of 2 pairs are of unlike shapes, such as {both}: each picture is" in done.stderr
