"""`coronet-deploy report`: the tables or the page of runs, from their files alone."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import check_reports
from coronet_deploy.errors import BadInput, NothingMeasured

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.vocabulary import Run

HELP = "print the tables of run files, or write them as Markdown, CSV, JSON, LaTeX or a web page"

FORMATS = ("terminal", "markdown", "csv", "json", "latex", "html")
_ENDINGS = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".csv": "csv",
    ".json": "json",
    ".tex": "latex",
    ".txt": "terminal",
    ".log": "terminal",
    "": "terminal",  # as of /dev/stdout
}
"""What is written, by the ending of the name that it goes to."""

LAYOUTS = ("full", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="a run file that `bench` wrote"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="what to write (default: by the ending of --output's name, or terminal; --json is "
        "json)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="one table of all runs: full (every figure of every row) or paper (chipsets by type "
        "against models)",
    )
    parser.add_argument(
        "--baseline",
        metavar="ARTIFACT",
        help="give each row's speed-up over this artifact's, in the runs that hold it",
    )
    page = parser.add_argument_group("the page (--format html)")
    page.add_argument(
        "--quality",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="show quality against latency, as `evaluate --json` told it of an artifact",
    )
    page.add_argument(
        "--history",
        metavar="DIR|STORE",
        help="show each row's earlier sessions and their changes: a folder of run files or a store",
    )
    page.add_argument("--title", metavar="TEXT", help="the page's title")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to FILE rather than to stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the report.

    Raises:
        CoronetError: a file is not a run file (2), a package is missing (3), or no run holds a
            sample (5).

    """
    from coronet_deploy.storage import write_text

    _take_runs_behind_quality(args)
    if args.json and args.format not in {None, "json"}:
        raise BadInput(f"--json and --format {args.format} contradict each other")
    if args.output == Path("-"):
        args.output = None
    past = [Path(args.history)] if args.history else []
    check_reports(args, ["--output"], [*args.runs, *args.quality, *past])
    form = "json" if args.json else args.format or _form_of(args.output)
    if form != "html" and (args.quality or args.history or args.title):
        raise BadInput("--quality, --history and --title are for --format html")
    runs = _read(args.runs)
    # Not its samples: a vendor's program that keeps none still tells its median.
    if not any(launch.median_ms is not None for _, one in runs for launch in one.launches):
        raise NothingMeasured(f"{', '.join(map(str, args.runs))}: no launch gave a sample")
    if form == "html":
        text = _page(args, [one for _, one in runs])
    else:
        text = _text(form, args.layout, runs, args.baseline, _width(args.output))
    if args.output is None:
        sys.stdout.write(text)
    else:
        write_text(args.output, text)
        print(f"wrote {args.output}", file=sys.stderr)
    return 0


def _form_of(output: Path | None) -> str:
    """Return the format that the name of `output` ends in; of stdout it is the terminal's.

    Raises:
        BadInput: none is written to such a file.

    """
    ending = output.suffix.lower() if output else ""
    if ending not in _ENDINGS:
        raise BadInput(
            f"--output {output}: no report is written as {ending}",
            hint=f"its name may end in {', '.join(filter(None, _ENDINGS))}, or --format says "
            "what it is",
        )
    return _ENDINGS[ending]


def _take_runs_behind_quality(args: argparse.Namespace) -> None:
    """Take the run files that stand behind --quality for what they are.

    Raises:
        BadInput: there is no run file; or one that is behind --quality is missing.

    """
    from coronet_deploy.results.entries import is_run_file
    from coronet_deploy.storage import existing_file

    behind = [path for path in args.quality if is_run_file(existing_file(path, "--quality"))]
    if len(behind) < len(args.quality):  # else the flag was meant for another file than a run
        args.runs += behind
        args.quality = [path for path in args.quality if path not in behind]
    if not args.runs:
        raise BadInput(
            "RUN is missing: a run file that `bench` wrote",
            hint="`coronet-deploy report --help` shows how to call it",
        )


def _read(paths: list[Path]) -> list[tuple[Path, Run]]:
    """Return the runs in the files `paths`; one that is given again is the one that it was.

    Raises:
        BadInput: one is no run file; or a folder, of which nobody said which runs are meant.

    """
    from coronet_deploy.results.files import read_run
    from coronet_deploy.storage import is_folder

    runs: list[tuple[Path, Run]] = []
    for path in paths:
        if is_folder(path, "run file"):
            raise BadInput(f"{path} is a folder", hint=f"give its run files, {path / '*.json'}")
        one = read_run(path)
        if all(one != held for _, held in runs):
            runs.append((path, one))
    return runs


