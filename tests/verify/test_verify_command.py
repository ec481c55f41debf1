"""What `verify` says of artifacts that draw no numbers, and of those it cannot look into."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from PIL import Image

from coronet_deploy.export.manifest import manifest_path
from coronet_deploy.storage import sha256_of

SIZE = "32x48"

Cli = Callable[..., subprocess.CompletedProcess[str]]
Exported = tuple[Path, dict[str, Any]]


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """Return the ONNX artifact of a folder of one's own."""
    (path,) = Path(shutil.copytree(exported[0], tmp_path / "artifacts")).glob("*.onnx")
    return path


def _describe(artifact: Path, **values: object) -> None:
    """Have an artifact's manifest say `values`, and name the file as it is now."""
    path = manifest_path(artifact)
    told = json.loads(path.read_text())
    told |= {"sha256": sha256_of(artifact), "bytes": artifact.stat().st_size, **values}
    path.write_text(json.dumps(told))


def _spoil(artifact: Path, value: float) -> None:
    """Put a number in for the last layer's first bias."""
    model = onnx.load(artifact)
    (bias,) = (t for t in model.graph.initializer if t.name == "tail/conv2d/bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values.reshape(-1)[0] = value
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, artifact)
    _describe(artifact)


def _no_json(word: str) -> NoReturn:
    raise AssertionError(f"JSON has no {word}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_figures_that_are_not_finite_are_null(
    value: float, cli: Cli, copied: Path, checkpoint: Path
) -> None:
    _spoil(copied, value)
    line = ("verify", copied, copied.with_suffix(".tflite"), "--checkpoint", checkpoint, "--layers")
    done = cli(*line, "--json")
    assert done.returncode == 1, done.stderr
    spoilt, good = json.loads(done.stdout, parse_constant=_no_json)["artifacts"]
    assert (spoilt["path"], spoilt["passed"], good["passed"]) == (str(copied), False, True)
    assert spoilt["bound_db"] == 100
    assert (spoilt["psnr_db"] is None) == np.isnan(value)  # a tanh makes a number of infinity
    assert spoilt["layers"]["first_wrong"] == "tail"
    (wrong,) = (one for one in spoilt["layers"]["layers"] if one["wrong"])
    assert wrong["max_abs"] is None
    done = cli(*line)
    (row,) = (words for words in map(str.split, done.stdout.splitlines()) if "FAIL" in words)
    assert row[0] == copied.name
    assert "inf" in done.stdout


@pytest.mark.parametrize("columns", ["0", "40"])
def test_a_narrow_terminal_is_told_the_name_and_the_verdict(
    columns: str, cli: Cli, exported: Exported, checkpoint: Path
) -> None:
    (path,) = exported[0].glob("*.onnx")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": columns}
    done = cli("verify", path, "--checkpoint", checkpoint, env=environment)
    assert done.returncode == 0, done.stderr
    _, row = map(str.split, done.stdout.splitlines())
    assert (row[0], row[-1]) == (path.name, "pass")


def test_what_has_no_layers_to_tell_is_refused_before_anything_is_compared(
    cli: Cli, copied: Path, checkpoint: Path
) -> None:
    model = onnx.load(copied)
    del model.metadata_props[:]
    onnx.save(model, copied)
    _describe(copied, converter="litert-torch")
    line = ("verify", copied.with_suffix(".tflite"), copied, "--checkpoint", checkpoint)
    done = cli(*line, "--layers")
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{copied} was written by litert-torch" in done.stderr
    assert cli(*line).returncode == 0


def test_of_many_pictures_some_are_compared_and_that_is_said(
    cli: Cli, exported: Exported, checkpoint: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for name in "abcde":
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pictures = ("--pictures", tmp_path, "--pictures-count")
    said = f"3 of the 5 pictures in {tmp_path} are compared, the same ones each time"
    line = ("export", checkpoint, "--size", "32x48", "--output", tmp_path / "out", "--json")
    for count, told in (("3", 1), ("5", 0)):
        done = cli(*line, *pictures, count)
        assert done.returncode == 0, done.stderr
        assert {one["pictures"] for one in json.loads(done.stdout)["artifacts"]} == {int(count)}
        assert done.stderr.count(said) == told
    (path,) = exported[0].glob("*.onnx")
    done = cli("verify", path, "--checkpoint", checkpoint, "--json", *pictures, "3")
    assert [one["pictures"] for one in json.loads(done.stdout)["artifacts"]] == [3]
    assert said in done.stderr
    assert cli("verify", path, *pictures, "0").returncode == 2


def test_artifacts_of_another_checkpoint_ask_for_theirs(cli: Cli, exported: Exported) -> None:
    done = cli("verify", exported[0])
    assert done.returncode == 2
    assert "was not made of the bundled checkpoint: its manifest names a checkpoint" in done.stderr
    assert "(give that one with --checkpoint)" in done.stderr


def test_too_little_memory_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "hungrynets.py").write_text(
        "import os, torch\n"
        "class Net(torch.nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 3, 1)\n"
        "        torch.nn.init.ones_(self.weight)\n"
        "        torch.nn.init.zeros_(self.bias)\n"
        "    def forward(self, x):\n"
        "        if 'HUNGRY' in os.environ:\n"
        "            torch.ones(1 << 48)  # a petabyte\n"
        "        return super().forward(x)\n"
    )
    folder = tmp_path / "out"
    made = cli("export", "hungrynets:Net", "--size", SIZE, "--output", folder, cwd=tmp_path)
    assert made.returncode == 0
    hungry = {**os.environ, "HUNGRY": "1"}
    done = cli("verify", "--checkpoint", "hungrynets:Net", folder, cwd=tmp_path, env=hungry)
    assert done.returncode == 3
    *progress, last = done.stderr.splitlines()
    assert last.startswith("coronet-deploy: error: not enough memory to compare: ")
    assert all(line.endswith(": comparing") for line in progress)
