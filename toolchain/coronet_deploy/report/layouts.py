"""Which table the lines of runs make: a line each, or a paper's chipsets against models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from coronet_deploy.report import figures
from coronet_deploy.report.grid import Grid
from coronet_deploy.report.lines import Line
from coronet_deploy.report.series import measured_again, run_names
from coronet_deploy.report.tables import shared_start
from coronet_deploy.vocabulary import DType

_File = tuple[str | float | None, ...]
_Column = tuple[str, Callable[[Line], str]]


class Layout(StrEnum):
    """Presets: `full` has a line for each row, `paper` a cell."""

    FULL = "full"
    PAPER = "paper"


def grids_of(layout: Layout, lines: Sequence[Line]) -> list[Grid]:
    """Return the tables of `lines`, newest run last, in `layout`."""
    return _paper(lines) if layout is Layout.PAPER else _full(lines)


def legend(layout: Layout, lines: Sequence[Line], baseline: str | None = None) -> list[str]:
    """Return, in sentences, what the tables' figures mean; `baseline` as of `lines.lines_of`."""
    said = ["Latency is the median of launch medians, in ms."]
    if layout is Layout.PAPER:
        if any(len({line.row.run for line in own}) > 1 for own in _paper_cells(lines).values()):
            said.append("Where several runs measured the same, the newest one's figure is shown.")
        said.append(
            "MACs are real multiply-adds; the papers count a transposed convolution higher."
        )
        return said
    said.append(
        "p90 is of all samples; spread is from the fastest to the slowest launch, of the median."
    )
    twins = {line.row.artifact: line.twin for line in lines if line.twin}
    said += [f"The unpruned twin of {name} is {twin}." for name, twin in twins.items()]
    if any(line.over_twin or line.over_fp32 or line.row.speedup for line in lines):
        said.append(
            "A speed-up is the other file's median over the row's own, on one target of one run, "
            "whose launches took turns: above 1x the row is the faster."
        )
    if baseline and any(line.row.speedup for line in lines):
        said.append(f"The base is {baseline}.")
    if any(line.nodes_taken is not None for line in lines):
        said.append("Taken: nodes of the graph that the back end took, of all.")
    if measured_again(lines) or _changed(lines):
        said += [f"Run {name} is {run}." for run, name in _runs(lines).items() if run != name]
    return said


def _full(lines: Sequence[Line]) -> list[Grid]:
    names = _artifact_names(lines)
    where = [*_run_column(lines), *_varying(lines)]
    targets = [tuple(cell(line) for _, cell in where) for line in lines]
    heads = ("Artifact", *(head for head, _ in where))
    words = 1 + sum(head in {"Run", "Device", "Back end"} for head, _ in where)
    own = [(names[line.row.artifact], *target) for line, target in zip(lines, targets, strict=True)]
    latency = [
        (
            *start,
            figures.milliseconds(line.row.median_ms) if line.row.launches else "failed",
            figures.milliseconds(line.row.p90_ms),
            figures.DASH if line.row.spread_percent is None else f"{line.row.spread_percent:.1f}",
            _launches(line),
        )
        for start, line in zip(own, lines, strict=True)
    ]
    gains = [
        (
            *start,
            figures.times(line.over_twin),
            figures.times(line.over_fp32),
            figures.times(line.row.speedup),
            line.delegated,
        )
        for start, line in zip(own, lines, strict=True)
    ]
    grids = [
        Grid(
            (*heads, "Median ms", "p90 ms", "Spread %", "Launches"),
            tuple(latency),
            _titled("Latency", names),
            words,
            len(heads),
        )
    ]
    gained = (*heads, "Over twin", "Over FP32", "Over base", "Taken")
    if used := [n for n in range(len(heads), len(gained)) if _any_known(gains, n)]:
        keep = [*range(len(heads)), *used]
        body = tuple(tuple(cells[n] for n in keep) for cells in gains)
        title = "Delegation" if used == [len(gained) - 1] else "Speed-up"
        grids.append(Grid(tuple(gained[n] for n in keep), body, title, words, len(heads)))
    return [*grids, _artifacts(lines, names)]