def _width(output: Path | None) -> int:
    """Return the columns of the terminal that stdout may be; of a file it is 80."""
    from coronet_deploy.report.grid import TERMINAL_WIDTH, width_of

    return width_of(sys.stdout) if output is None else TERMINAL_WIDTH


def _text(
    form: str,
    layout: str | None,
    runs: list[tuple[Path, Run]],
    baseline: str | None,
    width: int,
) -> str:
    from coronet_deploy.report import tables
    from coronet_deploy.report.figures import caveats, printable
    from coronet_deploy.report.lines import json_line, lines_of
    from coronet_deploy.report.summary import baselines, summarize

    if layout or form == "latex":
        return _laid_out(form, layout or "full", [one for _, one in runs], baseline, width)
    bases = baselines([one for _, one in runs], baseline)
    summaries = [
        (path, one, summarize(one, base)) for (path, one), base in zip(runs, bases, strict=True)
    ]
    plain = [
        json_line(line, str(path))
        for (path, one), base in zip(runs, bases, strict=True)
        for line in lines_of(one, base)
    ]
    if form == "csv":
        return tables.csv_text(plain)
    if form == "json":
        notes = {str(path): caveats(one, rows) for path, one, rows in summaries}
        return json.dumps({"rows": plain, "notes": notes}, indent=2) + "\n"
    out = io.StringIO()
    for path, one, rows in summaries:
        several = len(runs) > 1
        if form == "markdown":
            out.write(f"## Run {one.id}\n\n" if several else "")
            out.write(tables.markdown(rows, caveats(one, rows)) + ("\n" if several else ""))
        else:
            out.write(f"{printable(str(path))}\n" if several else "")
            tables.print_tables(rows, out, caveats(one, rows), width)
    return out.getvalue()


def _page(args: argparse.Namespace, runs: list[Run]) -> str:
    """Return the page of all `runs`, the first one's model on top."""
    from contextlib import nullcontext

    from coronet_deploy.report.history import open_past
    from coronet_deploy.report.html import render_report
    from coronet_deploy.report.tradeoffs import read_judgements

    if args.layout:
        raise BadInput("--format html has a layout of its own", hint="leave --layout out")
    judgements = read_judgements(args.quality)
    with open_past(args.history) if args.history else nullcontext() as past:
        return render_report(
            runs[0],
            baseline=args.baseline,
            title=args.title,
            more=runs[1:],
            judgements=judgements,
            past=past,
        )


def _laid_out(form: str, layout: str, runs: list[Run], baseline: str | None, width: int) -> str:
    """Return one set of tables for all `runs`."""
    from dataclasses import asdict

    from coronet_deploy.report import grid as grids_
    from coronet_deploy.report.figures import caveats
    from coronet_deploy.report.latex import latex
    from coronet_deploy.report.layouts import Layout, grids_of, legend
    from coronet_deploy.report.lines import lines_of
    from coronet_deploy.report.summary import baselines, summarize
    from coronet_deploy.report.tables import failures

    bases = baselines(runs, baseline)
    lines = [line for one, base in zip(runs, bases, strict=True) for line in lines_of(one, base)]
    grids, notes = grids_of(Layout(layout), lines), legend(Layout(layout), lines, baseline)
    said: dict[str, dict[str, None]] = {}
    for one in runs:
        rows = summarize(one)
        for text in (*failures(rows), *caveats(one, rows)):
            said.setdefault(text, {})[one.id] = None
    # What is true of all runs is said of none.
    notes += [
        text if len(told) == len(runs) else f"{', '.join(told)}: {text}"
        for text, told in said.items()
    ]
    if form == "csv":
        return grids_.grid_csv(grids[0])
    if form == "json":
        return (
            json.dumps({"tables": [asdict(one) for one in grids], "notes": notes}, indent=2) + "\n"
        )
    if form == "latex":
        return latex(grids, notes)
    if form == "markdown":
        return grids_.grids_markdown(grids, notes)
    out = io.StringIO()
    grids_.print_grids(grids, out, notes, width)
    return out.getvalue()
