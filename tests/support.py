"""Types and small helpers that several tests share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint

Cli = Callable[..., subprocess.CompletedProcess[str]]

COMMAND = Path(sys.executable).with_name("coronet-deploy")

# A recipe of the smallest network that trains, but for its [search] and [finetune].
TINY_PIX2PIX = """
[model]
id = "tiny"
title = "Tiny"
architecture = "unet_128"
norm = "batch"
width = 8
[data]
direction = "BtoA"
load = 132
crop = 128
[discriminator]
width = 8
"""


def kill_after_saves(line: list[str], state: Path, saves: int) -> None:
    """Run a training and kill it, as -9 does, once it has saved its state so many times."""

    def written() -> int:
        return state.stat().st_mtime_ns if state.exists() else 0

    seen = written()
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while saves:
            assert process.poll() is None, "it ended before it was killed"
            if written() != seen:
                seen, saves = written(), saves - 1
            time.sleep(0.005)
        process.kill()


def fill(folder: Path) -> Path:
    """Fill the file system of `folder` to the last byte, and return the file that does."""
    path = folder / "other people's data"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return path


def keeps_latents(after: Checkpoint, before: Checkpoint) -> None:
    """Fail unless what chose `before`'s channels, and how it was asked to, went on to `after`."""
    assert after.header.stage == before.header.stage == "finetuned"
    assert after.latents is not None
    assert before.latents is not None
    for group, vector in before.latents.vectors.items():
        assert vector.equal(after.latents.vectors[group]), group
    told = {"target", "form", "embedding", "threshold", "min_channels"}
    assert after.header.model_dump(include=told) == before.header.model_dump(include=told)
