"""What a file of pickles asks to be called is not: a training's state, an Inception network."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from coronet_deploy.cli import main
from coronet_deploy.coronet.recipe import read_recipe
from coronet_deploy.coronet.state import read_state
from coronet_deploy.errors import BadInput
from coronet_deploy.verify.inception import read_inception
from support import TINY_PIX2PIX

RECIPE = f"""{TINY_PIX2PIX}[search]
steps = 1
target = 0.3
[finetune]
steps = 0
"""


class MakesFolder:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def _torch_file(path: Path, content: object) -> None:
    torch.save({"recipe": content, "step": torch.zeros(1)}, path)


def _old_torch_file(path: Path, content: object) -> None:
    torch.save({"recipe": content}, path, _use_new_zipfile_serialization=False)


def _bare_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


Write = Callable[[Path, object], None]
ways = pytest.mark.parametrize("write", [_torch_file, _old_torch_file, _bare_pickle])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder that is made by whoever is fooled."""
    return tmp_path / "fooled"


@ways
def test_the_files_of_these_tests_would_fool_pickle(
    write: Write, folder: Path, tmp_path: Path
) -> None:
    write(tmp_path / "x.pt", MakesFolder(folder))
    with contextlib.suppress(RuntimeError):  # a bare pickle is obeyed before it is found to be one
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert folder.is_dir()


@ways
def test_a_state_is_not_unpickled_into_code(
    write: Write, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, output, data = tmp_path / "recipe.toml", tmp_path / "out", tmp_path / "data"
    recipe.write_text(RECIPE)
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        Image.new("RGB", (256, 128), "grey").save(data / split / "0.png")
    output.mkdir()
    state = output / "state.pt"
    write(state, MakesFolder(folder))
    with pytest.raises(BadInput, match=r"state\.pt is not a whole training state"):
        read_state(state, read_recipe(recipe), {})
    line = ["train", str(recipe), "--data", str(data), "--output", str(output), "--threads", "1"]
    assert main([*line, "--resume"]) == 2
    assert "state.pt is not a whole training state" in capsys.readouterr().err
    assert not folder.exists()


@ways
def test_an_inception_network_is_not_unpickled_into_code(
    write: Write, folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "inception.pth"
    write(weights, MakesFolder(folder))
    with pytest.raises(BadInput, match="not a whole torch file of tensors and nothing else"):
        read_inception(weights)
    assert not folder.exists()
