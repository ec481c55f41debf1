"""A run that cannot go on says so in one line, keeps its state, and goes on only as it was."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coronet_deploy.coronet import data as data_module
from coronet_deploy.coronet import train as train_module
from coronet_deploy.coronet.endings import stop_requests
from coronet_deploy.coronet.pool import ImagePool
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.state import StepReport
from coronet_deploy.coronet.team import Team
from coronet_deploy.coronet.train import Trainer
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.memory import memory_told
from support import Cli

RECIPE = """
[model]
id = "tiny"
title = "Tiny"
task = "cyclegan"
architecture = "resnet_6blocks"
norm = "instance"
width = 4
[data]
load = 26
crop = 24
pool = 2
[search]
steps = 3
target = 0.6
form = "collapsed"
[finetune]
steps = 3
[loss]
identity = 0.0
[discriminator]
width = 4
"""


def tiny() -> Recipe:
    return Recipe.model_validate(tomllib.loads(RECIPE))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    for folder in ("trainA", "trainB"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (26, 26, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{i}.png")
    return tmp_path / "data"


class Stopped(Exception):
    """What stops a training here."""


def stop_after(trainer: Trainer, step: int) -> None:
    """Train up to `step`, which is saved, and a step beyond it, which is not."""

    def halt(row: StepReport) -> None:
        if row.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        trainer.run(halt, save_every=step)


def test_too_little_memory_is_told_in_one_line(cli: Cli, data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    line = ("train", tmp_path / "recipe.toml", "--data", data, "--output", tmp_path / "out")
    result = cli(*line, "--set", "discriminator.width=200000")  # a petabyte
    assert result.returncode == 3
    assert "not enough memory to train" in result.stderr
    for what in ("data.batch", "model.width", "search.form=collapsed", "last saved state"):
        assert what in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.raises(EnvironmentProblem), memory_told("train"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shapes"), memory_told("train"):
        raise RuntimeError("shapes do not match")


def test_a_picture_that_breaks_on_the_way_costs_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "_MOST_KEPT", 1)  # one of a pile is kept
    recipe = tiny()
    Trainer(recipe, data, tmp_path / "whole").run(lambda _: None)
    trainer = Trainer(recipe, data, tmp_path / "part")
    last = data_module._shuffled(3, 4, recipe.seed)  # of the first epoch
    bad = data / "trainA" / f"{last}.png"
    whole = bad.read_bytes()

    def harm(row: StepReport) -> None:
        if row.step == 0:
            bad.write_bytes(whole[:300])  # it still begins as a picture does

    with pytest.raises(BadInput, match=rf"{last}\.png is not a readable picture"):
        trainer.run(harm, save_every=100)
    bad.write_bytes(whole)
    resumed = Trainer(recipe, data, tmp_path / "part")
    resumed.resume()
    assert resumed.step == trainer.step == 3
    resumed.run(lambda _: None)
    first, second = (tmp_path / name / "tiny.safetensors" for name in ("whole", "part"))
    assert second.read_bytes() == first.read_bytes()
    bad.write_bytes(b"<html>404</html>")
    with pytest.raises(BadInput, match=rf"{last}\.png is not a readable picture"):
        Trainer(recipe, data, tmp_path / "other")


def test_a_picture_that_breaks_where_norms_are_taken_anew_costs_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "_MOST_KEPT", 1)  # one of a pile is kept
    monkeypatch.setattr(train_module, "_RECALIBRATION_BATCHES", 4)
    recipe = Recipe.model_validate(tomllib.loads(RECIPE.replace('"instance"', '"batch"')))
    Trainer(recipe, data, tmp_path / "whole").run(lambda _: None)
    trainer = Trainer(recipe, data, tmp_path / "part")
    bad = data / "trainA" / "3.png"
    whole = bad.read_bytes()

    def harm(row: StepReport) -> None:
        if row.step == recipe.steps - 1:
            bad.write_bytes(whole[:300])

    with pytest.raises(BadInput, match=r"3\.png is not a readable picture"):
        trainer.run(harm, save_every=100)
    assert not list((tmp_path / "part").glob("tiny.safetensors"))
    bad.write_bytes(whole)
    resumed = Trainer(recipe, data, tmp_path / "part")
    resumed.resume()
    assert resumed.step == recipe.steps
    resumed.run(lambda _: None)
    first, second = (tmp_path / name / "tiny.safetensors" for name in ("whole", "part"))
    assert second.read_bytes() == first.read_bytes()


def test_a_stop_after_the_last_step_lets_it_finish(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "_RECALIBRATION_BATCHES", 4)
    recipe = Recipe.model_validate(tomllib.loads(RECIPE.replace('"instance"', '"batch"')))
    trainer = Trainer(recipe, data, tmp_path)
    batch, asked = trainer.pictures.batch, list[int]()

    def asking(step: int, size: int, crop: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if seed == recipe.seed + 1 and not asked:  # as norms are taken anew
            asked.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return batch(step, size, crop, seed)

    trainer.pictures.batch = asking  # type: ignore[method-assign] # asks on the way
    assert trainer.run(lambda _: None, save_every=100).is_file()
    assert asked
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == recipe.steps


def test_a_state_given_for_a_checkpoint_tells_where_that_is(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    stop_after(Trainer(tiny(), data, tmp_path), 2)
    done = cli("inspect", tmp_path / "state.pt")
    assert done.returncode == 2
    assert "state.pt is what a training goes on from, and no checkpoint" in done.stderr
    assert "train --resume goes on" in done.stderr
    resumed = Trainer(tiny(), data, tmp_path)
    resumed.resume()
    resumed.run(lambda _: None)
    done = cli("inspect", tmp_path / "state.pt")
    assert done.returncode == 2
    told = done.stderr.partition("its checkpoints are beside it: ")[2]
    assert {"tiny.safetensors", "tiny.search.safetensors"} <= set(told.rstrip(")\n").split(", "))


def test_a_state_of_a_newer_version_is_not_called_broken(data: Path, tmp_path: Path) -> None:
    stop_after(Trainer(tiny(), data, tmp_path), 2)
    path = tmp_path / "state.pt"
    state = torch.load(path, weights_only=True)
    recipe = json.loads(state["recipe"])
    recipe["search"]["colour"] = 3
    torch.save(state | {"recipe": json.dumps(recipe)}, path)
    with pytest.raises(BadInput, match=r"another version of .*: its recipe has search\.colour"):
        Trainer(tiny(), data, tmp_path).resume()
    torch.save(state | {"recipe": state["recipe"][:-1]}, path)
    with pytest.raises(BadInput, match="is not a whole training state"):
        Trainer(tiny(), data, tmp_path).resume()


def test_a_state_goes_on_only_where_it_was(data: Path, tmp_path: Path) -> None:
    recipe = tiny()
    stop_after(Trainer(recipe, data, tmp_path), 2)
    team = Trainer(recipe, data, tmp_path)
    team.team = Team(0, 2)
    with pytest.raises(BadInput, match="written by 1 processes, these are 2"):
        team.resume()
    (data / "trainB" / "3.png").rename(data / "trainB" / "x.png")
    with pytest.raises(BadInput, match="other pictures: 8 files then, 8 now, of other names"):
        Trainer(recipe, data, tmp_path).resume()
    (data / "trainB" / "x.png").unlink()
    with pytest.raises(BadInput, match="other pictures: 8 files then, 7 now"):
        Trainer(recipe, data, tmp_path).resume()


@pytest.mark.parametrize("name", [b"\xff\xe9.png", b"a\nb.png", "\N{SNOWMAN}.png".encode()])
def test_pictures_of_any_name_can_be_gone_on_with(name: bytes, data: Path, tmp_path: Path) -> None:
    os.rename(data / "trainA" / "0.png", os.fsencode(data / "trainA") + b"/" + name)  # noqa: PTH104 - bytes
    recipe = tiny()
    stop_after(Trainer(recipe, data, tmp_path), 2)
    resumed = Trainer(recipe, data, tmp_path)
    resumed.resume()
    assert resumed.step == 2


@pytest.mark.parametrize("killed", ["before the rows", "after the rows"])
def test_the_metrics_agree_with_the_state_wherever_it_was_killed(
    killed: str, data: Path, tmp_path: Path
) -> None:
    recipe, path = tiny(), tmp_path / "metrics.csv"
    trainer = Trainer(recipe, data, tmp_path)
    held: list[bytes] = []

    def halt(row: StepReport) -> None:
        if row.step in {2, 4}:
            held.append(path.read_bytes())
        if row.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        trainer.run(halt, save_every=2)
    saved = path.read_bytes()
    assert saved.startswith(held[0])
    assert len(saved.splitlines()) == 5
    path.unlink()
    with pytest.raises(BadInput, match=r"metrics\.csv is not the one"):
        Trainer(recipe, data, tmp_path).resume()
    # Killed between the state and its rows, or in a later save's first half line.
    path.write_bytes(held[0] if killed == "before the rows" else saved + b"4,fine")
    resumed = Trainer(recipe, data, tmp_path)
    resumed.resume()
    assert resumed.rows == trainer.rows[:4]
    resumed.run(lambda _: None)
    assert path.read_bytes().startswith(saved)
    assert [int(row["step"]) for row in csv.DictReader(path.open())] == list(range(6))


def test_metrics_that_were_changed_are_named_and_not_the_state(data: Path, tmp_path: Path) -> None:
    recipe, path = tiny(), tmp_path / "metrics.csv"
    trainer = Trainer(recipe, data, tmp_path)

    def halt(row: StepReport) -> None:
        if row.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        trainer.run(halt, save_every=2)
    whole = path.read_bytes()
    head, first, *others = whole.splitlines(keepends=True)
    for changed in (
        whole.replace(b"\n", b"\r\n"),  # as spreadsheets save it
        whole.replace(b"\n", b"\r"),
        whole.replace(b",", b";"),
        whole.replace(b"search", b"s\xe9arch"),
        bytes(len(whole)),  # as a power cut can leave it
        b"".join((head, *others, first)),
    ):
        path.write_bytes(changed)
        with pytest.raises(BadInput, match=r"metrics\.csv is not the one that was written beside"):
            Trainer(recipe, data, tmp_path).resume()
    path.write_bytes(whole)
    resumed = Trainer(recipe, data, tmp_path)
    resumed.resume()
    assert resumed.rows == trainer.rows[:4]


def test_what_a_killed_run_left_half_written_does_not_stay(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    writer = (
        "import contextlib, os, sys, pathlib, coronet_deploy.storage as s\n"
        "with contextlib.ExitStack() as stack:\n"
        "    for place in map(pathlib.Path, sys.argv[1:]):\n"
        "        stack.enter_context(s.atomic_path(place)).write_bytes(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    names = ("state.pt", "tiny.search.safetensors", "samples/000002.png")
    places = [output / name for name in names]
    subprocess.run([sys.executable, "-c", writer, *places], check=False)
    assert len(list(output.rglob(".*.tmp"))) == 3
    (output / ".notes.tmp").touch()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    result = cli("train", tmp_path / "recipe.toml", "--data", data, "--output", output)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in output.rglob(".*.tmp")] == [".notes.tmp"]


class Pair(Team):
    """The second of two processes, whose other one does alike."""

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        return module

    def mean(self, values: list[float]) -> list[float]:
        return values

    def same(self, tensor: torch.Tensor) -> None:
        pass

    def gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(tensor), tensor]


def test_each_process_of_a_team_has_its_own_pool_back(data: Path, tmp_path: Path) -> None:
    recipe = tiny()
    trainer = Trainer(recipe, data, tmp_path, team=Pair(1, 2))
    stop_after(trainer, 2)
    state = trainer.game.state()
    again = Trainer(recipe, data, tmp_path, team=Pair(1, 2))
    again.game.load(state)
    for pool, before in zip(again.game.pools, trainer.game.pools, strict=True):
        assert pool.state().any()
        assert torch.equal(pool.state(), before.state())


def test_pools_draw_apart_and_keep_no_batches() -> None:
    fakes = [torch.full((2, 1, 1, 1), float(i)) for i in range(40)]
    shown = []
    for rank in (0, 1):
        pool = ImagePool(4, seed=5, rank=rank)
        shown.append([pool.swap(fake, i).flatten().tolist() for i, fake in enumerate(fakes)])
        for held in pool.held:
            assert held.untyped_storage().nbytes() == held.nbytes
    assert shown[0] != shown[1]


def test_a_closed_session_ends_the_step_in_hand_and_no_more() -> None:
    assert threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with stop_requests() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert asked.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, former)


def test_memory_for_pictures_is_shared_by_the_processes_of_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = tmp_path / "memory.max"
    bound.write_text("16000000\n")
    monkeypatch.setattr(data_module, "_CONTAINER", bound)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = data_module._budget()
    assert alone == 2_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert data_module._budget() == alone // 4
    bound.write_text("max\n")
    assert data_module._budget() > alone
