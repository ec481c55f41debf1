"""The latency plot: bars of the median, its interval, and every launch as a point."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from coronet_deploy.errors import NothingMeasured
from coronet_deploy.report.figures import milliseconds, printable, target_names
from coronet_deploy.report.summary import Row
from coronet_deploy.report.svg import COLOURS, INK, MUTED, calm, draw_svg
from coronet_deploy.vocabulary import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_HEIGHT = 0.46
_MARGIN_HEIGHT = 0.62
# The interval is drawn so far above the middle of its bar and the launches below, in rows.
_BELOW = 0.08
_LABEL_MOST = 42
_ROWS_MOST = 24  # of one plot: its axis stays near, and a printed page holds it whole
_LINE_MOST, _NAME_LEAST = 53, 16  # letters of a row's names, and of the artifact's among them


def plot_parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the measured rows as plots show them: several of about one height where they are many.

    Rows of one artifact stay together if one plot has room for them.
    """
    measured = [row for row in rows if row.median_ms is not None]
    parts: list[list[Row]] = [[]]
    wanted = len(measured) / max(1, math.ceil(len(measured) / _ROWS_MOST))
    for _, group in groupby(measured, lambda row: row.artifact):
        own = list(group)
        for start in range(0, len(own), _ROWS_MOST):
            piece = own[start : start + _ROWS_MOST]
            if len(parts[-1]) >= wanted or len(parts[-1]) + len(piece) > _ROWS_MOST:
                parts.append([])
            parts[-1] += piece
    return parts


def latency_svg(
    rows: Sequence[Row], title: str, key: str = "plot", *, of: Sequence[Row] = ()
) -> str:
    """Return an `<svg>` element with a bar for each measured row (`title`, `key`: see `draw_svg`).

    Rows keep their order; a colour stands for a target. `of` are all rows where these are a part of
    them: scale, colours and names are those of all.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
        NothingMeasured: no row was measured.

    """
    measured = [row for row in rows if row.median_ms is not None]
    if not measured:
        raise NothingMeasured("there is no measured row to plot")
    every = [row for row in of if row.median_ms is not None] or measured
    height = _MARGIN_HEIGHT + _ROW_HEIGHT * len(measured)

    def draw(figure: Figure) -> None:
        _draw(figure.add_axes((0.01, 0.5 / height, 0.97, 1 - 0.55 / height)), measured, every)

    described = _description(measured, every)
    return draw_svg(draw, height, key=key, title=title, description=described)


def latency_label(rows: Iterable[Row]) -> str:
    """Return the name of an axis of medians: a plot is shown without its page, too."""
    emulated = all(row.emulated for row in rows)
    return "median latency, ms, emulated" if emulated else "median latency, ms"


def short(name: str, most: int = _LABEL_MOST) -> str:
    """Return a name as it fits a plot: its start and its end."""
    shown = printable(name)
    if len(shown) <= most:
        return shown
    return f"{shown[: most // 2]}…{shown[-(most // 2) + 1 :]}"


def short_names(names: Iterable[str], most: int = _LABEL_MOST) -> dict[str, str]:
    """Return names as they fit a plot, each told apart from the others.

    Where their starts and ends are alike, what all start with is left out, or they are numbered.
    """
    every = list(dict.fromkeys(names))
    shown = {name: short(name, most) for name in every}
    if len(set(shown.values())) == len(every):
        return shown
    start = len(os.path.commonprefix(every))  # noqa: RUF071 - these are names, not paths
    start = max(every[0].rfind(sign, 0, start) for sign in "_-/. ") + 1
    shown = {name: short(f"…{name[start:]}" if start else name, most) for name in every}
    if len(set(shown.values())) == len(every):
        return shown
    return {name: short(f"{n}: {name}", most) for n, name in enumerate(every, 1)}


def _draw(axes: Axes, rows: Sequence[Row], every: Sequence[Row]) -> None:
    widths = [row.median_ms or 0.0 for row in rows]
    reach = max(max(row.high_ms or 0, *row.launch_medians_ms) for row in every)
    names = target_names(row.target for row in every)
    labels = _labels(rows, every)
    colours = [COLOURS[list(names).index(row.target) % len(COLOURS)] for row in rows]
    # All of a kind at once: an artist a row would make a page of many rows slow.
    axes.barh(range(len(rows)), widths, height=0.34, color=colours, alpha=0.75, linewidth=0)
    launches = [(ms, place) for place, row in enumerate(rows) for ms in row.launch_medians_ms]
    axes.scatter(
        [ms for ms, _ in launches],
        [place + _BELOW for _, place in launches],
        s=12,
        facecolors="none",
        edgecolors=INK,
        linewidths=0.8,
        zorder=3,
    )
    intervals = [
        (place - _BELOW, row.low_ms, row.high_ms)
        for place, row in enumerate(rows)
        if row.low_ms is not None and row.high_ms is not None
    ]
    axes.hlines(
        [place for place, _, _ in intervals],
        [low for _, low, _ in intervals],
        [high for _, _, high in intervals],
        color=INK,
        linewidth=1.6,
        capstyle="projecting",
    )
    for place, width in enumerate(widths):
        axes.text(0, place - 0.27, labels[place], color=INK, va="bottom", ha="left")
        axes.text(
            1,
            place - 0.27,
            f"{milliseconds(width)} ms",
            color=INK,
            va="bottom",
            ha="right",
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xlim(0, reach * 1.02)
    axes.set_ylim(len(rows) - 0.6, -0.8)
    axes.set_yticks([])
    # "0", not "0.0": half of it would be beyond the edge.
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.set_xlabel(f"{latency_label(rows)} (lower is better)", color=MUTED)
    calm(axes, grid="x")


def row_labels(rows: Sequence[tuple[str, Target]], most: int = _LABEL_MOST) -> list[str]:
    """Return "artifact, target" of each row, with room for its figure beside it.

    Names have `most` letters at most, fewer where a phone's are long.
    """
    told = target_names(target for _, target in rows)
    shown = short_names(told.values(), _LINE_MOST - _NAME_LEAST)
    targets = {target: shown[name] for target, name in told.items()}
    left = _LINE_MOST - max(map(len, targets.values()), default=0)
    names = short_names((artifact for artifact, _ in rows), min(most, left))
    return [f"{names[artifact]}, {targets[target]}" for artifact, target in rows]


def _labels(rows: Sequence[Row], every: Sequence[Row]) -> list[str]:
    keys = [(row.artifact, row.target) for row in every]
    told = dict(zip(keys, row_labels(keys), strict=True))
    return [told[row.artifact, row.target] for row in rows]


def _description(rows: Sequence[Row], every: Sequence[Row]) -> str:
    told = zip(_labels(rows, every), rows, strict=True)
    return "; ".join(f"{label}: {milliseconds(row.median_ms)} ms" for label, row in told)
