"""`--converter litert-torch`: what it makes passes our gate, what it cannot is said.

The converter itself runs where `benchmarks/peers/setup.py litert-torch` has been.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

from support import Cli

_HOME = Path(os.environ.get("CORONET_PEERS", Path.home() / ".cache/coronet-deploy/peers"))
_COMMAND = _HOME / "litert-torch" / "bin" / "coronet-deploy"

_CODE = """
import torch
from torch import nn


def _network(padding, growth):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 3, 4 - growth, 2, padding, growth)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), up, nn.Tanh())


def converts():
    return _network(1, 0)


def refused():
    return _network(1, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(_CODE)
    return tmp_path


def _line(name: str) -> tuple[str, ...]:
    size = ("--size", "16x16", "--output", "out", "--json")
    return ("export", f"nets:{name}", "--converter", "litert-torch", *size)


@pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is not None, reason="litert-torch is installed"
)
def test_without_the_package_the_fix_is_named(cli: Cli, folder: Path) -> None:
    done = cli(*_line("converts"), cwd=folder)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "'litert_torch' is not installed" in last
    assert "pip install litert-torch" in last
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not _COMMAND.exists(), reason="benchmarks/peers/setup.py litert-torch")
def test_what_it_converts_passes_the_gate_and_what_it_cannot_is_one_line(folder: Path) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        line = [str(_COMMAND), *_line(name)]
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)

    done = run("converts")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["artifacts"]
    assert Path(row["path"]).name == "converts_16x16_fp32_litert-torch.tflite"
    assert row["psnr_db"] > 100
    manifest = json.loads((folder / f"{row['path']}.json").read_text())
    assert manifest["converter"] == "litert-torch"
    assert "litert-torch" in manifest["tools"]
    done = run("refused")
    assert done.returncode == 4
    assert "litert-torch does not convert refused: failed to legalize" in done.stderr
