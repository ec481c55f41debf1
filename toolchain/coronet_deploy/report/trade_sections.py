"""Sections of the page that set latency against something: multiply-adds, quality, earlier days."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from coronet_deploy.report import figures
from coronet_deploy.report.history import Line as HistoryLine
from coronet_deploy.report.history import changes_note
from coronet_deploy.report.lines import Line
from coronet_deploy.report.markup import Markup, join, table, tag
from coronet_deploy.report.scatter import quality_svg, work_svg
from coronet_deploy.report.series import Key, key_of, series_of
from coronet_deploy.report.timeline import history_svg
from coronet_deploy.report.tradeoffs import Choice, Metric, Work, without_ideal

_Groups = dict[str, list[list[str]]]


def work_section(works: Sequence[Work]) -> Markup:
    """Return latency against multiply-adds, and how far above its share each row lies."""
    groups: _Groups = {}
    names = _names([work.line for work in works])
    for work in works:
        if work.ideal_ms is None or work.twin_macs is None:
            continue
        groups.setdefault(_name(work.line), []).append(
            [
                names[key_of(work.line)],
                figures.count(work.macs),
                f"{work.macs / work.twin_macs:.3f}",
                figures.milliseconds(work.ideal_ms),
                figures.milliseconds(work.median_ms),
                figures.times(work.over_ideal),
            ]
        )
    told = []
    if any(work.ideal_ms for work in works):
        told.append(
            "If time were proportional to multiply-adds, a pruned network would take its share of "
            "its unpruned twin's time (the dashed line, from the twin's own measurement in this "
            "run). What lies above it is what surrounds the convolutions, and what narrow layers "
            "lose."
        )
    if alone := without_ideal(works):
        told.append(
            f"No unpruned twin in the same numbers was measured beside {'; '.join(alone)}: there "
            "is no ideal to set against."
        )
    caption = (
        "Real multiply-adds of one picture; share and ideal are by the unpruned twin with the "
        "same runtime and numbers, on the same target."
    )
    heads = ("Target", "MACs", "Share", "Ideal ms", "Median ms", "Over ideal")
    return join(
        (
            *(tag("p", text) for text in told),
            _plot(work_svg(works, "Latency against multiply-adds", "work-plot")),
            *([table(caption, heads, groups.items(), "work-table")] if groups else []),
        )
    )


def quality_section(choices: Sequence[Choice], metric: Metric, missing: Sequence[str]) -> Markup:
    """Return quality against latency, and which rows no other beats in both."""
    groups: _Groups = {}
    names = _names([choice.line for choice in choices])
    for choice in choices:
        groups.setdefault(_name(choice.line), []).append(
            [
                names[key_of(choice.line)],
                figures.milliseconds(choice.median_ms),
                f"{choice.quality:.4g}",
                "yes" if choice.best else "no",
            ]
        )
    if metric.is_parity:
        told = (
            "No judgement of quality was given (--quality). Shown is parity: how exactly each "
            "artifact draws what torch draws. It tells what the export lost, not how good the "
            "pictures are."
        )
    else:
        told = f"Quality is {metric.name}, as `evaluate` measured it of each artifact itself."
    notes = [told]
    if missing:
        notes.append(f"Not judged, so not shown: {', '.join(missing)}.")
    heads = ("Target", "Median ms", metric.name, "Unbeaten")
    # Only the launches of one run took turns: between runs nothing is beaten.
    several = len({choice.line.row.run for choice in choices}) > 1
    caption = (
        f"Unbeaten: no other row of the same target{' and run' if several else ''} is faster and "
        "at least as good, or as fast and better."
    )
    return join(
        (
            *(tag("p", note) for note in notes),
            _plot(quality_svg(choices, metric, f"{metric.name} against latency", "quality-plot")),
            table(caption, heads, groups.items(), "quality-table"),
        )
    )


def history_section(
    rows: Sequence[tuple[HistoryLine, float]], without: Sequence[HistoryLine]
) -> Markup:
    """Return each row's sessions with their changes; `without` have no earlier session."""
    parts: list[Markup] = []
    targets = figures.target_names(line.target for line in (*(one for one, _ in rows), *without))
    if rows:
        groups: _Groups = {}
        for line, now_ms in rows:
            usual = statistics.median(point.median_ms for point in line.current)
            groups.setdefault(line.artifact, []).append(
                [
                    targets[line.target],
                    str(len(line.points)),
                    line.points[0].created[:10],
                    "; ".join(line.changes_told) or "none",
                    str(len(line.current)),
                    figures.milliseconds(usual),
                    figures.milliseconds(now_ms),
                    f"{100 * (now_ms / usual - 1):+.1f} %",
                ]
            )
        caption = (
            "Sessions of the same machine, software and settings, the newest apart. Usual is the "
            "median of the sessions since the last change. Dates are UTC."
        )
        if any(point.emulated for line, _ in rows for point in line.points):
            caption += " Emulated: not a real device's."
        heads = ("Target", "Sessions", "From", "Changes", "Since", "Usual ms", "Now ms", "Now")
        legend = (
            "Grey: each earlier session's median, with its fastest and slowest launch. Lines: the "
            "median between changes. The last point is this run."
        )
        parts = [
            tag("p", changes_note([line for line, _ in rows])),
            _plot(history_svg(rows, "Latency of earlier sessions", "history-plot"), legend),
            table(caption, heads, groups.items(), "history-table"),
        ]
    if without:
        names = (f"{line.artifact} ({targets[line.target]})" for line in without)
        parts.append(tag("p", f"No earlier session counts for {', '.join(names)}."))
    left_out: dict[str, list[str]] = {}
    for line in (*without, *(one for one, _ in rows)):
        for told in line.left_out:
            left_out.setdefault(told, []).append(f"{line.artifact} ({targets[line.target]})")
    if left_out:
        told_of = (f"{told}: {', '.join(names)}" for told, names in left_out.items())
        parts.append(tag("ul", *(tag("li", text) for text in told_of), class_="notes"))
    others = list(
        dict.fromkeys(
            text for line in (*without, *(one for one, _ in rows)) for text in line.others
        )
    )
    if others:
        parts.append(tag("p", "Sessions that do not count differ in:"))
        parts.append(tag("ul", *(tag("li", text) for text in others), class_="notes"))
    return join(parts)


def _plot(svg: str, caption: str | None = None) -> Markup:
    told = [tag("figcaption", caption)] if caption else []
    return tag("figure", tag("div", Markup(svg), class_="plot"), *told)


def _names(lines: Sequence[Line]) -> dict[Key, str]:
    """Return what tells the lines' targets apart, and their runs where several measured them."""
    targets = figures.target_names(line.row.target for line in lines)
    return {key: targets[one.target] + one.suffix for key, one in series_of(lines).items()}


def _name(line: Line) -> str:
    return line.row.artifact
