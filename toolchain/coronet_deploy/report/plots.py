"""The latency plot: bars of the median, its interval, and every launch as a point, as SVG.

The SVG is made to stand inside a page: text stays text, ink is `currentColor` and the other
colours are CSS variables with a fallback that reads on light and on dark. The same rows give the
same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from coronet_deploy.errors import NothingMeasured, missing_package
from coronet_deploy.report.figures import milliseconds, printable
from coronet_deploy.report.summary import Row
from coronet_deploy.report.tables import threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that matplotlib draws with, each standing for what the page's style decides.
_INK = "#010203"
_MUTED = "#020304"
_BARS = ("#030405", "#040506", "#050607")
_STYLES = {
    _INK: "currentColor",
    _MUTED: "var(--plot-muted, #7d8590)",
    _BARS[0]: "var(--plot-1, #4f8a8b)",
    _BARS[1]: "var(--plot-2, #b08968)",
    _BARS[2]: "var(--plot-3, #8a7fb5)",
}
# Sizes in inches at 72 units an inch, which makes matplotlib's points the SVG's own units.
_WIDTH = 5.2
_ROW_HEIGHT = 0.46
_MARGIN_HEIGHT = 0.62
# The interval is drawn so far above the middle of its bar and the launches below, in rows.
_BELOW = 0.08
_LABEL_MOST = 42


def latency_svg(rows: Sequence[Row], title: str) -> str:
    """Return an `<svg>` element with a bar for each measured row, titled for screen readers.

    Rows keep their order; a colour stands for a number of threads.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
        NothingMeasured: no row was measured.

    """
    measured = [row for row in rows if row.median_ms is not None]
    if not measured:
        raise NothingMeasured("there is no measured row to plot")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("matplotlib", "report") from error

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "coronet-deploy",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,
    }
    out = io.StringIO()
    with mpl.rc_context(settings):
        height = _MARGIN_HEIGHT + _ROW_HEIGHT * len(measured)
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_axes((0.01, 0.5 / height, 0.97, 1 - 0.55 / height))
        _draw(axes, measured)
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=empty)
    return _inline(out.getvalue(), title, _description(measured))


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    widths = [row.median_ms or 0.0 for row in rows]
    counts = sorted({row.target.threads for row in rows})
    reach = max(max(row.high_ms or 0, *row.launch_medians_ms) for row in rows)
    for place, (row, width) in enumerate(zip(rows, widths, strict=True)):
        colour = _BARS[counts.index(row.target.threads) % len(_BARS)]
        axes.barh(place, width, height=0.34, color=colour, alpha=0.75, linewidth=0)
        axes.scatter(
            row.launch_medians_ms,
            [place + _BELOW] * row.launches,
            s=12,
            facecolors="none",
            edgecolors=_INK,
            linewidths=0.8,
            zorder=3,
        )
        if row.low_ms is not None and row.high_ms is not None:
            axes.plot([row.low_ms, row.high_ms], [place - _BELOW] * 2, color=_INK, linewidth=1.6)
        axes.text(0, place - 0.27, _label(row), color=_INK, va="bottom", ha="left")
        axes.text(
            1,
            place - 0.27,
            f"{milliseconds(width)} ms",
            color=_INK,
            va="bottom",
            ha="right",
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xlim(0, reach * 1.02)
    axes.set_ylim(len(rows) - 0.6, -0.8)
    axes.set_yticks([])
    axes.set_xlabel("median latency, ms (lower is better)", color=_MUTED)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_MUTED, alpha=0.25, linewidth=0.6)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)


def _label(row: Row) -> str:
    name = printable(row.artifact)
    if len(name) > _LABEL_MOST:
        name = f"{name[: _LABEL_MOST // 2]}…{name[-_LABEL_MOST // 2 :]}"
    return f"{name}, {threads(row)}"


def _description(rows: Sequence[Row]) -> str:
    return "; ".join(f"{_label(row)}: {milliseconds(row.median_ms)} ms" for row in rows)


def _inline(svg: str, title: str, description: str) -> str:
    """Return matplotlib's document as an element: no prologue, named colours, a title."""
    svg = svg[svg.index("<svg") :].strip()
    for colour, style in _STYLES.items():
        svg = svg.replace(colour, style)
    # The page chooses the font; matplotlib names those of its own machine.
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[0-9.]+pt"', "", head)
    named = 'role="img" aria-labelledby="plot-title plot-description"'
    texts = (
        f'<title id="plot-title">{escape(title)}</title>'
        f'<desc id="plot-description">{escape(description)}</desc>'
    )
    return f"{head} {named}>{texts}{rest}\n"
