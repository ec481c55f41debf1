"""Run files are shown and compared where neither torch nor a runtime is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run

# What the extras bring, but for `report`: the page's plots are drawn by matplotlib.
_MISSING = (
    "torch", "safetensors", "onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer",
    "flatbuffers", "sqlalchemy", "psycopg", "ruptures",
)  # fmt: skip


def _alone(*line: object, missing: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command where no other extra is installed."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({_MISSING + missing!r}))\n"
        "from coronet_deploy.cli import main\n"
        f"sys.exit(main({list(map(str, line))!r}))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def files(make_run: Callable[..., Run], tmp_path: Path) -> list[Path]:
    """Return two run files: the second's `fast.tflite` takes twice as long."""
    sides = {"base": 25.0, "candidate": 50.0}
    return [
        write_run(make_run({"slow.onnx": 100.0, "fast.tflite": fast}, id=name), tmp_path / name)
        for name, fast in sides.items()
    ]


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "latex", "json", "html"])
def test_a_run_file_is_reported(files: list[Path], form: str) -> None:
    missing = () if form == "html" else ("matplotlib",)
    done = _alone("report", files[0], "--format", form, missing=missing)
    assert done.returncode == 0, done.stderr
    assert "slow.onnx" in done.stdout.replace("\\", "")
    if form == "json":
        assert json.loads(done.stdout)


def test_two_run_files_are_compared(files: list[Path]) -> None:
    same = _alone("compare", files[0], files[0], "--json", missing=("matplotlib",))
    assert same.returncode == 0, same.stderr
    slower = _alone("compare", *files, missing=("matplotlib",))
    assert slower.returncode == 1, slower.stderr
    assert "fast.tflite" in slower.stdout
