"""The bundled recipes: every model of the zoo can be trained as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.recipe import Recipe, Task, read_recipe
from coronet_deploy.coronet.zoo import find_recipe
from coronet_deploy.errors import BadInput
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


def test_every_key_of_a_recipe_is_written_down_with_its_default() -> None:
    text = (data_dir("models") / "README.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", text, re.MULTILINE)
    written: dict[str, str] = {}
    for keys, defaults in rows:
        names = re.findall(r"`([\w.]+)`", keys)
        written |= dict(zip(names, defaults.split(", ") * len(names), strict=False))
    true = dict(defaults_of(Recipe))
    assert written.keys() == true.keys()
    for key in true.keys() - {"qat.lr", "qat.load", "qat.crop"}:  # by default as other keys say
        assert written[key].split(";")[0] == true[key], key


def defaults_of(table: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each dotted key of a recipe, and its default as a document shows it."""
    for name, field in table.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner:
            yield from defaults_of(inner[0], f"{prefix}{name}.")
        else:
            default = "needed" if field.is_required() else str(field.default)
            yield f"{prefix}{name}", default.lower() if default == "False" else default


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_a_bundled_recipe_is_found_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe(find_recipe(Path(name))).model.id == name
    Path(name).write_text("[model")  # a file of the user's own comes first
    with pytest.raises(BadInput, match=f"recipe {name}: "):
        read_recipe(find_recipe(Path(name)))


def test_a_recipe_that_is_nowhere_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not exist.*horse2zebra-resnet9") as refused:
        find_recipe(tmp_path / "facades.toml")
    assert all(folder.name in str(refused.value) for folder in FOLDERS)
