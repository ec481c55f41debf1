"""Two plots of rows as points: latency against multiply-adds, and quality against latency.

A colour stands for a series (see `report.series`): a target, of one run where several measured the
same. Where there are more series than colours, a number beside each mark stands for it too. A shape
stands for a type of numbers, a hollow mark for ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from coronet_deploy.report.figures import count, milliseconds, printable
from coronet_deploy.report.lines import Line
from coronet_deploy.report.plots import latency_label, short
from coronet_deploy.report.series import Key, Series, key_of, series_of
from coronet_deploy.report.svg import COLOURS, INK, MUTED, PAPER, WIDTH, calm, draw_svg
from coronet_deploy.report.tradeoffs import Choice, Metric, Work
from coronet_deploy.vocabulary import DType, Runtime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHAPES = {
    DType.FP32: "o",
    DType.FP16: "s",
    DType.INT8: "^",
    DType.INT8_FULL: "v",
    DType.INT16X8: "D",
    DType.A16W8: "p",
    DType.INT8_DYNAMIC: ">",
    DType.INT8_WEIGHTS: "P",
}
_OTHER_SHAPE = "X"
_HEIGHT = 3.4
_LEFT, _RIGHT = 0.1, 0.97  # of the width, where axes begin unless their ticks are long, and end
_DIGIT = 5.8  # points of a tick's digit, as wide as browsers draw it
_TICKS_LEAST = 3
_ROUND = (
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)
_ENTRY = 0.2  # of the legend, inches
# Of the legend's width: all of it, a mark, a letter as browsers draw it, and what parts entries.
_FULL, _MARK, _LETTER, _APART = 100, 3, 1.75, 6
_BESIDE, _AROUND = 8.5, 8  # points from a mark to its number, and how many fit around it
_NAME_MOST = 16
_TARGET_MOST = 42
_SERIES_MOST = 54  # letters of a line of the legend


def work_svg(works: Sequence[Work], title: str, key: str) -> str:
    """Return latency against multiply-adds, both logarithmic, with lines of equal time a MAC."""
    series = series_of([work.line for work in works])
    colours, numbers = _colours(series), _numbers(series)

    def marks(axes: Axes) -> None:
        points = [(work.macs / 1e9, work.median_ms, work.line) for work in works]
        _mark(axes, points, colours, numbers)
        for work in works:
            if work.ideal_ms and work.twin_macs and work.macs < work.twin_macs:
                twin_ms = work.ideal_ms * work.twin_macs / work.macs
                axes.plot(
                    [work.macs / 1e9, work.twin_macs / 1e9],
                    [work.ideal_ms, twin_ms],
                    color=colours[key_of(work.line)],
                    linewidth=1,
                    linestyle=(0, (4, 3)),
                    zorder=1,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        _ticks(axes, "x", [work.macs / 1e9 for work in works])
        ideals = [work.ideal_ms for work in works if work.ideal_ms]
        _ticks(axes, "y", [*(work.median_ms for work in works), *ideals])
        axes.set_xlabel("real multiply-adds of one picture, G", color=MUTED)
        label = latency_label(work.line.row for work in works)
        axes.set_title(label, color=MUTED, fontsize=10, loc="left")

    described = "; ".join(
        f"{_told(work.line, series)}: {count(work.macs)} multiply-adds, "
        f"{milliseconds(work.median_ms)} ms"
        + ("" if work.ideal_ms is None else f", ideal {milliseconds(work.ideal_ms)} ms")
        for work in works
    )
    more = ["dashed: in proportion, from the unpruned twin in the same numbers"]
    has_ideal = any(work.ideal_ms for work in works)
    return _plot(
        marks, [work.line for work in works], more if has_ideal else [], key, title, described
    )


def quality_svg(choices: Sequence[Choice], metric: Metric, title: str, key: str) -> str:
    """Return quality against latency; a line joins the best of each target of a run."""
    series = series_of([choice.line for choice in choices])
    colours, numbers = _colours(series), _numbers(series)

    def marks(axes: Axes) -> None:
        for row, colour in colours.items():
            best = sorted(
                (choice.median_ms, choice.quality)
                for choice in choices
                if choice.best and key_of(choice.line) == row
            )
            axes.step(
                [time for time, _ in best],
                [quality for _, quality in best],
                where="post",
                color=colour,
                linewidth=1,
                zorder=1,
            )
        points = [(choice.median_ms, choice.quality, choice.line) for choice in choices]
        _mark(axes, points, colours, numbers)
        axes.set_xscale("log")
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        axes.margins(0.08)
        _ticks(axes, "x", [choice.median_ms for choice in choices])
        label = latency_label(choice.line.row for choice in choices)
        axes.set_xlabel(f"{label} (left is better)", color=MUTED)
        way = "up" if metric.higher_is_better else "down"
        axes.set_title(
            f"{printable(metric.name)} ({way} is better)", color=MUTED, fontsize=10, loc="left"
        )

    described = "; ".join(
        f"{_told(choice.line, series)}: {milliseconds(choice.median_ms)} ms, {choice.quality:.4g}"
        + (", best of its target" if choice.best else "")
        for choice in choices
    )
    several = len({choice.line.row.run for choice in choices}) > 1
    its = "its target and run" if several else "its target"
    more = [f"line: no other of {its} is faster and better"]
    return _plot(marks, [choice.line for choice in choices], more, key, title, described)


def _plot(
    marks: Callable[[Axes], None],
    lines: Sequence[Line],
    more: Sequence[str],
    key: str,
    title: str,
    described: str,
) -> str:
    series = series_of(lines)
    colours, numbers = _colours(series), _numbers(series)
    named = {one: (colours[key], numbers[key]) for key, one in series.items()}
    shapes = _shape_rows(lines)
    entries = len(named) + len(shapes) + len(more)
    height = _HEIGHT + _ENTRY * entries

    def draw(figure: Figure) -> None:
        bottom = (_ENTRY * entries + 0.55) / height
        axes = figure.add_axes((_LEFT, bottom, _RIGHT - _LEFT, 1 - bottom - 0.3 / height))
        marks(axes)
        calm(axes)
        ticks = axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))
        left = max(_LEFT, (_DIGIT * max(map(len, ticks), default=0) + 5) / (72 * WIDTH))
        axes.set_position((left, bottom, _RIGHT - left, 1 - bottom - 0.3 / height))
        legend = figure.add_axes((_LEFT, 0, _RIGHT - _LEFT, _ENTRY * entries / height))
        legend.set_axis_off()
        legend.set_xlim(0, _FULL)
        legend.set_ylim(entries, 0)
        for place, (one, (colour, number)) in enumerate(named.items()):
            told = f"{number}: {_name(one)}" if number else _name(one)
            legend.plot([1], [place + 0.5], "o", color=colour, markersize=6)
            legend.text(4, place + 0.5, told, color=INK, va="center", fontsize=9)
        for place, row in enumerate(shapes, len(named)):
            for x, shape, name in row:
                if shape:
                    legend.plot([x], [place + 0.5], shape, color=MUTED, markersize=6)
                start = x + _MARK if shape else x - 1
                legend.text(start, place + 0.5, name, color=INK, va="center", fontsize=9)
        for place, text in enumerate(more, len(named) + len(shapes)):
            legend.text(0, place + 0.5, text, color=MUTED, va="center", fontsize=9)

    return draw_svg(draw, height, key=key, title=title, description=described)


def _shape_rows(lines: Sequence[Line]) -> list[list[tuple[float, str | None, str]]]:
    """Return what each shape stands for, in rows of the legend: place, shape, name."""
    told = {line.dtype or "other" for line in lines}
    entries: list[tuple[str | None, str]] = [
        (shape, dtype.value) for dtype, shape in _SHAPES.items() if dtype in told
    ]
    if others := sorted(told - set(_SHAPES)):
        entries.append((_OTHER_SHAPE, short(", ".join(others), _NAME_MOST)))
    if len({line.runtime for line in lines}) > 1:
        entries.append((None, "hollow: ONNX"))
    rows: list[list[tuple[float, str | None, str]]] = [[]]
    x = 1.0
    for shape, name in entries:
        width = _MARK + _LETTER * len(name)
        if rows[-1] and x + width > _FULL:
            rows.append([])
            x = 1.0
        rows[-1].append((x, shape, name))
        x += width + _APART
    return rows


def _shape(dtype: str | None) -> str:
    return _SHAPES[DType(dtype)] if dtype in set(DType) else _OTHER_SHAPE


def _mark(
    axes: Axes,
    points: Sequence[tuple[float, float, Line]],
    colours: Mapping[Key, str],
    numbers: Mapping[Key, str],
) -> None:
    """Draw rows' points (x, y), with the number of a row's series beside it if there is one."""
    alike: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for x, y, line in points:
        colour = colours[key_of(line)]
        face = PAPER if line.runtime == Runtime.ONNX else colour
        alike.setdefault((_shape(line.dtype), colour, face), []).append((x, y))
    # All of a kind at once: an artist a row would make a page of many rows slow.
    for (shape, colour, face), places in alike.items():
        axes.plot(
            *zip(*places, strict=True),
            shape,
            markersize=7,
            markeredgecolor=colour,
            markeredgewidth=1.5,
            markerfacecolor=face,
            zorder=3,
        )
    for x, y, line in points:
        if number := numbers[key_of(line)]:
            axes.annotate(
                number,
                (x, y),
                xytext=_beside(int(number)),
                textcoords="offset points",
                ha="center",
                va="center",
                color=INK,
                fontsize=7.5,
            )


def _beside(number: int) -> tuple[float, float]:
    """Return the way from a mark to its series' number, in points: each around it elsewhere."""
    angle = math.tau * (number - 0.5) / _AROUND
    return _BESIDE * math.cos(angle), _BESIDE * math.sin(angle)


