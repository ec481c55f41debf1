"""A comparison as a terminal table, as Markdown and as JSON, all from the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Any

from coronet_deploy.report import figures
from coronet_deploy.report.tables import TERMINAL_WIDTH, escaped
from coronet_deploy.report.verdict import Comparison, Judged, Method

_HEADS = ("Artifact", "Threads", "Base ms", "Now ms", "Ratio", "90 % interval", "Verdict")

_METHODS = {
    Method.IN_TURN: "Method: both sides in turn; exact rank test on medians of launches.",
    Method.TWO_RUNS: "Method: two runs of one day; exact rank test on medians of launches.",
    Method.HISTORY: "Method: history; the prediction interval of one more session, from the "
    "spread of earlier sessions' medians.",
}


def print_comparison(comparison: Comparison, file: IO[str]) -> None:
    """Print the table, the reasons and the notes to `file`, 80 columns wide."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, width=TERMINAL_WIDTH, highlight=False)
    # Little space between columns leaves the more to names.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate(_HEADS):
        # Text, not str: a name in [brackets] is a name, not markup. The name gives way to width.
        words = number in {0, len(_HEADS) - 1}
        table.add_column(
            Text(head), justify="left" if words else "right", overflow="fold", no_wrap=number > 0
        )
    for row in comparison.rows:
        table.add_row(*(Text(figures.printable(cell)) for cell in _cells(row)))
    console.print(table)
    for text in sentences(comparison):
        console.print(Text(figures.printable(text)))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table, the reasons and the notes as GitHub-flavoured Markdown."""
    lines = ["| " + " | ".join(_HEADS) + " |", "| --- |" + " ---: |" * 5 + " --- |"]
    lines += ["| " + " | ".join(escaped(c) for c in _cells(row)) + " |" for row in comparison.rows]
    lines.append("")
    lines += [f"- {escaped(text)}" for text in sentences(comparison)]
    return "\n".join(lines).rstrip() + "\n"


def comparison_json(comparison: Comparison, run_files: Sequence[str]) -> dict[str, Any]:
    """Return the comparison as plain JSON values; times in ms, unrounded."""
    bounds = comparison.bounds
    return {
        "rows": [_json_row(row) for row in comparison.rows],
        "no_base": list(comparison.no_base),
        "no_candidate": list(comparison.no_candidate),
        "method": comparison.method.value,
        "margin": bounds.margin,
        "resolution": bounds.resolution,
        "alpha": bounds.alpha,
        "notes": list(comparison.notes),
        "run_files": list(run_files),
    }


def sentences(comparison: Comparison) -> list[str]:
    """Return what the table's figures do not say, in sentences."""
    bounds = comparison.bounds
    rows = comparison.rows
    told = [f"{row.pair.name}: {row.verdict}: {row.reason}." for row in rows if row.reason]
    renamed = {
        row.pair.artifact: row.pair.base_artifact
        for row in rows
        if row.pair.artifact != row.pair.base_artifact
    }
    told += [f"{name}: the base is {base}." for name, base in renamed.items()]
    told += [f"{name}: no baseline, not compared." for name in comparison.no_base]
    told += [f"{name}: only the base has it, not compared." for name in comparison.no_candidate]
    told.append(_METHODS[comparison.method])
    told.append(
        f"A change below {100 * bounds.margin:g} % is not reported; same excludes one of "
        f"{100 * bounds.resolution:g} %."
    )
    return told + list(comparison.notes)


def _cells(row: Judged) -> tuple[str, ...]:
    shift = row.shift
    if shift is None:
        ratio, interval = figures.DASH, figures.DASH
    else:
        ratio = f"{shift.ratio:.3f}"
        bounded = math.isfinite(shift.high)
        interval = f"{shift.low:.3f} to {shift.high:.3f}" if bounded else figures.DASH
    return (
        row.pair.artifact,
        str(row.pair.target.threads),
        figures.milliseconds(row.base_ms),
        figures.milliseconds(row.candidate_ms),
        ratio,
        interval,
        row.verdict.value,
    )


def _json_row(row: Judged) -> dict[str, Any]:
    shift, pair = row.shift, row.pair
    bounded = shift is not None and math.isfinite(shift.high)
    rerun = pair.rerun
    return {
        "artifact": pair.artifact,
        "base_artifact": pair.base_artifact,
        "device": pair.target.device,
        "backend": pair.target.backend,
        "threads": pair.target.threads,
        "verdict": row.verdict.value,
        "reason": row.reason,
        "base_ms": row.base_ms,
        "candidate_ms": row.candidate_ms,
        "ratio": shift.ratio if shift else None,
        "low": shift.low if shift and bounded else None,
        "high": shift.high if shift and bounded else None,
        "p_slower": row.p_slower,
        "launches": [None if row.sessions else len(pair.base_ms), len(pair.candidate_ms)],
        "rerun_launches": [len(side) for side in rerun] if rerun else [0, 0],
        "launches_needed": row.launches_needed,
        "sessions": list(row.sessions) if row.sessions else None,
        "base_session_medians_ms" if row.sessions else "base_launch_medians_ms": list(pair.base_ms),
        "candidate_launch_medians_ms": list(pair.candidate_ms),
    }
