"""Two processes that train together: what one of them cannot do ends both, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.team import Team
from support import COMMAND

RECIPE = """
seed = 1
[model]
id = "stripes"
title = "Stripes"
task = "cyclegan"
architecture = "resnet_6blocks"
norm = "instance"
width = 4
[data]
load = 26
crop = 24
pool = 3
[search]
steps = 7
target = 0.6
form = "collapsed"
slice_every = 2
[finetune]
steps = 9
[discriminator]
width = 4
"""
TEAM = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
RESULTS = ("stripes.safetensors", "stripes-reverse.safetensors")

# Trains where one picture of a pile is kept decoded, and has one break that the second process is
# to see in its fifth step: of what is made ahead, that is the step before at most.
BREAKING = """
import sys
from pathlib import Path
from coronet_deploy.coronet import data
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.coronet.team import joined
from coronet_deploy.coronet.train import Trainer

data._MOST_KEPT = 1
recipe, pictures, output = read_recipe(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
with joined("cpu") as team:
    trainer = Trainer(recipe, pictures, output, team=team)
    bad = pictures / "trainA" / f"{data._shuffled(9, 5, recipe.seed)}.png"

    def harm(row):
        if row.step == 2:
            if team.leader:
                bad.rename(bad.with_suffix(".away"))
                bad.write_bytes(b"<html>404</html>")
            team.any(False)

    try:
        trainer.run(harm, save_every=100)
    except Exception as error:
        print(f"{team.rank}: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(7)
"""


def trained(folder: Path, output: str, *flags: object) -> list[str]:
    """Return the command that trains in a team of two."""
    line = [*TEAM, "--no-python", str(COMMAND), "train", str(folder / "recipe.toml")]
    line += ["--data", str(folder / "data"), "--threads", "1", "--save-every", "4"]
    return [*line, "--output", str(folder / output), *map(str, flags)]


def ran(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)


def workers(agent: int) -> list[int]:
    """Return the processes that torchrun's process `agent` started, in the order of their ranks."""
    children = Path(f"/proc/{agent}/task").glob("*/children")
    return sorted(int(pid) for path in children for pid in path.read_text().split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, data and what a team made of them that was never stopped."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "recipe.toml").write_text(RECIPE)
    rng = np.random.default_rng(2)
    for name in ("trainA", "trainB"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (26, 26, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    result = ran(trained(folder, "whole"))
    assert result.returncode == 0, result.stderr
    return folder


def resumes_exactly(folder: Path, output: str) -> None:
    result = ran(trained(folder, output, "--resume"))
    assert result.returncode == 0, result.stderr
    for name in RESULTS:
        expected = (folder / "whole" / name).read_bytes()
        assert (folder / output / name).read_bytes() == expected


def test_a_team_of_which_one_is_killed_resumes_exactly(whole: Path) -> None:
    state = whole / "killed" / "state.pt"
    line = trained(whole, "killed")
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while not state.exists():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        os.kill(workers(process.pid)[-1], signal.SIGKILL)
        _, told = process.communicate(timeout=120)
    assert process.returncode
    held = torch.load(state, weights_only=True)
    assert 0 < held["step"] < 7 + 9
    assert all(len(pools) == 2 and pools[1].any() for pools in held["game"]["pools"])
    ours = told.partition("torch/distributed/elastic")[0]  # torchrun's own words come after
    assert "Traceback" not in ours
    resumes_exactly(whole, "killed")


def test_a_team_that_is_at_its_end_says_so_once(whole: Path) -> None:
    held = (whole / "whole" / "state.pt").stat().st_mtime_ns
    result = ran(trained(whole, "whole", "--resume"))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("finished, all 16 steps are done") == 1
    assert (whole / "whole" / "state.pt").stat().st_mtime_ns == held


def test_a_team_begins_with_a_finished_training(whole: Path) -> None:
    begun = ("--from", whole / "whole", "--set", "search.steps=0")
    still = ran(trained(whole, "still", *begun, "--set", "optimiser.lr=1e-30"))
    assert still.returncode == 0, still.stderr
    moved = ran(trained(whole, "moved", *begun))
    assert moved.returncode == 0, moved.stderr
    for name in RESULTS:
        kept, same, other = (
            load_checkpoint(whole / folder / name).network.state_dict()
            for folder in ("whole", "still", "moved")
        )
        for key, tensor in kept.items():
            torch.testing.assert_close(same[key], tensor, rtol=0, atol=1e-20)
        assert any(not torch.equal(other[key], tensor) for key, tensor in kept.items())


def test_a_picture_that_breaks_before_one_process_costs_the_team_no_step(whole: Path) -> None:
    script = whole / "breaking.py"
    script.write_text(BREAKING)
    line = [*TEAM, str(script), str(whole / "recipe.toml"), str(whole / "data")]
    result = ran([*line, str(whole / "broken")])
    (away,) = (whole / "data" / "trainA").glob("*.away")
    bad = away.rename(away.with_suffix(".png"))
    assert f"1: BadInput: {bad} is not a readable picture" in result.stderr
    assert "0: EnvironmentProblem: process 0 stops: another one of the 2" in result.stderr
    held = torch.load(whole / "broken" / "state.pt", weights_only=True)
    assert held["step"] == 4
    resumes_exactly(whole, "broken")


def test_what_the_leader_refuses_ends_the_others_in_a_line(whole: Path) -> None:
    result = ran(trained(whole, "whole"))
    assert result.returncode
    assert f"{whole / 'whole' / 'state.pt'} is of an earlier training" in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("coronet-deploy:")]
    assert len(told) == 2
    assert any("process 1 stops: another one of the 2 cannot go on" in line for line in told)


@pytest.mark.parametrize("device", ["cpu:0", "mps"])
def test_a_device_that_a_team_cannot_share_is_refused(device: str, whole: Path) -> None:
    command = trained(whole, "elsewhere")
    result = ran([*command, "--device", device])
    assert result.returncode
    assert result.stderr.count(f"--device {device}: several processes train on CPUs, or each") == 2
    assert not (whole / "elsewhere" / "state.pt").exists()


def test_a_group_does_not_end_while_a_collective_has_its_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gloo: list[torch.Tensor] = []

    def slow(everyone: Sequence[torch.Tensor], own: torch.Tensor) -> None:
        gloo.extend(tensor.view(-1) for tensor in (*everyone, own))
        for tensor in everyone:
            tensor.copy_(own)

    monkeypatch.setattr(torch.distributed, "all_gather", slow)
    team, pool = Team(0, 2), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(one, pool) for one in team.gathered(pool))
    ending = Thread(target=team.settle)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    del gloo[1:]
    ending.join(0.1)
    assert ending.is_alive()
    gloo.clear()
    ending.join(2)
    assert not ending.is_alive()
    assert not team.lent
