"""The figures of a run: one row for each artifact on each target.

The launch is the unit of statistics: samples of one process share its memory layout, its place
in time and its luck, so a row's median is the median of its launches' medians, and its interval
comes from resampling launches, not samples.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Launch, Run, Target

# With k launches the widest interval that the data allow, from the fastest to the slowest, covers
# the median with 1 - 2^(1-k): below 6 no interval of any method reaches 95 %.
LAUNCHES_FOR_95 = 6
_RESAMPLES = 4000
_SEED = 95


@dataclass(frozen=True)
class Row:
    """One artifact on one target. Times in ms; None where nothing was measured or is known.

    `median_ms` is the median of the launches' medians, `low_ms` to `high_ms` its 95 % interval
    (None below two launches), `p90_ms` the 90th percentile of all samples. `launch_medians_ms`
    are in order of time. `unsettled` counts the launches whose warm-up is known not to have
    settled. `speedup` is the baseline's median over this one's, on the same target. `emulated`
    timings are no real device's.
    `macs` and `macs_published` are the two conventions of `networks.cost`.
    """

    run: str
    artifact: str
    target: Target
    launches: int
    failed: int
    samples: int
    launch_medians_ms: tuple[float, ...]
    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    p90_ms: float | None
    load_ms: float | None
    peak_rss_mb: float | None
    partitions: int | None
    unsettled: int
    error: str | None
    bytes: int | None
    macs: int | None
    macs_published: int | None
    psnr_db: float | None
    speedup: float | None = None
    emulated: bool = False

    @property
    def spread_percent(self) -> float | None:
        """The launches' medians from fastest to slowest, as a share of the median."""
        if self.median_ms is None:
            return None
        return 100 * (max(self.launch_medians_ms) - min(self.launch_medians_ms)) / self.median_ms


def summarize(run: Run, baseline: str | None = None) -> tuple[Row, ...]:
    """Return the rows of `run`, in the order its artifacts and targets were first launched.

    With `baseline`, the name of an artifact of the run, each row that shares a target with it
    gets its `speedup`.

    Raises:
        BadInput: the run holds no artifact called `baseline`.

    """
    groups: dict[tuple[str, Target], list[Launch]] = {}
    for launch in run.launches:
        groups.setdefault((launch.artifact, launch.target), []).append(launch)
    rows = tuple(_row(run, name, target, launches) for (name, target), launches in groups.items())
    if baseline is None:
        return rows
    if baseline not in run.artifacts:
        known = ", ".join(run.artifacts)
        raise BadInput(f"run {run.id} holds no artifact {baseline!r}", hint=f"it holds {known}")
    medians = {row.target: row.median_ms for row in rows if row.artifact == baseline}
    return tuple(replace(row, speedup=_speedup(medians.get(row.target), row)) for row in rows)


def baselines(runs: Sequence[Run], baseline: str | None) -> list[str | None]:
    """Return `baseline` for each of `runs` that holds an artifact of that name, None for others.

    Raises:
        BadInput: no run does.

    """
    held = [baseline if baseline in run.artifacts else None for run in runs]
    if baseline is not None and baseline not in held:
        known = ", ".join(dict.fromkeys(name for run in runs for name in run.artifacts))
        which = f"run {runs[0].id} holds no" if len(runs) == 1 else "none of the runs holds an"
        raise BadInput(f"{which} artifact {baseline!r}", hint=f"there is {known}")
    return held


def median_interval(launch_medians_ms: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median of `launch_medians_ms` (two or more).

    Percentile bootstrap over launches (Efron, 1979), seeded: the same medians give the same
    interval. On simulated normal launches it covered the true median 92 to 95 % of the time with
    6 to 20 of them, 87 % with 4 and 76 % with 3; reports warn below `LAUNCHES_FOR_95`.
    """
    return _median_interval(tuple(launch_medians_ms))


@cache  # a page asks for the same rows several times
def _median_interval(launch_medians_ms: tuple[float, ...]) -> tuple[float, float]:
    medians = np.asarray(launch_medians_ms, dtype=np.float64)
    generator = np.random.default_rng(_SEED)
    drawn = generator.choice(medians, size=(_RESAMPLES, medians.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _row(run: Run, name: str, target: Target, launches: Sequence[Launch]) -> Row:
    measured = [launch for launch in launches if launch.error is None]
    failures = [launch.error for launch in launches if launch.error is not None]
    medians = tuple(one for launch in measured if (one := launch.median_ms) is not None)
    samples = [sample for launch in measured for sample in launch.samples_ms]
    low, high = median_interval(medians) if len(medians) > 1 else (None, None)
    loads = [launch.load_ms for launch in measured if launch.load_ms is not None]
    peaks = [launch.peak_rss_mb for launch in measured if launch.peak_rss_mb is not None]
    parts = [launch.details.get("partitions") for launch in measured]
    manifest = run.artifacts.get(name, {})
    return Row(
        run=run.id,
        artifact=name,
        target=target,
        launches=len(measured),
        failed=len(failures),
        samples=len(samples),
        launch_medians_ms=medians,
        median_ms=statistics.median(medians) if medians else None,
        low_ms=low,
        high_ms=high,
        p90_ms=float(np.percentile(samples, 90)) if samples else None,
        load_ms=statistics.median(loads) if loads else None,
        peak_rss_mb=max(peaks) if peaks else None,
        partitions=next((part for part in parts if isinstance(part, int)), None),
        unsettled=sum(launch.details.get("settled") is False for launch in measured),
        error=failures[0] if failures else None,
        bytes=_whole(manifest, "bytes"),
        macs=_whole(manifest, "macs", "real"),
        macs_published=_whole(manifest, "macs", "published"),
        psnr_db=_number(manifest, "parity", "psnr_db"),
        emulated=run.emulated,
    )


def _speedup(baseline_ms: float | None, row: Row) -> float | None:
    return baseline_ms / row.median_ms if baseline_ms and row.median_ms else None


def _number(table: Mapping[str, Any], *keys: str) -> float | None:
    """Return the number under nested `keys`, or None: an artifact may have no manifest."""
    value: Any = table
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(table: Mapping[str, Any], *keys: str) -> int | None:
    value = _number(table, *keys)
    return None if value is None else int(value)