def _ticks(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Mark logarithmic axis `name` at round numbers, three at least, and say them plainly.

    Values too near each other for three are shown amid a tenth more on both sides.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    low, high = min(values) / 1.1, max(values) * 1.1
    first, last = axis.get_view_interval()
    shown = _round_ticks(max(low, first), min(high, last))
    if len(shown) < _TICKS_LEAST:
        axes.set(**{f"{name}lim": (low, high)})
        shown = _even_ticks(low, high)
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _round_ticks(low: float, high: float) -> list[float]:
    """Return the roundest numbers from `low` to `high` that are three, or the finest there are."""
    steps = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    shown: list[float] = []
    for digits in _ROUND:
        ticks = [digit * 10.0**power for power in steps for digit in digits]
        shown = [tick for tick in ticks if low <= tick <= high]
        if len(shown) >= _TICKS_LEAST:
            break
    return shown


def _even_ticks(low: float, high: float) -> list[float]:
    """Return evenly spaced round numbers from `low` to `high`, three at least.

    Where `high` is a fifth above `low` they have three significant digits at most.
    """
    power = math.floor(math.log10(high - low))
    steps = [digit * 10.0**exponent for exponent in (power, power - 1) for digit in (5, 2, 1)]
    # Three multiples of a third of the range lie in it, and the fifth step is no more than that.
    step = next((one for one in steps if _multiples(one, low, high) >= _TICKS_LEAST), steps[-1])
    first = math.ceil(low / step)
    return [step * (first + place) for place in range(_multiples(step, low, high))]


def _multiples(step: float, low: float, high: float) -> int:
    """Count the multiples of `step` from `low` to `high`."""
    return math.floor(high / step) - math.ceil(low / step) + 1


def _colours(series: Mapping[Key, Series]) -> dict[Key, str]:
    """Return each series' colour, by the keys of its rows."""
    every = list(dict.fromkeys(series.values()))
    return {key: COLOURS[every.index(one) % len(COLOURS)] for key, one in series.items()}


def _numbers(series: Mapping[Key, Series]) -> dict[Key, str]:
    """Return each series' number, by the keys of its rows; none where its colour tells enough."""
    every = list(dict.fromkeys(series.values()))
    several = len(every) > len(COLOURS)
    return {key: str(every.index(one) + 1) if several else "" for key, one in series.items()}


def _name(series: Series) -> str:
    """Return a series' name; its target gives way to what tells it from others."""
    target, more = series.target, series.suffix
    plural = "" if target.threads == 1 else "s"
    most = min(_TARGET_MOST, _SERIES_MOST - len(more))
    return short(f"{target.device} {target.backend}, {target.threads} thread{plural}", most) + more


def _told(line: Line, series: Mapping[Key, Series]) -> str:
    return f"{short(line.row.artifact)} on {_name(series[key_of(line)])}"
