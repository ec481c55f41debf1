"""What is exported: a generator with its name and where it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coronet_deploy.export.manifest import Source
from coronet_deploy.vocabulary import ChannelPlan

if TYPE_CHECKING:
    from torch import nn

    from coronet_deploy.coronet.checkpoint import Checkpoint

MOST_CHANNELS = 32
"""Of a picture in or out; more is no picture but a tensor in another layout."""


@dataclass(frozen=True)
class Subject:
    """A dense generator in eval, what its artifacts are called, and what their manifests say.

    It maps (1, `channels`, H, W) in [-1, 1] to one picture. `plan` is None for a module of the
    user's own. `direction` is that of the data it was trained on, if that is known.
    """

    model: str
    source: Source
    generator: nn.Module
    channels: int = 3
    plan: ChannelPlan | None = None
    direction: str | None = None


def subject_of(checkpoint: Checkpoint) -> Subject:
    """Return the dense generator of a checkpoint as what is exported."""
    plan = checkpoint.plan
    return Subject(
        model=file_name(checkpoint.id),
        source=Source(sha256=checkpoint.sha256, kind=checkpoint.kind, plan=plan.as_json()),
        generator=checkpoint.generator(),
        channels=plan.input_channels,
        plan=plan,
        direction=checkpoint.header.direction,
    )


def file_name(name: str) -> str:
    """Return `name` as it can stand in a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "generator"
