"""Small checkpoints and pictures on disk, and artifacts that were exported once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowering import small_checkpoint

SIZE = "32x48"

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cli(cli: Cli) -> Cli:
    """Run the installed command with torch on one thread: its networks are small here."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return cli(*arguments, **{"env": {**os.environ, "OMP_NUM_THREADS": "1"}, **options})

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of a dense ResNet-6 generator of width 4, seeded weights."""
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def exported(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of FP32 artifacts in both formats, and what `export --json` said."""
    folder = tmp_path_factory.mktemp("exported") / "artifacts"
    done = cli("export", checkpoint, "--size", SIZE, "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator of random numbers."""
    return np.random.default_rng(5)
