"""Runs of a result store as a terminal table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from coronet_deploy.report import figures
from coronet_deploy.report.tables import TERMINAL_WIDTH
from coronet_deploy.results.entries import RowEntry, RunEntry

_HEADS = ("Artifact", "Device", "Back end", "Thr", "Median ms", "p90 ms", "Launches")


def print_runs(runs: Sequence[RunEntry], file: IO[str]) -> None:
    """Print each run's id and date, and its rows below, 80 columns wide."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, width=TERMINAL_WIDTH, highlight=False)
    for run in runs:
        emulated = "  emulated: not a real device's timings" if run.emulated else ""
        # The id goes on a line of its own where all of it would not fit.
        console.print(Text(figures.printable(f"{run.id}  {run.created[:16]}Z{emulated}")))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(_HEADS):
            words = number < 3  # noqa: PLR2004 - the columns of words
            table.add_column(
                Text(head), justify="left" if words else "right", overflow="fold", no_wrap=not words
            )
        for row in run.rows:
            table.add_row(*(Text(figures.printable(cell)) for cell in _cells(row)))
        console.print(table)


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
