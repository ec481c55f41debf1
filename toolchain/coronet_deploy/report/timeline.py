"""The history plot: a small one a row, sessions from left to right, changes marked."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coronet_deploy.report.figures import milliseconds
from coronet_deploy.report.history import Line
from coronet_deploy.report.plots import row_labels
from coronet_deploy.report.svg import COLOURS, INK, MUTED, calm, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_HEIGHT = 1.15
_BOTTOM = 0.3
_NAME_MOST = 36


def history_svg(rows: Sequence[tuple[Line, float]], title: str, key: str) -> str:
    """Return an `<svg>` of rows: a line of history (not empty), and the newest session's median."""
    height = _ROW_HEIGHT * len(rows) + _BOTTOM
    names = row_labels([(line.artifact, line.target) for line, _ in rows], _NAME_MOST)

    def draw(figure: Figure) -> None:
        for place, (line, now_ms) in enumerate(rows):
            bottom = height - _ROW_HEIGHT * (place + 1) + _BOTTOM
            axes = figure.add_axes((0.09, bottom / height, 0.89, (_ROW_HEIGHT - 0.6) / height))
            _draw(axes, names[place], line, now_ms)

    described = "; ".join(
        f"{name}: {len(line.points)} earlier sessions, "
        f"{milliseconds(line.points[0].median_ms)} ms at first, {milliseconds(now_ms)} ms now"
        for name, (line, now_ms) in zip(names, rows, strict=True)
    )
    return draw_svg(draw, height, key=key, title=title, description=described)


def _draw(axes: Axes, name: str, line: Line, now_ms: float) -> None:
    medians = [point.median_ms for point in line.points]
    for place, point in enumerate(line.points):
        launches = point.launch_medians_ms
        axes.plot([place] * 2, [min(launches), max(launches)], color=MUTED, alpha=0.5, linewidth=1)
    axes.plot(range(len(medians)), medians, "o", color=MUTED, markersize=3.5)
    axes.plot([len(medians)], [now_ms], "o", color=COLOURS[0], markersize=6, zorder=4)
    starts = [0, *(line.changes or ()), len(medians)]
    for start, end in itertools.pairwise(starts):
        usual = statistics.median(medians[start:end])
        axes.plot([start - 0.4, end - 0.6], [usual] * 2, color=COLOURS[0], linewidth=1.4)
        if start:
            axes.axvline(start - 0.5, color=COLOURS[1], linewidth=1, linestyle=(0, (3, 2)))
    values = [*medians, now_ms]
    middle, reach = (max(values) + min(values)) / 2, max(values) - min(values)
    half = max(0.65 * reach, 0.06 * middle)
    axes.set_ylim(middle - half, middle + half)
    axes.set_xlim(-1, len(medians) + 1)
    axes.set_yticks([min(values), max(values)] if reach > 0.04 * middle else [now_ms])
    axes.set_yticklabels([milliseconds(tick) for tick in axes.get_yticks()])
    axes.set_xticks([0, len(medians)], [line.points[0].created[:10], "now"])
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_title(name, color=INK, fontsize=9.5, loc="left", x=-0.09)
    axes.set_title(f"{milliseconds(now_ms)} ms", color=INK, fontsize=9.5, loc="right")
    calm(axes)
