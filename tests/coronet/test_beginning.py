"""`train --from`: trained generators are gone on with, or pruned from where they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from coronet_deploy.cli import main
from coronet_deploy.coronet.checkpoint import Stage, load_checkpoint, save_unpruned_twin
from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import Form
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.coronet.takeover import take_over
from coronet_deploy.coronet.zoo import bundled_checkpoint
from coronet_deploy.images import Array
from coronet_deploy.networks.cost import macs
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.storage import sha256_of
from coronet_deploy.vocabulary import Architecture, Norm
from foreign_networks import judge, resnet, unet
from support import COMMAND, TINY_PIX2PIX, Cli, keeps_latents, kill_after_saves

PIX2PIX = f"""{TINY_PIX2PIX}[search]
steps = 6
target = 0.3
form = "collapsed"
slice_every = 2
[finetune]
steps = 4
"""

CYCLEGAN = """
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
[search]
steps = 6
target = 0.3
form = "collapsed"
slice_every = 2
[finetune]
steps = 4
[discriminator]
width = 8
"""

STILL = ("--set", "optimiser.lr=1e-30")
"""A training that leaves every weight as it was."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes and pictures of both tasks, and networks as pytorch-CycleGAN-and-pix2pix saves."""
    folder = tmp_path_factory.mktemp("beginning")
    (folder / "pix2pix.toml").write_text(PIX2PIX)
    (folder / "cyclegan.toml").write_text(CYCLEGAN)
    rng = np.random.default_rng(3)
    for split, sides in (("train", (256, 128)), ("trainA", (50, 40)), ("trainB", (50, 40))):
        (folder / "data" / split).mkdir(parents=True)
        for i in range(4):
            small = rng.integers(0, 256, (8, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize(sides).save(folder / "data" / split / f"{i}.png")
    torch.manual_seed(4)
    for name, network in {
        "pairs/latest_net_G": _met(unet(7, Norm.BATCH, 8), 128),
        "pairs/latest_net_D": _met(judge(6, Norm.BATCH, 8), 128, channels=6),
        "piles/latest_net_G_A": resnet(6, Norm.INSTANCE, 8, dropout=False),
        "piles/latest_net_G_B": resnet(6, Norm.INSTANCE, 8, dropout=False),
        "piles/latest_net_D_A": judge(3, Norm.INSTANCE, 8),
        "piles/latest_net_D_B": judge(3, Norm.INSTANCE, 8),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / f"{name}.pth")
    return folder


def _met(network: nn.Module, side: int, channels: int = 3) -> nn.Module:
    """Return a network whose BatchNorms have seen something and scale differently."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, channels, side, side) * 2 - 1)
    return network


def trained(cli: Cli, place: Path, task: str, output: Path, *flags: object) -> list[Path]:
    """Train, and return the results' places."""
    line = ("train", place / f"{task}.toml", "--data", place / "data", "--threads", 1, "--json")
    done = cli(*line, "--output", output, *flags)
    assert done.returncode == 0, done.stderr
    return [Path(one) for one in json.loads(done.stdout)["checkpoints"]]


def drawn(checkpoint: Path, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y: torch.Tensor = load_checkpoint(checkpoint).generator()(x)
    return y


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("architecture", [Architecture.RESNET_6, Architecture.UNET_128])
def test_a_search_begins_with_what_the_generator_draws(
    architecture: Architecture, norm: Norm, form: Form, pictures: Callable[[int], Array]
) -> None:
    torch.manual_seed(5)
    plan = full_plan(architecture, norm, 12)
    dense = build_generator(plan)
    for module in dense.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.05)
    x = torch.from_numpy(pictures(128))
    with torch.no_grad():
        _met(dense, 128)(x)
        dense.eval()
        searched = CoroNetGenerator(plan, form=form).eval()
        assert (searched(x) - dense(x)).abs().max() > 1e-2
        before = copy.deepcopy(dense.state_dict())
        take_over(searched, dense)
        assert searched.latents.living_plan() == plan
        expected = dense(x)
        for name, tensor in dense.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert expected.std() > 1e-3
        assert torch.allclose(searched(x), expected, atol=2e-5)
        assert torch.allclose(materialize(searched)(x), expected, atol=2e-5)


@pytest.mark.parametrize("norm", Norm)
def test_channels_that_nothing_uses_are_the_first_to_be_cut(
    norm: Norm, cli: Cli, place: Path, tmp_path: Path, pictures: Callable[[int], Array]
) -> None:
    network = resnet(6, norm, 8, dropout=False)
    _met(network, 32)
    weights = network.state_dict()
    unused = torch.randperm(32)[:16]
    for i in range(6):  # of what a block makes inside, its second convolution uses half
        weights[f"model.{10 + i}.conv_block.5.weight"][:, unused] = 0
    torch.save(weights, tmp_path / "half.pth")
    full = load_checkpoint(tmp_path / "half.pth").plan
    plan = full_plan(full.architecture, norm, 8)
    halved = {k: v // 2 if k.startswith("block") else v for k, v in plan.groups.items()}
    ratio = macs(type(plan)(plan.architecture, norm, halved)) / macs(plan)
    flags = ["--set", f"model.norm={norm}", "--set", "search.steps=0", *STILL]
    (first, _) = trained(
        cli, place, "cyclegan", tmp_path / "out", "--from", tmp_path / "half.pth", *flags,
        "--set", f"search.target={ratio!r}", "--set", "model.dropout=0",
        *(["--set", "finetune.freeze_norm_from=0"] if norm is Norm.BATCH else []),
    )  # fmt: skip
    assert load_checkpoint(first).plan.groups == halved
    x = torch.from_numpy(pictures(64))
    if norm is Norm.INSTANCE:  # BatchNorm's statistics are those of the new pictures
        assert torch.allclose(drawn(first, x), drawn(tmp_path / "half.pth", x), atol=1e-4)


def test_a_finished_training_is_gone_on_with_in_either_direction(
    cli: Cli, place: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    there, back = trained(cli, place, "cyclegan", before)
    others = ("--set", "search.target=0.35", "--set", "search.threshold=0.01")
    flags = ("--from", before, "--set", "search.steps=0", *others, *STILL)
    for direction, (first, second) in {"AtoB": (there, back), "BtoA": (back, there)}.items():
        output = tmp_path / direction
        turned = ("--set", f"data.direction={direction}")
        results = trained(cli, place, "cyclegan", output, *flags, *turned)
        for result, begun in zip(results, (first, second), strict=True):
            after = load_checkpoint(result)
            assert after.plan == load_checkpoint(begun).plan
            assert after.full == load_checkpoint(begun).full
            keeps_latents(after, load_checkpoint(begun))
            assert after.header.direction == load_checkpoint(begun).header.direction
            x = torch.rand(1, 3, 32, 32) * 2 - 1
            assert torch.equal(drawn(result, x), drawn(begun, x))
        # Each generator has the discriminator that it learnt before.
        judges = [_judges(folder / "state.pt") for folder in (before, output)]
        order = (0, 1) if direction == "AtoB" else (1, 0)
        for now, then in enumerate(order):
            for name, tensor in judges[1][now].items():
                assert torch.equal(tensor, judges[0][then][name]), name
    # And learns on: other weights, of the same channels.
    (moved, _) = trained(cli, place, "cyclegan", tmp_path / "moved", *flags[:8])
    assert load_checkpoint(moved).plan == load_checkpoint(there).plan
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    assert 1e-4 < (drawn(moved, x) - drawn(there, x)).abs().max() < 0.5


def _judges(state: Path) -> list[dict[str, torch.Tensor]]:
    tensors = torch.load(state, weights_only=True)["game"]["discriminators"]
    return [{k[2:]: v for k, v in tensors.items() if k.startswith(f"{i}.")} for i in range(2)]


@pytest.mark.parametrize(
    ("task", "places", "names"),
    [
        ("pix2pix", ["pairs"], ["G"]),
        ("pix2pix", ["pairs/latest_net_G.pth"], ["G"]),
        ("cyclegan", ["piles"], ["G_A", "G_B"]),
        ("cyclegan BtoA", ["piles"], ["G_B", "G_A"]),
        ("cyclegan", ["piles/latest_net_G_B.pth", "piles/latest_net_G_A.pth"], ["G_B", "G_A"]),
    ],
)
def test_a_foreign_generator_is_trained_on_with_its_discriminator(
    task: str, places: list[str], names: list[str], cli: Cli, place: Path, tmp_path: Path
) -> None:
    task, _, direction = task.partition(" ")
    begun = [place / one for one in places]
    flags = ["--from", *begun, "--set", "search.target=1", *STILL]
    if direction:
        flags += ["--set", f"data.direction={direction}"]
    if task == "pix2pix":
        flags += ["--set", "finetune.freeze_norm_from=0"]
    results = trained(cli, place, task, tmp_path / "out", *flags)
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)["game"]["discriminators"]
    folder = place / ("pairs" if task == "pix2pix" else "piles")
    for i, (name, result) in enumerate(zip(names, results, strict=True)):
        weights = load_file(result)
        theirs = load_checkpoint(folder / f"latest_net_{name}.pth").network
        for key, tensor in theirs.state_dict().items():
            if "running" not in key and "tracked" not in key:
                assert torch.allclose(weights[f"network.{key}"], tensor, atol=1e-20), key
        judging = torch.load(folder / f"latest_net_{name.replace('G', 'D')}.pth")
        for key, tensor in judging.items():
            if "running" not in key and "tracked" not in key:
                assert torch.allclose(state[f"{i}.{key}"], tensor, atol=1e-20), key


@pytest.mark.parametrize(("task", "begun"), [("pix2pix", "pairs"), ("cyclegan", "piles")])
def test_a_dense_generator_is_pruned_and_a_killed_run_resumes_exactly(
    task: str, begun: str, cli: Cli, place: Path, tmp_path: Path
) -> None:
    flags = ("--from", place / begun, "--save-every", 4)
    whole = trained(cli, place, task, tmp_path / "whole", *flags)
    for result in whole:
        checkpoint = load_checkpoint(result)
        assert checkpoint.header.stage is Stage.FINETUNED
        assert 0.2 < macs(checkpoint.plan) / macs(checkpoint.full) <= 0.3
    common = ("--data", place / "data", "--threads", 1, *flags, "--output", tmp_path / "part")
    line = [str(COMMAND), "train", str(place / f"{task}.toml"), *map(str, common)]
    kill_after_saves(line, tmp_path / "part" / "state.pt", saves=1)
    resumed = cli(*line[1:], "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for result in whole:
        assert (tmp_path / "part" / result.name).read_bytes() == result.read_bytes()
    # What was pruned once can be pruned further.
    further = ("--from", tmp_path / "whole", "--set", "search.target=0.15")
    for result in trained(cli, place, task, tmp_path / "further", *further):
        checkpoint = load_checkpoint(result)
        earlier = load_checkpoint(tmp_path / "whole" / result.name)
        assert checkpoint.full == earlier.full
        assert macs(checkpoint.plan) / macs(checkpoint.full) <= 0.15
        assert checkpoint.latents is not None
        assert earlier.latents is not None
        for group in earlier.plan.groups:  # of the channels that lived, some live still
            now, then = (one.keep(group) for one in (checkpoint.latents, earlier.latents))
            assert not (now & ~then).any(), group


def test_who_begins_with_what_is_told(cli: Cli, place: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.pth"
    lone.write_bytes((place / "piles" / "latest_net_G_A.pth").read_bytes())
    line = ("train", place / "cyclegan.toml", "--data", place / "data", "--from", lone)
    done = cli(*line, "--output", tmp_path / "out", "--threads", 1)
    assert done.returncode == 0, done.stderr
    told = f"begins: stripes with {lone}, stripes-reverse by chance, 2 discriminators by chance"
    assert told in done.stderr.splitlines()


def test_a_checkpoint_tells_the_trainings_behind_it(cli: Cli, place: Path, tmp_path: Path) -> None:
    data = ("--data", place / "data", "--threads", 1)
    foreign = place / "piles" / "latest_net_G_B.pth"
    _, back = trained(cli, place, "cyclegan", tmp_path / "first", "--from", place / "piles")
    further = ("--from", tmp_path / "first", "--set", "search.steps=0", "--set", "seed=9")
    _, on = trained(cli, place, "cyclegan", tmp_path / "second", *further)
    tuning = ("--qat", on, "--set", "qat.steps=2", "--output", tmp_path / "third", "--json")
    tuned = cli("train", place / "cyclegan.toml", *data, *tuning)
    assert tuned.returncode == 0, tuned.stderr
    last = Path(json.loads(tuned.stdout)["checkpoint"])
    dense = tmp_path / "dense.safetensors"
    assert cli("materialize", last, "--output", dense).returncode == 0

    told = {one: json.loads(cli("inspect", one, "--json").stdout) for one in (back, on, last)}
    history = json.loads(cli("inspect", dense, "--json").stdout)["history"]
    assert told[last]["history"] == history
    assert told[on]["history"] == history[:2]
    assert told[back]["history"] == history[:1]
    origins = [
        {"file": foreign.name, "sha256": sha256_of(foreign)},
        {"file": back.name, "sha256": told[back]["sha256"]},
        {"file": on.name, "sha256": told[on]["sha256"]},
    ]
    assert [training["origin"] for training in history] == origins
    assert [training["steps"] for training in history] == [10, 4, 2]
    assert [training["recipe"]["seed"] for training in history] == [0, 9, 0]
    assert {training["pictures"] for training in history} == {8}
    assert history[0]["recipe"] == read_recipe(place / "cyclegan.toml", []).model_dump(mode="json")
    lines = cli("inspect", dense).stdout.replace("\n", " ")
    for act, origin in zip(("trained", "trained", "tuned for eight bits"), origins, strict=True):
        assert f"{act} from {origin['file']} ({origin['sha256'][:12]}): " in lines
    # By chance, and so is the twin that is for timing alone.
    searched = load_checkpoint(trained(cli, place, "pix2pix", tmp_path / "chance")[0])
    assert [training.origin for training in searched.header.history] == [None]
    save_unpruned_twin(searched, tmp_path / "twin.safetensors")
    assert not load_checkpoint(tmp_path / "twin.safetensors").header.history


@pytest.mark.parametrize(
    ("task", "places", "flags", "told"),
    [
        ("pix2pix", ["piles"], [], "neither state.pt of a training nor, for pix2pix"),
        ("cyclegan", ["pairs"], [], "latest_net_G_A.pth and latest_net_G_B.pth"),
        ("pix2pix", ["pairs/latest_net_G.pth"] * 2, [], "at most 1 checkpoint in pix2pix"),
        ("pix2pix", ["none.pth"], [], "none.pth"),
        ("pix2pix", ["pairs"], ["model.width=16"], "batch norm, width 8"),
        ("pix2pix", ["pairs"], ["discriminator.width=4"], "(a discriminator)"),
        ("pix2pix", ["piles/latest_net_G_A.pth"], [], "is a generator of resnet_6blocks"),
        ("pix2pix", ["pairs/latest_net_D.pth"], [], "is not a ResNet or U-Net generator"),
        ("pix2pix", ["facades"], ["model.architecture=unet_256", "data.load=256",
                                  "data.crop=256", "model.width=64"], "0.0997 of the MACs already"),
        ("pix2pix", ["facades"], ["model.architecture=unet_256", "data.load=256",
                                  "data.crop=256", "model.width=64", "search.target=1"],
         "search.target=1 trains what is whole"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_a_line(
    task: str,
    places: list[str],
    flags: list[str],
    told: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = [bundled_checkpoint() if one == "facades" else place / one for one in places]
    settings = [part for flag in flags for part in ("--set", flag)]
    line = ["train", place / f"{task}.toml", "--data", place / "data", "--from", *begun, *settings]
    assert main([*map(str, line), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_an_unfinished_training_is_not_begun_with(
    place: Path, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before"
    trained(cli, place, "pix2pix", before)
    line = ["train", place / "pix2pix.toml", "--data", place / "data", "--output", tmp_path / "out"]
    line += ["--from", before, "--set", "search.target=0.15"]
    state = torch.load(before / "state.pt", weights_only=True)
    for game in ({}, {"discriminators": [1]}, {"discriminators": {"0.model.0.weight": 1}}):
        torch.save({**state, "game": game}, before / "state.pt")
        assert main([*map(str, line)]) == 2
        assert "is not a whole training state" in capsys.readouterr().err
    (before / "tiny.safetensors").unlink()
    assert main([*map(str, line)]) == 2
    assert "is not at its end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
