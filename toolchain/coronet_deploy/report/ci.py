"""What continuous integration reads: JUnit XML, workflow commands, and two benchmark formats.

Each is read apart from the comparison's notes, so a row's own name says that it is emulated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from coronet_deploy.report.figures import printable
from coronet_deploy.report.regression import Verdict
from coronet_deploy.report.summary import median_interval
from coronet_deploy.report.verdict import Comparison, Judged

_SUITE = "coronet-deploy compare"
_NS_PER_MS = 1e6
_LEVELS: Mapping[str, Sequence[Verdict]] = {
    "error": (Verdict.SLOWER, Verdict.INVALID),
    "warning": (Verdict.INCONCLUSIVE,),
}
_SHOWN_BY_GITHUB = 10  # annotations of a level and a step


def junit_xml(comparison: Comparison, *, inconclusive_ok: bool = False) -> str:
    """Return JUnit XML: a test case a row, with a failure if it is slower.

    An error is a row that could not be judged (`invalid`, or `inconclusive` unless that is
    `inconclusive_ok`), skipped what only one side has. The suite's own output is the notes.
    Control characters, which XML 1.0 cannot hold, become U+FFFD.
    """
    unjudged = {Verdict.INVALID} | (set() if inconclusive_ok else {Verdict.INCONCLUSIVE})
    verdicts = [row.verdict for row in comparison.rows]
    alone = [(name, "no baseline") for name in comparison.no_base]
    alone += [(name, f"only {comparison.base} has it") for name in comparison.no_candidate]
    suite = ET.Element(
        "testsuite",
        name=_SUITE,
        tests=str(len(comparison.rows) + len(alone)),
        failures=str(verdicts.count(Verdict.SLOWER)),
        errors=str(sum(verdict in unjudged for verdict in verdicts)),
        skipped=str(len(alone)),
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="method", value=comparison.method.value)
    for row in comparison.rows:
        case = _case(suite, row.pair.target.device, comparison.name_of(row))
        if row.verdict is Verdict.SLOWER:
            ET.SubElement(case, "failure", type=row.verdict.value, message=_clean(row))
        elif row.verdict in unjudged:
            ET.SubElement(case, "error", type=row.verdict.value, message=_clean(row))
        else:
            ET.SubElement(case, "system-out").text = _clean(row)
    for name, why in alone:
        ET.SubElement(_case(suite, "", name), "skipped", message=why)
    if comparison.notes:
        told = "\n".join(printable(note) for note in comparison.notes)
        ET.SubElement(suite, "system-out").text = told
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github_commands(comparison: Comparison) -> list[str]:
    """Return a workflow command for each row to look at, the most serious ones first.

    An `::error::` where it is slower or invalid, a `::warning::` where it is inconclusive. Of more
    than GitHub shows, the last one tells how many are left out.
    """
    return [
        line
        for level, verdicts in _LEVELS.items()
        for line in _commands(comparison, level, verdicts)
    ]


def _commands(comparison: Comparison, level: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    rows = [row for row in comparison.rows if row.verdict in verdicts]
    rows.sort(key=lambda row: (verdicts.index(row.verdict), -(row.shift.ratio if row.shift else 1)))
    shown = rows if len(rows) <= _SHOWN_BY_GITHUB else rows[: _SHOWN_BY_GITHUB - 1]
    for row in shown:
        yield f"::{level} title={_property(comparison.name_of(row))}::{_message(explain(row))}"
    if left := len(rows) - len(shown):
        told = " or ".join(verdicts)
        yield f"::{level} title=more rows::{left} more rows are {told}: the table has all of them"


def bencher_json(comparison: Comparison) -> str:
    """Return the candidate's latencies in Bencher Metric Format, whose latency is in ns."""
    metrics = {}
    for row in _measured(comparison):
        low, high = median_interval(row.pair.candidate_ms)
        metrics[comparison.name_of(row)] = {
            "latency": {
                "value": (row.candidate_ms or 0) * _NS_PER_MS,
                "lower_value": low * _NS_PER_MS,
                "upper_value": high * _NS_PER_MS,
            }
        }
    return json.dumps(metrics, indent=2) + "\n"


def benchmark_action_json(comparison: Comparison) -> str:
    """Return the candidate's latencies as github-action-benchmark's `customSmallerIsBetter`."""
    entries: list[dict[str, Any]] = []
    for row in _measured(comparison):
        low, high = median_interval(row.pair.candidate_ms)
        entries.append(
            {
                "name": comparison.name_of(row),
                "unit": "ms",
                "value": row.candidate_ms,
                "range": f"± {(high - low) / 2:.3g}",
                "extra": explain(row),
            }
        )
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def explain(row: Judged) -> str:
    """Return the verdict on a row in one sentence."""
    told = row.verdict.value
    if row.shift is not None:
        base = "the base's latency"
        if row.sessions:
            base = f"the latency of {row.sessions[0]} earlier sessions"
        told += f": {row.shift.ratio:.3f} times {base}"
        if math.isfinite(row.shift.high):
            told += f" (90 % interval {row.shift.low:.3f} to {row.shift.high:.3f})"
        told += f", {row.base_ms:.4g} ms to {row.candidate_ms:.4g} ms"
    return f"{told}; {row.reason}" if row.reason else told


def _measured(comparison: Comparison) -> Sequence[Judged]:
    """Return the rows whose figures can be kept; an invalid one would be a trend of its own."""
    return [row for row in comparison.rows if row.verdict is not Verdict.INVALID]


def _case(suite: ET.Element, device: str, name: str) -> ET.Element:
    group = f"{_SUITE}.{device}" if device else _SUITE
    return ET.SubElement(suite, "testcase", classname=printable(group), name=printable(name))


def _clean(row: Judged) -> str:
    return printable(explain(row))


def _message(text: str) -> str:
    """Return `text` with its lines as GitHub reads them, and nothing that drives a terminal."""
    told = "\n".join(printable(line) for line in text.replace("\r", "\n").split("\n"))
    return told.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
