"""The bundled recipes: every model of the zoo can be trained as it says."""

from __future__ import annotations

import pytest

from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.recipe import Task, read_recipe
from coronet_deploy.storage import data_dir
from coronet_deploy.vocabulary import Architecture

ARCHITECTURES = {"unet256": Architecture.UNET_256, "resnet9": Architecture.RESNET_9}
FOLDERS = sorted(path.parent for path in data_dir("models").glob("*/recipe.toml"))


def test_the_zoo_is_complete() -> None:
    expected = {"facades-unet256", "edges2shoes-unet256", "edges2shoes-resnet9"}
    expected |= {"horse2zebra-resnet9", "zebra2horse-resnet9", "summer2winter-resnet9"}
    assert {folder.name for folder in FOLDERS} == expected


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_a_recipe_is_what_its_folder_says(name: str) -> None:
    folder = data_dir("models") / name
    for path in folder.glob("*.toml"):
        recipe = read_recipe(path)
        assert recipe.model.id == name
        data, network = name.split("-")
        unpaired = data in {"horse2zebra", "zebra2horse", "summer2winter"}
        assert (recipe.model.task is Task.CYCLEGAN) == unpaired
        assert recipe.model.architecture is ARCHITECTURES[network]
        s = recipe.search
        Controller(recipe.full, recipe.target_ratio, 1, s.min_channels, s.channel_multiple)
    assert (folder / "README.md").read_text().startswith(f"# {name}\n")
