"""Tables for a paper: LaTeX with booktabs, any name in it shown as it is.

A table that fits a text line stands in a float as it is. One that does not is set small, its names
and heads broken, on as much of the line as it takes; figures are never broken, so that one with
more columns of them than a line holds becomes several. One that is too tall for a float breaks
over pages (longtable). Widths are estimated from Computer Modern's, which is wide as fonts go.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from coronet_deploy.report import figures
from coronet_deploy.report.grid import Grid

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"\textasciigrave{}",
    # Two hyphens in a row would become a dash.
    "-": r"{-}",
    "\u00d7": r"\texttimes{}",
    "±": r"\textpm{}",
    "µ": r"\textmu{}",
    **{character: f"\\{character}" for character in "{}$&#_%"},
}
# What every LaTeX engine can set in the fonts it starts with: ASCII and Latin-1's letters.
_FIRST_LETTER, _LAST_LETTER = 0xC0, 0xFF

# A text line in quads of its own font: article's at 10 to 12 points, in the usual size and small.
_LINE, _SMALL_LINE = 32.0, 38.0
_GAP, _SMALL_GAP = 1.2, 0.7  # between columns, in the same
_WORD_LEAST, _HEAD_MOST = 5.0, 5.5  # what names keep, and what the heads of figures may take
_LINES_MOST = 36  # of a float, which must fit a page
_NOTE_LETTERS = 90  # of a line of notes
_WORD_MOST = 16.0  # quads of a word in running text that does not break
_SIGNS = re.compile(r"(?<=[_/.,:;=-])")


@dataclass(frozen=True)
class _Plan:
    """How a table is set: the width of each column in quads, or as wide as it is (None)."""

    grid: Grid
    widths: tuple[float, ...] | None

    @property
    def columns(self) -> str:
        """The argument of tabular; names are set ragged, for few letters fill no line."""
        sides = ["left" if n >= self.grid.words else "right" for n in range(len(self.grid.heads))]
        if self.widths is None:
            return "".join("l" if side == "right" else "r" for side in sides)
        return "".join(
            f">{{\\ragged{side}\\hyphenpenalty=10000\\arraybackslash\\hspace{{0pt}}}}"
            f"p{{{width / _SMALL_LINE:.3f}\\linewidth}}"
            for side, width in zip(sides, self.widths, strict=True)
        )

    @property
    def lines(self) -> int:
        """About how many lines it takes."""
        if self.widths is None:
            return len(self.grid.lines)
        return sum(
            max(
                math.ceil(_quads(cell) / width)
                for cell, width in zip(line, self.widths, strict=True)
            )
            for line in self.grid.lines
        )


def latex(grids: Sequence[Grid], notes: Sequence[str] = ()) -> str:
    r"""Return `grids` as tables for a document to \input, with `notes` below the last.

    The first line is a comment that names the packages they need.
    """
    plans = [plan for grid in grids for plan in _plans(grid)]
    body: list[str] = []
    packages = {"booktabs"}
    for number, plan in enumerate(plans):
        told = notes if number == len(plans) - 1 else ()
        long = plan.lines + sum(-(-len(note) // _NOTE_LETTERS) for note in told) > _LINES_MOST
        body += _long(plan, told) if long else _float(plan, told)
        packages |= ({"longtable"} if long else set()) | ({"array"} if plan.widths else set())
    head = [f"% needs \\usepackage{{{','.join(sorted(packages))}}}"]
    if "longtable" in packages:
        head.append(
            "% longtable stands in one column only: \\onecolumn before this, \\twocolumn after"
        )
    return "\n".join([*head, *body]) + "\n"


def latex_escaped(text: str) -> str:
    """Return `text` so that LaTeX sets it as it is; letters that its fonts lack as [U+4E2D]."""
    return "".join(_escaped(character) for character in figures.printable(text))


def _plans(grid: Grid) -> Iterator[_Plan]:
    """Yield how `grid` is set: in one table, or with the same keys in each of several."""
    columns = [[head, *cells] for head, *cells in zip(grid.heads, *grid.lines, strict=True)]
    natural = [max(map(_quads, column)) for column in columns]
    if sum(natural) + _GAP * len(natural) <= _LINE:
        yield _Plan(grid, None)
        return
    needed = [
        max([min(max(map(_quads, head.split()), default=0), _HEAD_MOST), *map(_quads, cells)])
        for head, *cells in columns
    ]
    words, keys = natural[: grid.words], grid.keys or grid.words
    least = sum(min(width, _WORD_LEAST) for width in words) + sum(needed[grid.words : keys])
    parts: list[list[int]] = [[]]
    for place in range(keys, len(columns)):
        beside = [*parts[-1], place]
        gaps = _SMALL_GAP * (keys + len(beside))
        if parts[-1] and least + sum(needed[n] for n in beside) + gaps > _SMALL_LINE:
            parts.append([])
        parts[-1].append(place)
    for number, part in enumerate(parts, 1):
        keep = [*range(keys), *part]
        figures_ = [needed[n] for n in keep[grid.words :]]
        room = _SMALL_LINE - _SMALL_GAP * len(keep) - sum(figures_)
        told = f"{grid.title} ({number} of {len(parts)})" if len(parts) > 1 else grid.title
        yield _Plan(_of_columns(grid, keep, told.strip()), (*_shared(words, room), *figures_))


def _of_columns(grid: Grid, keep: Sequence[int], title: str) -> Grid:
    return replace(
        grid,
        heads=tuple(grid.heads[n] for n in keep),
        lines=tuple(tuple(line[n] for n in keep) for line in grid.lines),
        title=title,
    )


def _shared(wanted: Sequence[float], room: float) -> list[float]:
    """Return what of `room` each column of names gets: the short ones what they want."""
    given = [0.0] * len(wanted)
    by_width = sorted(range(len(wanted)), key=wanted.__getitem__)
    for rank, place in enumerate(by_width):
        given[place] = max(1.0, min(wanted[place], room / (len(by_width) - rank)))
        room -= given[place]
    return given


def _float(plan: _Plan, notes: Sequence[str]) -> list[str]:
    lines = [r"\begin{table}", r"  \centering", *_small(plan)]
    if plan.grid.title:
        lines.append(f"  \\caption{{{_breakable(plan.grid.title)}}}")
    lines += [f"  \\begin{{tabular}}{{{plan.columns}}}", *_head(plan), *_body(plan)]
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if notes:
        lines.append(r"  \par\footnotesize")
        lines += [f"  {_breakable(note)}\\par" for note in notes]
    return [*lines, r"\end{table}"]


def _long(plan: _Plan, notes: Sequence[str]) -> list[str]:
    """Return a table that breaks over pages, with its heads on each."""
    lines = [r"\begingroup", *_small(plan), f"  \\begin{{longtable}}{{{plan.columns}}}"]
    if plan.grid.title:
        lines.append(f"    \\caption{{{_breakable(plan.grid.title)}}}\\\\")
    lines += [*_head(plan), r"    \endfirsthead", *_head(plan), r"    \endhead"]
    lines += [r"    \bottomrule", r"    \endfoot", *_body(plan), r"  \end{longtable}"]
    if notes:
        lines.append(r"  \footnotesize\raggedright")
        lines += [f"  \\noindent {_breakable(note)}\\par" for note in notes]
    return [*lines, r"\endgroup"]


def _small(plan: _Plan) -> list[str]:
    if plan.widths is None:
        return []
    return [r"  \footnotesize", f"  \\setlength{{\\tabcolsep}}{{{_SMALL_GAP / 2:g}em}}"]


def _head(plan: _Plan) -> list[str]:
    return [r"    \toprule", _line(plan, plan.grid.heads), r"    \midrule"]


def _body(plan: _Plan) -> list[str]:
    return [_line(plan, cells) for cells in plan.grid.lines]


def _line(plan: _Plan, cells: Sequence[str]) -> str:
    r"""Return a line of a table.

    It starts with an empty group: `\\` and booktabs' rules before it take a `*` or a `[` that they
    find next for their own.
    """
    rooms = plan.widths or [math.inf] * len(cells)
    written = (_breakable(cell, room) for cell, room in zip(cells, rooms, strict=True))
    return "    {}" + " & ".join(written) + r" \\"


def _breakable(text: str, room: float = _WORD_MOST) -> str:
    """Return `text` as `latex_escaped` does; words wider than `room` may break."""
    words = figures.printable(text).split(" ")
    return " ".join(
        _broken(one, room) if _quads(one) > room else latex_escaped(one) for one in words
    )


def _broken(word: str, room: float) -> str:
    """Return a word that breaks behind its signs, or anywhere in a part that is wider still."""
    parts = [part for part in _SIGNS.split(word) if part]
    return r"\allowbreak{}".join(
        (r"\allowbreak{}" if _quads(part) > room else "").join(map(_escaped, part))
        for part in parts
    )


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() or _FIRST_LETTER <= ord(character) <= _LAST_LETTER:
        return character
    return f"[U+{ord(character):04X}]"


def _quads(text: str) -> float:
    """Return about how wide `text` is set, in quads."""
    return sum(map(_quad, figures.printable(text)))


def _quad(character: str) -> float:
    if len(_escaped(character)) > len(r"\textasciicircum{}") or _escaped(character)[0] == "[":
        return 0.5 * len(_escaped(character))
    if character in "mwMW%@&\\<>":
        return 0.9
    if character.isupper():
        return 0.75
    return 0.3 if character in "iljt.,:;'| ()" else 0.54
