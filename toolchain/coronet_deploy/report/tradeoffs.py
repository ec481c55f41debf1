"""What latency is set against: the multiply-adds that make it, and the quality that it costs.

Multiply-adds: if time were proportional to them, a pruned network would take its share of its
unpruned twin's time. How far above that it lies is what surrounds the convolutions, and what
narrow layers lose. Quality: what `evaluate --json` told of an artifact, or else its parity with
torch, which is not quality: it tells what the export lost, not how good the pictures are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coronet_deploy.errors import BadInput
from coronet_deploy.report.lines import Line
from coronet_deploy.storage import existing_file
from coronet_deploy.vocabulary import Run

_PARITY = "PSNR against torch, dB"
_LIKENESS = (("psnr_db", "PSNR, dB"), ("ssim", "SSIM"), ("l1", "L1"))
_LOWER_IS_BETTER = {"L1"}
_ALIKE = "evaluate both on the same pictures with the same features"


@dataclass(frozen=True)
class Work:
    """A row beside the time that its share of the twin's multiply-adds would take.

    `ideal_ms` is None where no unpruned twin in the same numbers was measured beside it: against
    another's time, what the numbers gain would pass for what the multiply-adds do.
    """

    line: Line
    macs: int
    median_ms: float
    twin_macs: int | None = None
    ideal_ms: float | None = None

    @property
    def over_ideal(self) -> float | None:
        """How many times the ideal the row takes."""
        return self.median_ms / self.ideal_ms if self.ideal_ms else None


@dataclass(frozen=True)
class Metric:
    """A measure of quality: what it is called, and which way is better."""

    name: str
    higher_is_better: bool
    is_parity: bool = False


@dataclass(frozen=True)
class Judgement:
    """What `evaluate --json` told of one file: figures by metric, and what they depend on.

    `pictures` is a digest of those that were judged, of the folder `data`; earlier versions
    told none.
    """

    source: str
    sha256: str
    figures: Mapping[Metric, float]
    basis: Mapping[str, object]
    data: str
    pictures: str | None


@dataclass(frozen=True)
class Choice:
    """A row's latency and quality; `best` if no other of its run and target is better in both."""

    line: Line
    median_ms: float
    quality: float
    best: bool


def works(lines: Sequence[Line]) -> list[Work]:
    """Return the measured rows whose multiply-adds are known."""
    found = []
    for line in lines:
        if line.row.macs is None or line.row.median_ms is None:
            continue
        twin = next(
            (
                other
                for other in lines
                if other.row.artifact == line.twin
                and (other.row.target, other.row.run) == (line.row.target, line.row.run)
            ),
            None,
        )
        macs = twin.row.macs if twin else None
        ideal = None
        if twin and macs and twin.row.median_ms and twin.dtype == line.dtype:
            ideal = twin.row.median_ms * line.row.macs / macs
        found.append(Work(line, line.row.macs, line.row.median_ms, macs, ideal))
    return found


def without_ideal(works: Sequence[Work]) -> list[str]:
    """Return, as "model in int8, fp16 (tflite)", what no unpruned twin in its numbers stood by."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for work in works:
        line = work.line
        if work.ideal_ms is None and (line.twin or not line.unpruned):
            found.setdefault((line.model, line.runtime), {})[line.dtype or "unknown numbers"] = None
    return [
        f"{model} in {', '.join(dtypes)} ({runtime})" for (model, runtime), dtypes in found.items()
    ]


def read_judgements(paths: Sequence[Path]) -> list[Judgement]:
    """Return what the files that `evaluate --json` wrote tell.

    Raises:
        BadInput: one is no such file, or they were judged on different grounds; says which.

    """
    judgements = [_judgement(path) for path in paths]
    for other in judgements[1:]:
        first = judgements[0]
        for key, value in first.basis.items():
            if other.basis.get(key) != value:
                raise BadInput(
                    f"{first.source} and {other.source} differ in {key}: {value} and "
                    f"{other.basis.get(key)}",
                    hint=_ALIKE,
                )
    _require_same_pictures(judgements)
    return judgements


def _require_same_pictures(judgements: Sequence[Judgement]) -> None:
    """Refuse figures of different pictures; what earlier versions wrote does not tell its own."""
    known = [one for one in judgements if one.pictures]
    for other in known[1:]:
        if other.pictures != known[0].pictures:
            raise BadInput(
                f"{known[0].source} and {other.source} were judged on different files: those in "
                f"{known[0].data} and in {other.data} as they were then",
                hint=_ALIKE,
            )


def metric_of(judgements: Sequence[Judgement]) -> Metric:
    """Return the metric to show: a kernel distance where all have one, else PSNR, else parity."""
    if not judgements:
        return Metric(_PARITY, higher_is_better=True, is_parity=True)
    shared = [
        metric
        for metric in judgements[0].figures
        if all(metric in other.figures for other in judgements)
    ]
    if not shared:
        raise BadInput(f"{judgements[0].source} and the others share no measure of quality")
    return next((one for one in shared if one.name.endswith("KID")), shared[0])


def choices(lines: Sequence[Line], run: Run, judgements: Sequence[Judgement]) -> list[Choice]:
    """Return the rows of `run` whose latency and quality (`metric_of`) are known."""
    metric = metric_of(judgements)
    files = {launch.artifact: launch.artifact_sha256 for launch in run.launches}
    by_file = {one.sha256: one.figures[metric] for one in judgements}
    known = []
    for line in lines:
        quality = (
            line.psnr_db if metric.is_parity else by_file.get(files.get(line.row.artifact, ""))
        )
        if quality is not None and line.row.median_ms is not None:
            known.append((line, line.row.median_ms, quality))
    sign = 1 if metric.higher_is_better else -1
    return [
        Choice(
            line,
            median,
            quality,
            best=not any(
                other.row.target == line.row.target
                and (time < median or sign * value > sign * quality)
                and time <= median
                and sign * value >= sign * quality
                for other, time, value in known
            ),
        )
        for line, median, quality in known
    ]


def unmatched(judgements: Sequence[Judgement], runs: Sequence[Run]) -> list[str]:
    """Return the files whose model no run measured."""
    measured = {launch.artifact_sha256 for run in runs for launch in run.launches}
    return [one.source for one in judgements if one.sha256 not in measured]


def _judgement(path: Path) -> Judgement:
    written = existing_file(path, "--quality").read_bytes()
    try:
        plain: Any = json.loads(written)
        figures = {}
        for key, name in _LIKENESS:
            if plain["likeness"]:
                better = name not in _LOWER_IS_BETTER
                figures[Metric(name, better)] = float(plain["likeness"][key]["mean"])
        for one in plain["distances"]:
            figures[Metric(str(one["name"]), higher_is_better=False)] = float(one["value"])
        basis = {key: plain[key] for key in ("generated", "true", "direction", "size")}
        basis["features"] = sorted({one["features_sha256"] for one in plain["distances"]})
        data, pictures = str(plain.get("data")), plain.get("data_sha256")
        return Judgement(str(path), str(plain["sha256"]), figures, basis, data, pictures)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"--quality {path} is not what `evaluate --json` writes: {type(error).__name__} {error}"
        ) from error
