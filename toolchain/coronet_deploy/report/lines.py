"""Rows of runs with what only shows beside other rows: gains over FP32 and over the unpruned twin.

Gains are between rows of one run alone: there the launches took turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coronet_deploy.report import figures
from coronet_deploy.report.summary import Row, summarize
from coronet_deploy.report.tables import json_row
from coronet_deploy.vocabulary import DType, Run, Target

# An unpruned network's channel counts are its first layer's, doubled up to three times.
_DOUBLINGS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Line:
    """A row and what its run and its manifest tell of it; None where they do not.

    `twin` names the unpruned twin's artifact, `over_twin` and `over_fp32` are its and the FP32
    file's medians over this one's. `nodes_taken` of `nodes` of the graph ran on the back end.
    `psnr_db` is export's, against torch, or the device's, against this host's picture, where that
    is lower.
    """

    row: Row
    created: str
    emulated: bool
    model: str
    runtime: str
    dtype: str | None
    kind: tuple[object, ...]
    channels: Mapping[str, int] | None
    psnr_db: float | None
    nodes_taken: int | None
    nodes: int | None
    twin: str | None = None
    over_twin: float | None = None
    over_fp32: float | None = None

    @property
    def unpruned(self) -> bool | None:
        """Whether no channel was pruned, as far as the counts tell; None without a channel plan."""
        if not self.channels:
            return None
        narrowest = min(self.channels.values())
        return {count / narrowest for count in self.channels.values()} <= set(_DOUBLINGS)

    @property
    def device(self) -> str:
        """The device as a table names it: emulated timings are never called a device's alone."""
        return f"{self.row.target.device} (emulated)" if self.emulated else self.row.target.device

    @property
    def delegated(self) -> str:
        """How much of the graph the back end took: "40 of 41"."""
        if self.nodes_taken is None or self.nodes is None:
            return figures.DASH
        return f"{self.nodes_taken} of {self.nodes}"


def lines_of(run: Run, baseline: str | None = None) -> tuple[Line, ...]:
    """Return a line for each row of `run` (see `summary.summarize`, also for `baseline`)."""
    details: dict[tuple[str, Target], Mapping[str, Any]] = {}
    for one in run.launches:
        if one.error is None:
            details.setdefault((one.artifact, one.target), one.details)
    alone = [
        _line(run, row, details.get((row.artifact, row.target), {}))
        for row in summarize(run, baseline)
    ]
    return tuple(_compared(line, alone) for line in alone)


def json_line(line: Line, run_file: str | None = None) -> dict[str, Any]:
    """Return a line as plain JSON values: those of `tables.json_row`, then its own."""
    return {
        **json_row(line.row, run_file),
        "model": line.model,
        "runtime": line.runtime,
        "dtype": line.dtype,
        "emulated": line.emulated,
        "created": line.created,
        "psnr_db": line.psnr_db,
        "nodes_taken": line.nodes_taken,
        "nodes": line.nodes,
        "unpruned_twin": line.twin,
        "speedup_over_twin": line.over_twin,
        "speedup_over_fp32": line.over_fp32,
    }


def _line(run: Run, row: Row, details: Mapping[str, Any]) -> Line:
    """Return `row` with what the manifest and `details`, its first measured launch's, tell."""
    manifest = run.artifacts.get(row.artifact, {})
    plan = _table(_table(manifest, "source"), "plan")
    contract = _table(manifest, "input")
    groups = _table(plan, "groups")
    runtime = manifest.get("runtime") or Path(row.artifact).suffix.removeprefix(".")
    shape = contract.get("shape")
    size = tuple(sorted(shape, key=repr)) if isinstance(shape, list | tuple) else None
    return Line(
        row=row,
        created=run.created,
        emulated=run.emulated,
        model=str(manifest.get("model") or Path(row.artifact).stem),
        runtime=str(runtime),
        dtype=None if manifest.get("dtype") is None else str(manifest["dtype"]),
        kind=(str(runtime), plan.get("architecture"), plan.get("norm"), size),
        channels=_channels(groups),
        psnr_db=_parity(row.psnr_db, _table(details, "parity").get("psnr_db")),
        nodes_taken=_count(details.get("nodes_taken")),
        nodes=_count(details.get("nodes")),
    )


def _compared(line: Line, others: Sequence[Line]) -> Line:
    beside = [
        other
        for other in others
        if other.row.target == line.row.target and other.kind == line.kind and other is not line
    ]
    full = [other for other in beside if other.model == line.model and other.dtype == DType.FP32]
    twins = [other for other in beside if _is_twin(other, line)]
    # The twin in the same numbers tells what pruning alone brought; in FP32, what all brought.
    twins.sort(
        key=lambda one: (one.dtype != line.dtype, one.dtype != DType.FP32, -(one.row.macs or 0))
    )
    return replace(
        line,
        over_fp32=_ratio(full[0], line) if len(full) == 1 and line.dtype != DType.FP32 else None,
        twin=twins[0].row.artifact if twins else None,
        over_twin=_ratio(twins[0], line) if twins else None,
    )


def _is_twin(other: Line, line: Line) -> bool:
    """Tell whether `other` is unpruned, and has every channel of `line` and more."""
    if not other.channels or not line.channels or other.channels.keys() != line.channels.keys():
        return False
    if not other.unpruned:
        return False
    wider = [other.channels[name] - count for name, count in line.channels.items()]
    return min(wider) >= 0 and max(wider) > 0


def _parity(exported_db: float | None, on_device: object) -> float | None:
    """Return the lower of both: a device that draws this host's very picture does not mend it."""
    if exported_db is None or not isinstance(on_device, int | float):
        return exported_db
    return min(exported_db, float(on_device))


def _ratio(base: Line, line: Line) -> float | None:
    if base.row.median_ms is None or line.row.median_ms is None:
        return None
    return base.row.median_ms / line.row.median_ms


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}


def _channels(groups: Mapping[str, Any]) -> Mapping[str, int] | None:
    """Return the channels of a plan's groups, or None if a count of them is none."""
    counts = {name: _count(value) for name, value in groups.items()}
    known = {name: count for name, count in counts.items() if count is not None and count > 0}
    return known if known and len(known) == len(counts) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
