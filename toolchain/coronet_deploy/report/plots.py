"""The latency plot: bars of the median, its interval, and every launch as a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def latency_svg(rows: Sequence[Row], title: str, key: str = "plot") -> str:
    """Return an `<svg>` element with a bar for each measured row (`title`, `key`: see `draw_svg`).

    Rows keep their order; a colour stands for a target.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
        NothingMeasured: no row was measured.

    """
    measured = [row for row in rows if row.median_ms is not None]
    if not measured:
        raise NothingMeasured("there is no measured row to plot")
    height = _MARGIN_HEIGHT + _ROW_HEIGHT * len(measured)

    def draw(figure: Figure) -> None:
        _draw(figure.add_axes((0.01, 0.5 / height, 0.97, 1 - 0.55 / height)), measured)

    return draw_svg(draw, height, key=key, title=title, description=_description(measured))


def short(name: str, most: int = _LABEL_MOST) -> str:
    """Return a name as it fits a plot: its start and its end."""
    shown = printable(name)
    if len(shown) <= most:
        return shown
    return f"{shown[: most // 2]}…{shown[-(most // 2) + 1 :]}"


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    widths = [row.median_ms or 0.0 for row in rows]
    reach = max(max(row.high_ms or 0, *row.launch_medians_ms) for row in rows)
    names = target_names(row.target for row in rows)
    for place, (row, width) in enumerate(zip(rows, widths, strict=True)):
        colour = COLOURS[list(names).index(row.target) % len(COLOURS)]
        axes.barh(place, width, height=0.34, color=colour, alpha=0.75, linewidth=0)
        axes.scatter(
            row.launch_medians_ms,
            [place + _BELOW] * len(row.launch_medians_ms),
            s=12,
            facecolors="none",
            edgecolors=INK,
            linewidths=0.8,
            zorder=3,
        )
        if row.low_ms is not None and row.high_ms is not None:
            axes.plot([row.low_ms, row.high_ms], [place - _BELOW] * 2, color=INK, linewidth=1.6)
        axes.text(0, place - 0.27, _label(row, names), color=INK, va="bottom", ha="left")
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
    axes.set_xlabel("median latency, ms (lower is better)", color=MUTED)
    calm(axes, grid="x")


def _label(row: Row, names: Mapping[Target, str]) -> str:
    return f"{short(row.artifact)}, {names[row.target]}"


def _description(rows: Sequence[Row]) -> str:
    names = target_names(row.target for row in rows)
    return "; ".join(f"{_label(row, names)}: {milliseconds(row.median_ms)} ms" for row in rows)
