"""A recipe is refused before training if a checkpoint could not hold it, or a key does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coronet_deploy.coronet.losses import GANLoss
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture

RECIPE = """
[model]
id = "tiny"
title = "Tiny"
architecture = "resnet_6blocks"
norm = "{norm}"
width = 8
task = "{task}"
[search]
steps = 2
target = 0.5
[finetune]
steps = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(task="pix2pix", norm="batch"))
    return path


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("search.embedding=1025", "search.embedding: "),
        ("search.threshold=2e6", "search.threshold: "),
        ("search.threshold=1e-300", "search.threshold: "),
        ("data.load=2147483648", "data.load: "),
        ("qat.load=60000", "qat.load: "),
        (f"model.id={'a' * 193}", "model.id: "),
        ("model.width=20000", "model.width 20000: "),
        ("search.target=true", "search.target: true is not a number"),
        ("search.steps=true", "search.steps: true is not a number"),
        ("search.steps='100'", "search.steps: '100' is text: a number is meant, without quotes"),
        ("qat.lr='1e-4'", "qat.lr: '1e-4' is text: a number is meant"),
        ("search.target=25%", "search.target: '25%' is text: a number is meant"),
        (
            "machine.channels_last='true'",
            "machine.channels_last: 'true' is text: true or",
        ),
        ("seed=true", "seed: true is not a number"),
        ("search.target=1e30", "search.target 1e+30, a number of MACs"),
        ("loss.cycle=10.0", "loss.cycle has no effect"),
        ("loss.identity=0.5", "loss.identity has no effect"),
        ("data.pool=50", "data.pool has no effect"),
    ],
)
def test_what_cannot_be_or_does_nothing_is_named(value: str, said: str, recipe: Path) -> None:
    changes = [value, "search.target=1e9"] if "width" in value else [value]
    with pytest.raises(BadInput) as caught:
        read_recipe(recipe, changes)
    assert str(caught.value).startswith(f"recipe {recipe}: {said}")
    assert str(caught.value).endswith(f" (set by --set {value})")
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_is_named_and_not_the_one_that_it_leaves_missing(recipe: Path) -> None:
    whole = recipe.read_text()
    for change, said in (
        (("target = 0.5", "targte = 0.5"), "search.targte: there is no such key"),
        (("[search]", "[serch]"), "serch: there is no such key"),
        (("target = 0.5", ""), "search.target: is missing"),
    ):
        recipe.write_text(whole.replace(*change))
        with pytest.raises(BadInput) as caught:
            read_recipe(recipe)
        assert str(caught.value) == f"recipe {recipe}: {said}"


def test_what_the_file_says_is_not_blamed_on_a_flag(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("target = 0.5", "target = -0.5"))
    for lines in ([], ["search.steps=3"], ["seed=2"]):
        with pytest.raises(BadInput) as caught:
            read_recipe(recipe, lines)
        assert "--set" not in str(caught.value)
    with pytest.raises(BadInput, match=r"\(set by --set search\.target=-2\)$"):
        read_recipe(recipe, ["search.target=-1", "search.target=-2", "seed=2"])


def test_a_number_may_begin_with_its_point(recipe: Path) -> None:
    assert read_recipe(recipe, ["search.target=.25"]).search.target == 0.25


def test_spaces_around_the_two_sides_of_a_change_count_as_little_as_in_a_recipe(
    recipe: Path,
) -> None:
    lines = ["search.steps = 20", " search . target= .25 ", "model.norm = instance", "seed =7"]
    changed = read_recipe(recipe, [*lines, "model.title = 'Two  words '"])
    assert (changed.search.steps, changed.search.target, changed.seed) == (20, 0.25, 7)
    assert (changed.model.norm, changed.model.title) == ("instance", "Two  words ")
    for line in ("= 2", "search. = 2", "search.steps"):
        with pytest.raises(BadInput, match=f"^--set {line}: not KEY=VALUE$"):
            read_recipe(recipe, [line])


@pytest.mark.parametrize("text", ["2024", "1e5", "true", "2024-01-01", "0.10", "nan"])
def test_what_looks_like_a_number_is_text_where_text_is_meant(text: str, recipe: Path) -> None:
    changed = read_recipe(recipe, [f"model.id={text}", f"model.title='{text}'"])
    assert (changed.model.id, changed.model.title) == (text, text)


def test_a_recipe_is_utf_8_whatever_the_locale_and_whoever_wrote_it(recipe: Path) -> None:
    text = recipe.read_text().replace('"Tiny"', '"Küche"').replace("\n", "\r\n")
    recipe.write_bytes(text.encode("utf-8-sig"))
    code = (
        "import sys, pathlib; from coronet_deploy.coronet.recipe import read_recipe; "
        "print(ascii(read_recipe(pathlib.Path(sys.argv[1])).model.title))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    line = [sys.executable, "-c", code, str(recipe)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "'K\\xfcche'\n", done.stderr


def test_keys_that_nothing_looks_at_are_named(recipe: Path) -> None:
    recipe.write_text(RECIPE.format(task="cyclegan", norm="instance"))
    read_recipe(recipe, ["loss.cycle=5.0", "data.pool=3", f"model.id={'a' * 192}"])
    for value in ("loss.l1=100.0", "finetune.freeze_norm_from=0.5"):
        with pytest.raises(BadInput, match=f"{value.partition('=')[0]} has no effect"):
            read_recipe(recipe, [value])


def test_an_embedding_is_refused_where_there_is_none(recipe: Path) -> None:
    assert read_recipe(recipe, ["search.embedding=4"]).search.embedding == 4
    read_recipe(recipe, ["search.form=collapsed"])
    told = r"search\.embedding has no effect: it is of the form published, and .*collapsed"
    with pytest.raises(BadInput, match=told):
        read_recipe(recipe, ["search.form=collapsed", "search.embedding=4"])


def test_a_task_has_the_defaults_of_its_paper(recipe: Path) -> None:
    paired = read_recipe(recipe)
    assert (paired.model.dropout, paired.loss.gan) == (0.5, GANLoss.VANILLA)
    cycle = read_recipe(recipe, ["model.task=cyclegan"])
    assert (cycle.model.dropout, cycle.loss.gan) == (0.0, GANLoss.LSGAN)
    told = read_recipe(recipe, ["model.task=cyclegan", "model.dropout=0.2", "loss.gan=vanilla"])
    assert (told.model.dropout, told.loss.gan) == (0.2, GANLoss.VANILLA)


def test_a_resnet_drops_activations_while_it_trains_alone() -> None:
    torch.manual_seed(1)
    plan = full_plan(Architecture.RESNET_6, width=4)
    dropping = build_generator(plan, dropout=0.5)
    plain = build_generator(plan, dropout=0.0)
    plain.load_state_dict(dropping.state_dict())  # the same tensors
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        assert not torch.equal(dropping(x), dropping(x))
        assert torch.equal(plain(x), plain(x))
        assert torch.equal(dropping.eval()(x), plain.eval()(x))
