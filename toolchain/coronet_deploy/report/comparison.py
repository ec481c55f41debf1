"""A comparison as a terminal table, as Markdown and as JSON, all from the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Any

from coronet_deploy.report import figures
from coronet_deploy.report.grid import console_of, escaped, print_table, print_text
from coronet_deploy.report.regression import is_counted
from coronet_deploy.report.tables import shared_start
from coronet_deploy.report.verdict import Comparison, Judged, Method

_FIGURES = ("Threads", "Base ms", "Now ms", "Ratio", "90 % interval")

_METHODS = {
    Method.IN_TURN: "Method: both sides in turn; {test} on medians of launches.",
    Method.TWO_RUNS: "Method: two runs of one day; {test} on medians of launches.",
    Method.HISTORY: "Method: history; the prediction interval of one more session, from the "
    "spread of earlier sessions' medians.",
}


def print_comparison(comparison: Comparison, file: IO[str]) -> None:
    """Print the table, the reasons and the notes to `file` (see `grid.width_of`)."""
    console = console_of(file)
    where = _varying(comparison)
    heads = _heads(where)
    if where:  # there is no room for it beside a phone's name
        heads = tuple("Thr" if head == "Threads" else head for head in heads)
    lines = [_cells(row, where) for row in comparison.rows]
    if start := shared_start([row.pair.artifact for row in comparison.rows]):
        print_text(console, f"Names start with {start}")
        lines = [(name.removeprefix(start), *cells) for name, *cells in lines]
    print_table(console, heads, lines, 1 + len(where), last_left=True)
    for text in sentences(comparison):
        print_text(console, text)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table, the reasons and the notes as GitHub-flavoured Markdown."""
    where = _varying(comparison)
    heads = _heads(where)
    rules = (" ---: |" if head in _FIGURES else " --- |" for head in heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "".join(rules)]
    lines += [
        "| " + " | ".join(escaped(cell) for cell in _cells(row, where)) + " |"
        for row in comparison.rows
    ]
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
        "emulated": comparison.emulated,
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
    told += [
        f"{name}: only {comparison.base} has it, not compared." for name in comparison.no_candidate
    ]
    targets = [row.pair.target for row in rows if row.pair.target.device != "host"]
    if places := dict.fromkeys(f"{target.device} {target.backend}" for target in targets):
        label = " (emulated)" if comparison.emulated else ""
        told.append(f"Measured on {', '.join(f'{place}{label}' for place in places)}.")
    told.append(_METHODS[comparison.method].format(test=_test(rows)))
    told.append(
        f"A change below {100 * bounds.margin:g} % is not reported; same excludes one of "
        f"{100 * bounds.resolution:g} %."
    )
    return told + list(comparison.notes)


def _test(rows: Sequence[Judged]) -> str:
    """Return what the test on launches is called: with very many of them it is no longer exact."""
    shifts = [row.shift for row in rows if row.shift is not None]
    counted = all(is_counted(shift.base, shift.candidate) for shift in shifts)
    return "exact rank test" if counted else "rank test, normal where launches are many,"


def _varying(comparison: Comparison) -> list[str]:
    """Return the heads of what a target has besides threads and is not the same in every row."""
    targets = [row.pair.target for row in comparison.rows]
    values = {
        "Device": {target.device for target in targets},
        "Back end": {target.backend for target in targets},
    }
    return [head for head, names in values.items() if len(names) > 1]


def _heads(where: Sequence[str]) -> tuple[str, ...]:
    return ("Artifact", *where, *_FIGURES, "Verdict")


def _cells(row: Judged, where: Sequence[str]) -> tuple[str, ...]:
    target = row.pair.target
    places = {"Device": target.device, "Back end": target.backend}
    shift = row.shift
    if shift is None:
        ratio, interval = figures.DASH, figures.DASH
    else:
        ratio = f"{shift.ratio:.3f}"
        bounded = math.isfinite(shift.high)
        interval = f"{shift.low:.3f} to {shift.high:.3f}" if bounded else figures.DASH
    return (
        row.pair.artifact,
        *(places[head] for head in where),
        str(target.threads),
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
