"""Runs of a result store as a terminal table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

from coronet_deploy.report import figures
from coronet_deploy.report.grid import console_of, print_table, print_text
from coronet_deploy.results.entries import RowEntry, RunEntry

_HEADS = ("Artifact", "Device", "Back end", "Thr", "Median ms", "p90 ms", "Launches")
_WORDS = 3  # columns of words


def print_runs(runs: Sequence[RunEntry], file: IO[str]) -> None:
    """Print each run's id and date, and its rows below, to `file` (see `grid.width_of`)."""
    console = console_of(file)
    for run in runs:
        emulated = "  emulated: not a real device's timings" if run.emulated else ""
        # The id goes on a line of its own where all of it would not fit.
        print_text(console, f"{run.id}  {figures.minute(run.created)}{emulated}")
        print_table(console, _HEADS, [_cells(row) for row in run.rows], _WORDS)


def print_setup(run: RunEntry, state: str, file: IO[str]) -> None:
    """Print where a run's file is, in which `state`, and the set-ups of its rows."""
    setups = {row.key.setup: row.setup for row in run.rows}
    # Not on a line of the console's width, which would break a path that is to be copied.
    print(figures.printable(f"file    {run.path} ({state})"), file=file)
    print(f"sha256  {run.sha256}", file=file)
    for digest, fields in setups.items():
        told = ", ".join(f"{name} {json.loads(value)}" for name, value in fields.items())
        print_text(console_of(file), f"set-up  {digest[:12]}: {told}")


def run_json(run: RunEntry) -> dict[str, Any]:
    """Return a run of the store as plain JSON values; times in ms, unrounded."""
    return {
        "run": run.id,
        "created": run.created,
        "run_file": str(run.path),
        "sha256": run.sha256,
        "emulated": run.emulated,
        "rows": [
            {
                "artifact": row.artifact,
                "artifact_sha256": row.artifact_sha256,
                "model": row.model,
                "runtime": row.runtime,
                "dtype": row.dtype,
                "device": row.target.device,
                "backend": row.target.backend,
                "threads": row.target.threads,
                "launches": row.launches,
                "failed": row.failed,
                "samples": row.samples,
                "median_ms": row.median_ms,
                "p90_ms": row.p90_ms,
                "launch_medians_ms": list(row.launch_medians_ms),
                "setup": row.key.setup,
            }
            for row in run.rows
        ],
    }


def _cells(row: RowEntry) -> tuple[str, ...]:
    total = row.launches + row.failed
    return (
        row.artifact,
        row.target.device,
        row.target.backend,
        str(row.target.threads),
        figures.milliseconds(row.median_ms) if row.launches else "failed",
        figures.milliseconds(row.p90_ms),
        f"{row.launches} of {total}" if row.failed else str(total),
    )
