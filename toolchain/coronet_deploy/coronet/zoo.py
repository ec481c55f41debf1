"""The bundled models, and where a model's pictures are.

A bundled one has a folder with recipe, card, checkpoint and pictures; beside other checkpoints may
lie pictures of theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.images import list_pictures
from coronet_deploy.storage import data_dir, existing_file

DEFAULT_MODEL = "facades-unet256"
CALIBRATION, INPUTS = "calibration", "inputs"
"""Folders of pictures: to measure ranges of eight bits on, and to compare artifacts on."""

_OF_ITS_OWN = "-pictures"
_SEARCHED = ".search"


def model_dir(model: str = DEFAULT_MODEL) -> Path:
    """Return the folder of a bundled model.

    Raises:
        EnvironmentProblem: this installation has none of that name.

    """
    folder = data_dir("models") / model
    if not folder.is_dir():
        raise EnvironmentProblem(
            f"this installation has no bundled model {model!r} ({folder})",
            hint="name a checkpoint, or install coronet-deploy again",
        )
    return folder


def bundled_checkpoint(model: str = DEFAULT_MODEL) -> Path:
    """Return the checkpoint of a bundled model (see `model_dir` for the error)."""
    return model_dir(model) / f"{model}.safetensors"


def bundled_pictures(model: str = DEFAULT_MODEL) -> list[Path]:
    """Return the input pictures of a bundled model, by name (see `model_dir` for the error)."""
    return list_pictures(model_dir(model) / INPUTS)


def bundled_calibration(model: str = DEFAULT_MODEL) -> list[Path]:
    """Return the pictures to calibrate INT8 on, other than the inputs (see `model_dir`)."""
    return list_pictures(model_dir(model) / CALIBRATION)


def own_pictures(checkpoint: Path) -> Path:
    """Return the folder of pictures of a checkpoint's task: `<name>-pictures`, beside it.

    Trainings leave it there; there may be none.
    """
    return checkpoint.parent / (checkpoint.stem.removesuffix(_SEARCHED) + _OF_ITS_OWN)


def find_recipe(given: Path) -> Path:
    """Return a recipe's file: `given`, or the bundled one of that name ("facades-unet256").

    Raises:
        BadInput: there is neither, or what is there is no readable file.

    """
    bundled = {path.parent.name: path for path in data_dir("models").glob("*/recipe.toml")}
    if str(given) in bundled and not os.path.lexists(given):
        return bundled[str(given)]
    names = ", ".join(sorted(bundled))
    return existing_file(given, "recipe", hint=f"or say the name of a bundled one: {names}")
