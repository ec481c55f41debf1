"""A table of text, and how it is written for a terminal, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import IO, TYPE_CHECKING

from coronet_deploy.report import figures

if TYPE_CHECKING:
    from rich.console import Console

TERMINAL_WIDTH = 80
"""Columns of what is no terminal: a pipe, a file."""

_LEAST = 40
_NAME_LEAST, _HEAD_LEAST = 8, 7  # columns that names, and heads of figures, keep
_WORD_MOST = 10  # letters of a word that no column breaks, as of "(emulated)"
_UNBOUNDED = 10_000
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"-|[+-]?[0-9.]+(e[+-]?[0-9]+)?")


@dataclass(frozen=True)
class Grid:
    """Heads and lines of cells; the first `words` columns are words, the others figures.

    The first `keys` columns (0: the words) tell the lines apart, and stay beside any other.
    """

    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    title: str = ""
    words: int = 1
    keys: int = 0


def print_grids(
    grids: Sequence[Grid], file: IO[str], notes: Sequence[str] = (), width: int | None = None
) -> None:
    """Print `grids` and `notes` to `file`, `width` columns wide (default: see `width_of`)."""
    console = console_of(file, width)
    for grid in grids:
        if grid.title:
            print_text(console, grid.title)
        print_table(console, grid.heads, grid.lines, grid.words)
    for text in notes:
        print_text(console, text)


def width_of(file: IO[str]) -> int:
    """Return how many columns `file` has: its terminal's, or 80 where it is none."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns if file.isatty() else 0
    except (OSError, ValueError):  # what is no file, or a terminal that does not tell
        columns = 0
    return max(columns, _LEAST) if columns else TERMINAL_WIDTH


def console_of(file: IO[str], width: int | None = None) -> Console:
    """Return what prints to `file`, `width` columns wide (default: see `width_of`)."""
    from rich.console import Console

    return Console(file=file, width=width or width_of(file), highlight=False)


def print_text(console: Console, text: str) -> None:
    """Print `text`, which may come from a file of anybody's, as it is."""
    from rich.text import Text

    console.print(Text(figures.printable(text)))


def print_table(
    console: Console,
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    words: int,
    *,
    last_left: bool = False,
) -> None:
    """Print a table that fits: spaces and heads give way first, then the first `words` columns.

    Figures are never broken: where even they do not fit, the table is wider than the console.
    `last_left` aligns the last column, which gives way no more than figures do, to the left.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def made(told: Sequence[str], gap: int, least_of: Sequence[int]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, gap))
        for number, head in enumerate(told):
            left = number < words or (last_left and number == len(heads) - 1)
            # Text, not str: a name in [brackets] is a name, not markup.
            table.add_column(
                Text(head),
                justify="left" if left else "right",
                overflow="fold",
                no_wrap=number >= words,
                min_width=least_of[number] if number < words else None,
            )
        for cells in body:
            table.add_row(*cells)
        return table

    body = [[Text(figures.printable(cell)) for cell in line] for line in lines]
    plain = [figures.printable(head) for head in heads]
    split = [head.replace(" ", "\n").replace("\n%", " %") for head in plain]
    sizes = [max([_HEAD_LEAST, *(line[n].cell_len for line in body)]) for n in range(len(heads))]
    folded = split[:words]
    for head, size in zip(split[words:], sizes[words:], strict=True):
        folded.append("\n".join(part for word in head.split("\n") for part in wrap(word, size)))
    held = [
        max(map(len, [*split[n].split("\n"), *(line[n].plain for line in body)]))
        for n in range(words)
    ]
    whole = [_least_width([plain[n], *(line[n].plain for line in body)]) for n in range(words)]
    parts = [min(size, _NAME_LEAST) for size in held]
    unbounded = console.options.update(width=_UNBOUNDED)
    attempts = [(plain, 1, held), (plain, 0, held), (split, 0, whole), (folded, 0, whole)]
    # In parts if that makes it fit; else it is wider than the console, and words are whole.
    for told, gap, least_of in [*attempts, (folded, 0, parts), attempts[-1]]:
        table = made(told, gap, least_of)
        given = sum(max(0, size - kept) for size, kept in zip(held, least_of, strict=True))
        least = console.measure(table, options=unbounded).maximum - given
        if least <= console.width:
            break
    console_of(console.file, max(console.width, least)).print(table)


def _least_width(cells: Iterable[str]) -> int:
    """Return the columns that a column of words keeps: its short words whole, of names a part.

    Where that leaves no room, short words give way as well.
    """
    sizes = [len(word) for cell in cells for word in cell.split()]
    return max((size if size <= _WORD_MOST else _NAME_LEAST for size in sizes), default=0)


def grids_markdown(grids: Sequence[Grid], notes: Sequence[str] = ()) -> str:
    """Return `grids` and `notes` as GitHub-flavoured Markdown, a line feed at the end."""
    lines: list[str] = []
    for grid in grids:
        if grid.title:
            lines += [f"**{escaped(grid.title)}**", ""]
        figures_count = len(grid.heads) - grid.words
        lines.append("| " + " | ".join(escaped(head) for head in grid.heads) + " |")
        lines.append("|" + " --- |" * grid.words + " ---: |" * figures_count)
        lines += ["| " + " | ".join(escaped(cell) for cell in line) + " |" for line in grid.lines]
        lines.append("")
    lines += [f"- {escaped(text)}" for text in notes]
    return "\n".join(lines).rstrip() + "\n"


def grid_csv(grid: Grid) -> str:
    """Return `grid` as CSV (RFC 4180) with a head line; see `inert` of its cells."""
    out = io.StringIO()
    csv.writer(out).writerows([inert(cell) for cell in line] for line in (grid.heads, *grid.lines))
    return out.getvalue()


def inert(cell: object) -> object:
    """Return a cell of CSV that no spreadsheet takes for a formula.

    A text that begins like one gets an apostrophe before it, by which spreadsheets know text; a
    number or a dash alone stays what it is.
    """
    if not isinstance(cell, str):
        return cell
    text = cell.encode(errors="replace").decode()  # of a file's name that is not UTF-8
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def escaped(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, inside a table cell."""
    plain = figures.printable(text)
    # The last three begin what GitHub takes for a formula, for struck out, and for a character.
    for character in "\\`*_[]<>|#$~&":
        plain = plain.replace(character, f"\\{character}")
    return plain
