"""What tells the rows of several runs apart: the target, the run, and whether it is emulated.

Rows of one run need no more than their targets; a run is named only where another measured the
same, and emulated timings are called so wherever they stand beside another run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coronet_deploy.report.figures import minute, printable
from coronet_deploy.report.lines import Line
from coronet_deploy.report.plots import short
from coronet_deploy.vocabulary import Target

_ID_MOST = 16
_MINUTE = len("2026-01-02 03:04 UTC")

Key = tuple[str, Target]
"""A run's id, and a target."""


@dataclass(frozen=True)
class Series:
    """The rows that share a colour, and a name in the tables.

    `run` is the run's name (see `run_names`), empty where no other run measured the same.
    """

    target: Target
    run: str = ""
    emulated: bool = False

    @property
    def suffix(self) -> str:
        """What follows the target's name: ", 2026-01-02 (emulated)", or nothing."""
        run = f", {self.run}" if self.run else ""
        return f"{run} (emulated)" if self.emulated else run


def key_of(line: Line) -> Key:
    """Return what `series_of` knows a line by."""
    return line.row.run, line.row.target


def series_of(lines: Sequence[Line]) -> dict[Key, Series]:
    """Return the series of each run's targets, in the order of `lines`."""
    runs = run_names((line.row.run, line.created) for line in lines)
    again = measured_again(lines)
    return {
        key_of(line): Series(
            line.row.target,
            runs[line.row.run] if (line.row.target, line.emulated) in again else "",
            line.emulated and len(runs) > 1,
        )
        for line in lines
    }


def measured_again(lines: Sequence[Line]) -> set[tuple[Target, bool]]:
    """Return the targets, and whether emulated, on which two runs measured one artifact."""
    runs: dict[tuple[str, Target, bool], set[str]] = {}
    for line in lines:
        row = (line.row.artifact, line.row.target, line.emulated)
        runs.setdefault(row, set()).add(line.row.run)
    return {(target, emulated) for (_, target, emulated), ids in runs.items() if len(ids) > 1}


def run_names(runs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a short name for each run, by its id, from ids and when they were created.

    The day where that tells them apart, else the minute ("2026-01-02 03:04 UTC"), else the id's
    start and end, else a number in the order given.
    """
    created = {one: minute(made) for one, made in runs}
    for names in (
        {one: made[:10] for one, made in created.items()},
        {one: made[:_MINUTE] for one, made in created.items()},
        {one: short(one, _ID_MOST) for one in created},
    ):
        shown = {one: printable(name) for one, name in names.items()}
        if all(shown.values()) and len(set(shown.values())) == len(shown):
            return shown
    return {one: f"run {number}" for number, one in enumerate(created, 1)}
