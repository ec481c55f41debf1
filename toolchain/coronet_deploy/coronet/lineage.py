"""How a checkpoint came to be: the trainings behind it, as its metadata tell them."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from coronet_deploy import __version__

MOST_TRAININGS = 64
"""How many trainings a checkpoint tells of, the last ones."""

_SHOWN = 12  # digits of a checksum
_NAME = 255  # characters; file systems take no more


class Act(StrEnum):
    """What a training did to a generator."""

    TRAINED = "trained"
    TUNED = "tuned for eight bits"


class Origin(BaseModel):
    """A checkpoint that a training went on from: its name without folders, its bytes' SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, Field(max_length=_NAME)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return values that JSON can hold; Python reads NaN and Infinity, which are none."""
    json.dumps(values, allow_nan=False)
    return values


class Training(BaseModel):
    """One training in a checkpoint's past.

    `recipe` holds all its values, overridden ones as they were; `origin` is what it went on from
    (None: from chance), `steps` and `pictures` are how many it took and learnt from, `processes`
    how many shared a step, `device` the kind of theirs, `tools` versions at its end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    act: Act
    steps: Annotated[int, Field(ge=0)]
    recipe: Annotated[dict[str, Any], AfterValidator(_as_json)]
    origin: Origin | None
    pictures: Annotated[int, Field(ge=0)]
    processes: Annotated[int, Field(ge=1)]
    device: Annotated[str, Field(max_length=_NAME)]
    tools: dict[str, str]


Past = Annotated[tuple[Training, ...], Field(max_length=MOST_TRAININGS)]
"""The trainings behind a checkpoint, the last one last; empty where nothing is known of any."""


def told(training: Training) -> str:
    """Return a line that says what a training was and what it went on from."""
    search, machine = (training.recipe.get(name) for name in ("search", "machine"))
    searched = search.get("steps") if isinstance(search, dict) else None
    precision = machine.get("precision") if isinstance(machine, dict) else None
    parts = [f"{training.steps} steps"]
    if training.act is Act.TRAINED and isinstance(searched, int) and 0 < searched < training.steps:
        parts[0] += f", {searched} of search"
    parts.append(f"{training.pictures} pictures")
    parts.append(
        f"{precision} on {training.device}" if isinstance(precision, str) else training.device
    )
    if training.processes > 1:
        parts.append(f"{training.processes} processes")
    origin = training.origin
    begun = f"from {origin.file} ({origin.sha256[:_SHOWN]})" if origin else "from chance"
    return f"{training.act} {begun}: {', '.join(parts)}"


def trainers_tools() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"coronet-deploy": __version__, "torch": torch.__version__}
