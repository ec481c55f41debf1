"""Tables for a paper: LaTeX with booktabs, any name in it shown as it is."""

from __future__ import annotations

from collections.abc import Sequence

from coronet_deploy.report import figures
from coronet_deploy.report.grid import Grid

_HEAD = "% needs \\usepackage{booktabs}"
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


def latex(grids: Sequence[Grid], notes: Sequence[str] = ()) -> str:
    r"""Return `grids` as `table` floats for a document to \input, with `notes` below the last."""
    lines = [_HEAD]
    for number, grid in enumerate(grids):
        columns = "l" * grid.words + "r" * (len(grid.heads) - grid.words)
        lines += [r"\begin{table}", r"  \centering"]
        if grid.title:
            lines.append(f"  \\caption{{{latex_escaped(grid.title)}}}")
        lines += [f"  \\begin{{tabular}}{{{columns}}}", r"    \toprule", _line(grid.heads)]
        lines.append(r"    \midrule")
        lines += [_line(line) for line in grid.lines]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        if number == len(grids) - 1 and notes:
            lines.append(r"  \par\footnotesize")
            lines += [f"  {latex_escaped(note)}\\par" for note in notes]
        lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def latex_escaped(text: str) -> str:
    """Return `text` so that LaTeX sets it as it is; letters that its fonts lack as [U+4E2D]."""
    return "".join(_escaped(character) for character in figures.printable(text))


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() or _FIRST_LETTER <= ord(character) <= _LAST_LETTER:
        return character
    return f"[U+{ord(character):04X}]"


def _line(cells: Sequence[str]) -> str:
    r"""Return a line of a table.

    It starts with an empty group: `\\` and booktabs' rules before it take a `*` or a `[` that they
    find next for their own.
    """
    return "    {}" + " & ".join(latex_escaped(cell) for cell in cells) + r" \\"
