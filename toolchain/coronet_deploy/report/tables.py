"""Latency tables for a terminal, for Markdown, and as CSV and JSON, all from the same rows."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from coronet_deploy.report import figures
from coronet_deploy.report.grid import (
    TERMINAL_WIDTH,
    Grid,
    escaped,
    grids_markdown,
    inert,
    print_grids,
)
from coronet_deploy.report.summary import Row

__all__ = [
    "TERMINAL_WIDTH",
    "csv_text",
    "escaped",
    "failures",
    "json_row",
    "markdown",
    "print_tables",
    "shared_start",
]

# What the latency table's other columns leave to the artifact's name.
_NAME_WIDTH = 20

_Line = tuple[str, ...]

_LATENCY = ("Artifact", "Back end", "Threads", "Median ms", "95 % interval", "p90 ms", "Speed-up")
_ARTIFACT = ("Artifact", "MB", "PSNR dB", "MACs", "Parts", "Peak MB")


def print_tables(
    rows: Sequence[Row], file: IO[str], notes: Sequence[str] = (), width: int | None = None
) -> None:
    """Print the latency table, the artifact table and `notes` to `file` (`grid.print_grids`)."""
    start = shared_start([row.artifact for row in rows])
    said = [f"Names start with {start}"] if start else []
    grids = [
        replace(grid, lines=tuple((line[0].removeprefix(start), *line[1:]) for line in grid.lines))
        for grid in _grids(rows)
    ]
    for text in (*_devices(rows), *said):
        print(figures.printable(text), file=file)
    print_grids(grids, file, (*_over(rows), *failures(rows), *notes), width)


def markdown(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """Return the tables and `notes` as GitHub-flavoured Markdown, a line feed at the end."""
    told = (*_devices(rows), *_over(rows), *failures(rows), *notes)
    return grids_markdown(_grids(rows), told)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `json_row`s as CSV (RFC 4180) with a head line; unknown figures are empty.

    What spreadsheets would take for a formula is text (see `grid.inert`).
    """
    out = io.StringIO()
    columns = [key for key in rows[0] if key != "launch_medians_ms"] if rows else []
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: inert(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def json_row(row: Row, run_file: str | None = None) -> dict[str, Any]:
    """Return a row as plain JSON values; times in ms, unrounded. `run_file` is where it is kept."""
    return {
        "artifact": row.artifact,
        "device": row.target.device,
        "backend": row.target.backend,
        "threads": row.target.threads,
        "launches": row.launches,
        "samples": row.samples,
        "median_ms": row.median_ms,
        "p90_ms": row.p90_ms,
        "run_file": run_file,
        "run": row.run,
        "failed": row.failed,
        "low_ms": row.low_ms,
        "high_ms": row.high_ms,
        "spread_percent": row.spread_percent,
        "speedup": row.speedup,
        "load_ms": row.load_ms,
        "peak_rss_mb": row.peak_rss_mb,
        "partitions": row.partitions,
        "bytes": row.bytes,
        "macs": row.macs,
        "macs_published": row.macs_published,
        "psnr_db": row.psnr_db,
        "launch_medians_ms": list(row.launch_medians_ms),
        "error": row.error,
    }


def failures(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence for each row with failed launches."""
    names = figures.target_names(row.target for row in rows)
    return tuple(
        f"{row.artifact}, {names[row.target]}: {row.failed} of {row.failed + row.launches} "
        f"launches failed: {row.error}"
        for row in rows
        if row.failed
    )


def _grids(rows: Sequence[Row]) -> list[Grid]:
    """Return both tables, without the columns that would say the same in every line."""
    heads, lines = list(_LATENCY), [list(line) for line in _latency_lines(rows)]
    drop = []
    if all(row.target.backend == "cpu" for row in rows):
        drop.append(_LATENCY.index("Back end"))
    if all(row.speedup is None for row in rows):
        drop.append(_LATENCY.index("Speed-up"))
    for column in sorted(drop, reverse=True):
        for cells in (heads, *lines):
            del cells[column]
    latency = Grid(tuple(heads), tuple(map(tuple, lines)), words=1 + ("Back end" in heads))
    return [latency, Grid(_ARTIFACT, tuple(_artifact_lines(rows)))]


def _devices(rows: Sequence[Row]) -> list[str]:
    """Say which phone was measured on; this host is what a reader takes for granted."""
    names = dict.fromkeys(
        f"{row.target.device} (emulated)" if row.emulated else row.target.device
        for row in rows
        if row.target.device != "host"
    )
    return [f"Measured on {', '.join(names)}"] if names else []


def _over(rows: Sequence[Row]) -> list[str]:
    """Say what speed-ups are over: the one artifact that is as fast as itself on every target."""
    gains: dict[str, set[float]] = {}
    for row in rows:
        if row.speedup is not None:
            gains.setdefault(row.artifact, set()).add(row.speedup)
    bases = [name for name, values in gains.items() if values == {1.0}]
    return [f"Speed-up is over {bases[0]}, on the same target."] if len(bases) == 1 else []


def shared_start(names: Sequence[str], width: int = _NAME_WIDTH) -> str:
    """Return what all names start with, up to a separator, if `width` has no room for one."""
    if len(set(names)) == 1 or max(map(len, names), default=0) <= width:
        return ""
    start = os.path.commonprefix(list(names))  # noqa: RUF071 - these are names, not paths
    return start[: max(start.rfind("_"), start.rfind("-"), start.rfind("/")) + 1]


def _latency_lines(rows: Sequence[Row]) -> list[_Line]:
    return [
        (
            row.artifact,
            row.target.backend,
            str(row.target.threads),
            figures.milliseconds(row.median_ms) if row.launches else "failed",
            figures.interval(row.low_ms, row.high_ms),
            figures.milliseconds(row.p90_ms),
            figures.times(row.speedup),
        )
        for row in rows
    ]


def _artifact_lines(rows: Sequence[Row]) -> list[_Line]:
    """Return a line for each artifact; memory is the most that any of its launches took."""
    lines: list[_Line] = []
    for name in dict.fromkeys(row.artifact for row in rows):
        own = [row for row in rows if row.artifact == name]
        first = own[0]
        parts = [row.partitions for row in own if row.partitions is not None]
        peaks = [row.peak_rss_mb for row in own if row.peak_rss_mb is not None]
        lines.append(
            (
                name,
                figures.megabytes(first.bytes),
                figures.decibels(first.psnr_db),
                figures.count(first.macs),
                str(parts[0]) if parts else figures.DASH,
                f"{max(peaks):.0f}" if peaks else figures.DASH,
            )
        )
    return lines