def _artifacts(lines: Sequence[Line], names: dict[str, str]) -> Grid:
    """Return a line for each file: what runs tell differently of one name is not the same file."""
    files: dict[_File, Line] = {}
    holders: dict[_File, dict[str, None]] = {}
    runs = _runs(lines)
    for line in lines:
        file = _file(line)
        held = files.setdefault(file, line)
        holders.setdefault(file, {})[runs[line.row.run]] = None
        # The worst picture on any device is the file's.
        if line.psnr_db is not None and (held.psnr_db is None or line.psnr_db < held.psnr_db):
            files[file] = line
    changed = _changed(lines)
    body = tuple(
        (
            name,
            *([", ".join(holders[file])] if changed else []),
            line.dtype or figures.DASH,
            figures.megabytes(line.row.bytes),
            figures.count(line.row.macs),
            figures.count(line.row.macs_published),
            figures.decibels(line.psnr_db),
        )
        for full, name in names.items()
        for file, line in files.items()
        if line.row.artifact == full
    )
    own = ("Artifact", "Run") if changed else ("Artifact",)
    heads = (*own, "Type", "MB", "MACs", "MACs (published)", "PSNR dB")
    return Grid(heads, body, "Artifacts", words=len(own) + 1)


def _file(line: Line) -> _File:
    """Return what tells a row's file from another of its name, as far as its run knows."""
    row = line.row
    return row.artifact, line.dtype, row.bytes, row.macs, row.macs_published, row.psnr_db


def _changed(lines: Sequence[Line]) -> bool:
    """Tell whether any name stands for another file in another run."""
    return len({_file(line) for line in lines}) > len({line.row.artifact for line in lines})


def _paper(lines: Sequence[Line]) -> list[Grid]:
    """Rows are chipset by dtype, columns models: the median of the newest run that has it.

    Sizes have a table of their own, a line for each type there is: as columns, the types of two
    runtimes would not fit a terminal.
    """
    # Back end and threads are columns only where there is more than one of them.
    extra = _paper_extra(lines)
    names = _models(lines)

    def column(line: Line) -> str:
        return names[line.row.run, line.row.artifact]

    newest = sorted(lines, key=lambda line: line.created)
    cells: dict[tuple[str, ...], dict[str, Line]] = {}
    for (row, model), own in _paper_cells(lines).items():
        cells.setdefault(row, {})[model] = own[-1]
    models = list(dict.fromkeys(column(line) for line in lines))
    devices = list(dict.fromkeys(line.device for line in lines))

    def place(row: tuple[str, ...]) -> tuple[int, tuple[int, str], str, int]:
        target = next(iter(cells[row].values())).row.target
        return devices.index(row[0]), _place(row[1]), target.backend, target.threads

    ordered = sorted(cells, key=place)
    body = tuple((*row, *(_cell(cells[row].get(model)) for model in models)) for row in ordered)
    start = shared_start(models)
    heads = ("Chipset", "Type", *(head for head, _ in extra))
    latency = Grid(
        (*heads, *(model.removeprefix(start) for model in models)),
        body,
        "Latency, ms" + (f"; models' names start with {start}" if start else ""),
        words=2 + sum(head == "Back end" for head, _ in extra),
        keys=len(heads),
    )
    costs = tuple(
        (
            model.removeprefix(start),
            figures.count(one.row.macs),
            figures.count(one.row.macs_published),
        )
        for model in models
        if (one := [line for line in newest if column(line) == model][-1])
    )
    cost = Grid(("Model", "MACs", "Published"), costs, "Cost")
    size: dict[str, dict[str, int | None]] = {}
    for line in newest:
        size.setdefault(line.dtype or figures.DASH, {})[column(line)] = line.row.bytes
    sizes = Grid(
        ("Type", *(model.removeprefix(start) for model in models)),
        tuple(
            (dtype, *(figures.megabytes(size[dtype].get(model)) for model in models))
            for dtype in sorted(size, key=_place)
        ),
        "Size, MB",
    )
    return [latency, cost, sizes]


