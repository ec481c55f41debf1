"""What several commands share: reading a checkpoint argument."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import missing_package

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint


def read_checkpoint(path: Path | None) -> Checkpoint:
    """Return the checkpoint at `path`, or the bundled one.

    Raises:
        BadInput: the file is not a checkpoint that can be used.
        EnvironmentProblem: torch is not installed, or nothing is bundled.

    """
    try:
        from coronet_deploy.coronet.checkpoint import load_checkpoint
        from coronet_deploy.coronet.zoo import bundled_checkpoint
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "torch") from error
    return load_checkpoint(path or bundled_checkpoint())
