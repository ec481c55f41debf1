"""What a report shows besides a run: the model, its pictures, its artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from coronet_deploy.images import Array
from coronet_deploy.vocabulary import Artifact, ChannelPlan


@dataclass(frozen=True)
class GroupFacts:
    """One channel group: how many of its channels live."""

    name: str
    kept: int
    total: int


@dataclass(frozen=True)
class ModelFacts:
    """A pruned generator beside the unpruned one of its architecture.

    Pictures are `height` x `width`. MACs are of one picture: `macs` real ones, `macs_published`
    by the published convention (see `networks.cost`). `note` is a sentence to show with them.
    """

    name: str
    architecture: str
    norm: str
    height: int
    width: int
    groups: tuple[GroupFacts, ...]
    parameters: int
    parameters_full: int
    macs: int
    macs_full: int
    macs_published: int
    macs_published_full: int
    checkpoint_sha256: str | None = None
    note: str | None = None

    @classmethod
    def of_plan(
        cls,
        name: str,
        plan: ChannelPlan,
        full: ChannelPlan,
        *,
        height: int = 256,
        width: int = 256,
        checkpoint_sha256: str | None = None,
        note: str | None = None,
    ) -> ModelFacts:
        """Return the facts of `plan` beside `full`, the plan it was pruned from."""
        from coronet_deploy.networks.cost import macs, parameters

        return cls(
            name=name,
            architecture=plan.architecture.value,
            norm=plan.norm.value,
            height=height,
            width=width,
            groups=tuple(
                GroupFacts(group, kept, full.groups[group]) for group, kept in plan.groups.items()
            ),
            parameters=parameters(plan),
            parameters_full=parameters(full),
            macs=macs(plan, height, width),
            macs_full=macs(full, height, width),
            macs_published=macs(plan, height, width, published=True),
            macs_published_full=macs(full, height, width, published=True),
            checkpoint_sha256=checkpoint_sha256,
            note=note,
        )


class Picture(NamedTuple):
    """One input, what torch draws of it, and what each artifact draws, by the artifact's label.

    All are (H, W, 3) float32 real values in [-1, 1].
    """

    name: str
    input: Array
    reference: Array
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class ArtifactFacts:
    """An artifact as the page shows it; None where its manifest does not tell."""

    name: str
    runtime: str
    dtype: str | None
    bytes: int | None
    sha256: str | None
    psnr_db: float | None
    max_abs: float | None
    ssim: float | None
    bound_db: float | None
    export_seconds: float | None = None

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> ArtifactFacts:
        """Return the facts of an artifact that was just exported."""
        parity = artifact.parity
        return cls(
            name=artifact.path.name,
            runtime=artifact.runtime.value,
            dtype=artifact.dtype.value,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            psnr_db=parity.psnr_db,
            max_abs=parity.max_abs,
            ssim=parity.ssim,
            bound_db=parity.bound_db,
            export_seconds=artifact.seconds,
        )

    @classmethod
    def of_manifest(cls, name: str, manifest: Mapping[str, Any]) -> ArtifactFacts:
        """Return the facts that a run file keeps of an artifact."""
        parity = manifest.get("parity")
        figures: Mapping[str, Any] = parity if isinstance(parity, Mapping) else {}
        size = _number(manifest.get("bytes"))
        return cls(
            name=name,
            runtime=str(manifest.get("runtime", "")),
            dtype=_text(manifest.get("dtype")),
            bytes=None if size is None else int(size),
            sha256=_text(manifest.get("sha256")),
            psnr_db=_number(figures.get("psnr_db")),
            max_abs=_number(figures.get("max_abs")),
            ssim=_number(figures.get("ssim")),
            bound_db=_number(figures.get("bound_db")),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