def _paper_extra(lines: Sequence[Line]) -> list[_Column]:
    return [one for one in _varying(lines) if one[0] != "Device"]


def _paper_cells(lines: Sequence[Line]) -> dict[tuple[tuple[str, ...], str], list[Line]]:
    """Return the lines of each cell, by row and column, the newest run's last."""
    extra, names = _paper_extra(lines), _models(lines)
    cells: dict[tuple[tuple[str, ...], str], list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.created):
        row = (line.device, line.dtype or figures.DASH, *(cell(line) for _, cell in extra))
        cells.setdefault((row, names[line.row.run, line.row.artifact]), []).append(line)
    return cells


def _models(lines: Sequence[Line]) -> dict[tuple[str, str], str]:
    """Return each artifact's column, by its run and name: its model, and as much as tells more.

    A run may hold several files of one model in one type: of two sizes, say. Then the file's name
    without its type is the column, or all of it.
    """
    several = len({line.runtime for line in lines}) > 1

    def model(line: Line) -> str:
        return f"{line.model}, {line.runtime}" if several else line.model

    def file(line: Line) -> str:
        name = Path(line.row.artifact).stem.replace(f"_{line.dtype}", "", 1)
        return f"{name}, {line.runtime}" if several else name

    for tell in (model, file):
        names = {(line.row.run, line.row.artifact): tell(line) for line in lines}
        files: dict[tuple[str, str, str | None], set[str]] = {}
        for line in lines:
            files.setdefault((line.row.run, tell(line), line.dtype), set()).add(line.row.artifact)
        if all(len(one) == 1 for one in files.values()):
            return names
    return {(line.row.run, line.row.artifact): line.row.artifact for line in lines}


def _runs(lines: Sequence[Line]) -> dict[str, str]:
    return run_names((line.row.run, line.created) for line in lines)


def _run_column(lines: Sequence[Line]) -> list[_Column]:
    """Return a column of runs where only that tells two lines apart."""
    names = _runs(lines)
    return [("Run", lambda line: names[line.row.run])] if measured_again(lines) else []


def _varying(lines: Sequence[Line]) -> list[_Column]:
    """Return the columns of a target that are not the same in every line."""
    columns: list[_Column] = [
        ("Device", lambda line: line.device),
        ("Back end", lambda line: line.row.target.backend),
        ("Thr", lambda line: str(line.row.target.threads)),
    ]
    return [
        (head, cell)
        for head, cell in columns
        # A device that is not this host is told even where it is the only one.
        if len({cell(line) for line in lines}) > 1
        or (head == "Device" and any(line.row.target.device != "host" for line in lines))
    ]


def _artifact_names(lines: Sequence[Line]) -> dict[str, str]:
    names = list(dict.fromkeys(line.row.artifact for line in lines))
    start = shared_start(names)
    return {name: name.removeprefix(start) for name in names}


def _titled(title: str, names: dict[str, str]) -> str:
    start = next((long.removesuffix(short) for long, short in names.items() if long != short), "")
    return f"{title}; names start with {start}" if start else title


def _any_known(lines: Sequence[tuple[str, ...]], column: int) -> bool:
    return any(cells[column] != figures.DASH for cells in lines)


def _launches(line: Line) -> str:
    total = line.row.launches + line.row.failed
    return f"{line.row.launches} of {total}" if line.row.failed else str(total)


def _cell(line: Line | None) -> str:
    if line is None:
        return figures.DASH
    return figures.milliseconds(line.row.median_ms) if line.row.launches else "failed"


def _place(dtype: str) -> tuple[int, str]:
    """Order types as the vocabulary does; what it does not know comes last."""
    known = list(DType)
    return (known.index(DType(dtype)) if dtype in known else len(known), dtype)
