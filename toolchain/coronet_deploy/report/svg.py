"""Plots as SVG that stands inside a page: text stays text, and colours are the page's.

Ink is `currentColor`, the other colours are CSS variables with a fallback that reads on light and
on dark. The same figures give the same bytes, and several plots share a page without sharing an
identifier.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Literal

from coronet_deploy.drawing import matplotlib_style
from coronet_deploy.errors import missing_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib draws with, each standing for what the page's style decides.
INK = "#010203"
MUTED = "#020304"
COLOURS = ("#030405", "#040506", "#050607", "#070809", "#08090a")
PAPER = "#060708"
_STYLES = {
    INK: "currentColor",
    MUTED: "var(--plot-muted, #7d8590)",
    COLOURS[0]: "var(--plot-1, #4f8a8b)",
    COLOURS[1]: "var(--plot-2, #b08968)",
    COLOURS[2]: "var(--plot-3, #8a7fb5)",
    COLOURS[3]: "var(--plot-4, #b0607a)",
    COLOURS[4]: "var(--plot-5, #7d8f3f)",
    PAPER: "var(--paper, none)",
}
# Inches at 72 units an inch, which makes matplotlib's points the SVG's own units.
WIDTH = 5.2


def draw_svg(
    draw: Callable[[Figure], None], height: float, *, key: str, title: str, description: str
) -> str:
    """Return an `<svg>` element of what `draw` draws on a figure `height` inches high.

    `key` makes its identifiers the page's only ones; `title` and `description` are for screen
    readers.

    Raises:
        EnvironmentProblem: matplotlib is not installed.

    """
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"coronet-deploy {key}",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,
    }
    out = io.StringIO()
    with _style(settings):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height))
        draw(figure)
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():
            # Text stays text: the reader's fonts draw it, not matplotlib's.
            warnings.filterwarnings("ignore", r"Glyph .* missing from")
            figure.savefig(out, format="svg", transparent=True, metadata=empty)
    return _inline(out.getvalue(), key, title, description)


@contextlib.contextmanager
def _style(settings: Mapping[str, object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(matplotlib_style(settings))
        except ImportError as error:
            raise missing_package("matplotlib", "report") from error
        yield


def calm(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Leave of the axes what is needed to read it: no box, a faint grid."""
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=MUTED, alpha=0.25, linewidth=0.6)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, labelsize=9, length=0)


def _inline(svg: str, key: str, title: str, description: str) -> str:
    """Return matplotlib's document as an element: no prologue, named colours, a title."""
    svg = svg[svg.index("<svg") :].strip()
    for colour, style in _STYLES.items():
        svg = svg.replace(colour, style)
    # The page chooses the font; matplotlib names those of its own machine.
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<[^>]* id=")', rf"\g<1>{key}-", svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{key}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[0-9.]+pt"', "", head)
    named = f'role="img" aria-labelledby="{key}-title {key}-description"'
    texts = (
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-description">{escape(description)}</desc>'
    )
    return f"{head} {named}>{texts}{rest}\n"
