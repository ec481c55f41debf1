"""A table of text, and how it is written for a terminal, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from coronet_deploy.report import figures

TERMINAL_WIDTH = 80


@dataclass(frozen=True)
class Grid:
    """Heads and lines of cells; the first `words` columns are words, the others figures."""

    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    title: str = ""
    words: int = 1


def print_grids(grids: Sequence[Grid], file: IO[str], notes: Sequence[str] = ()) -> None:
    """Print `grids` and `notes` to `file`, 80 columns wide; the words give way to the figures."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, width=TERMINAL_WIDTH, highlight=False)
    for grid in grids:
        if grid.title:
            console.print(Text(figures.printable(grid.title)))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(grid.heads):
            # Text, not str: a name in [brackets] is a name, not markup.
            justify = "left" if number < grid.words else "right"
            table.add_column(Text(head), justify=justify, overflow="fold")  # type: ignore[arg-type] # a str to mypy
        for line in grid.lines:
            table.add_row(*(Text(figures.printable(cell)) for cell in line))
        console.print(table)
    for text in notes:
        console.print(Text(figures.printable(text)))


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
    """Return `grid` as CSV (RFC 4180) with a head line."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(grid.heads)
    writer.writerows(grid.lines)
    return out.getvalue()


def escaped(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, inside a table cell."""
    plain = figures.printable(text)
    for character in "\\`*_[]<>|#":
        plain = plain.replace(character, f"\\{character}")
    return plain
