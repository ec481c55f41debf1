"""`coronet-deploy compare`: tell whether a candidate is slower than its base, or refuse to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import (
    check_reports,
    device_name,
    note_given,
    refuse,
    require_text,
)
from coronet_deploy.cli._compare_files import check_threads, refuse_measuring
from coronet_deploy.cli._compare_history import add_history_argument, compare_with_history
from coronet_deploy.cli._compare_measure import measure
from coronet_deploy.cli._phone_flags import add_phone_arguments
from coronet_deploy.cli.bench import count, duration, seconds, thread_counts
from coronet_deploy.errors import BadInput
from coronet_deploy.storage import is_folder

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.bench.compare import Matching
    from coronet_deploy.report.pairs import Pair
    from coronet_deploy.report.regression import Bounds
    from coronet_deploy.report.verdict import Comparison, Method
    from coronet_deploy.vocabulary import Run

HELP = "tell whether a candidate is slower than its base: two artifacts, folders or run files"

_APART = (
    "The runs were made one after the other, not in turn: what drifted between them counts as a "
    "difference, and no re-run could confirm one."
)

_SAME = "BASE and CANDIDATE are the same run: nothing is compared with anything else."

_REPORTS = {
    "--markdown": "the table as Markdown, for a step summary",
    "--junit": "JUnit XML",
    "--bmf": "the candidate's latencies in Bencher Metric Format",
    "--benchmark-action": "the same for github-action-benchmark, customSmallerIsBetter",
}
_OF_BENCH = ("--resume", "--dry-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    note_given(parser)
    parser.usage = (
        "coronet-deploy compare BASE CANDIDATE [options]\n"
        "       coronet-deploy compare --history DIR|STORE RUN [RERUN ...] [options]"
    )
    parser.add_argument(
        "sides",
        metavar="BASE CANDIDATE",
        nargs="*",
        type=Path,
        help="two .onnx or .tflite files, two folders of them, or two run files of `bench`; with "
        "--history the candidate's run file",
    )
    measuring = parser.add_argument_group("measuring (not with run files)")
    measuring.add_argument(
        "--device",
        type=device_name,
        default="host",
        metavar="NAME",
        help="where to run: host, a phone's chipset or serial, any (default: host)",
    )
    measuring.add_argument(
        "--threads",
        type=thread_counts,
        default=(1, 2),
        metavar="N[,N...]",
        help="numbers of threads to measure with (default: 1,2)",
    )
    measuring.add_argument(
        "--rounds",
        type=count,
        default=6,
        metavar="N",
        help="launches a side before the first look (default: 6, at least 4)",
    )
    measuring.add_argument(
        "--most",
        type=count,
        default=10,
        metavar="N",
        help="launches a side after the re-run of what is not settled then (default: 10, or 4 "
        "more than --rounds of 10 or more)",
    )
    measuring.add_argument(
        "--samples",
        type=count,
        default=30,
        metavar="N",
        help="inferences timed in a launch (default: 30)",
    )
    measuring.add_argument(
        "--seconds",
        type=duration,
        default=3.0,
        metavar="S",
        help="stop a launch's sampling early, but not below 5 samples (default: 3, or half of "
        "a --deadline of 3 or less)",
    )
    measuring.add_argument(
        "--deadline",
        type=duration,
        default=300.0,
        metavar="S",
        help="stop a launch that has not answered by then (default: 300, or twice "
        "--seconds of 300 or more)",
    )
    measuring.add_argument(
        "--output",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder that the run files go to (default: runs)",
    )
    add_phone_arguments(parser)
    _hide_those_of_bench(parser)
    judging = parser.add_argument_group("judging")
    judging.add_argument(
        "--margin",
        type=_percent,
        default=0.025,
        metavar="PERCENT",
        help="do not report a smaller change (default: 2.5)",
    )
    judging.add_argument(
        "--resolution",
        type=_percent,
        default=0.05,
        metavar="PERCENT",
        help="the change that `same` excludes (default: 5)",
    )
    judging.add_argument(
        "--max-load",
        type=_load,
        metavar="LOAD",
        help="load average before the first launch beyond which nothing is judged "
        "(default: twice the cores)",
    )
    judging.add_argument(
        "--inconclusive-ok", action="store_true", help="status 0 where a row is inconclusive"
    )
    add_history_argument(judging)
    writing = parser.add_argument_group("writing")
    for flag, what in _REPORTS.items():
        writing.add_argument(flag, type=Path, metavar="FILE", help=f"write {what}")
    writing.add_argument(
        "--github", action="store_true", help="print ::error:: lines for GitHub, on stderr"
    )


def run(args: argparse.Namespace) -> int:
    """Compare, write what is asked for, and return the verdict's exit status.

    Raises:
        CoronetError: the two may not be compared (2), or something around us is broken (3).

    """
    from coronet_deploy.report.history import in_order
    from coronet_deploy.report.pairs import measured_pairs
    from coronet_deploy.report.regression import Bounds
    from coronet_deploy.report.verdict import Method, exit_status

    refuse(args, _OF_BENCH, "to `compare`", "for `bench` only")
    bounds = Bounds(args.margin, args.resolution)
    paths: list[Path] = []
    if not args.sides:
        raise BadInput(
            "RUN is missing: the run file that is judged by its history"
            if args.history
            else "BASE and CANDIDATE are missing",
            hint="`coronet-deploy compare --help` shows how to call it",
        )
    require_text(sys.argv[1:], args.sides)
    of_files = bool(args.history) or all(_are_files(args.sides))
    if of_files:
        refuse_measuring(args)
    past = [Path(args.history)] if args.history else []
    check_reports(args, _REPORTS, [*args.sides, *past])
    if args.history:
        comparison, runs = compare_with_history(args, bounds)
        comparison = _told(comparison, in_order(runs))
    elif of_files:
        comparison = _of_files(args, bounds)
    else:
        matching, runs, paths = measure(args, bounds)
        pairs = measured_pairs(runs, matching.pairs, args.max_load)
        comparison = _comparison(pairs, matching, runs, bounds, [], Method.IN_TURN)
    _show(args, comparison, paths)
    return exit_status(comparison, inconclusive_ok=args.inconclusive_ok)


def _hide_those_of_bench(parser: argparse.ArgumentParser) -> None:
    """Leave flags for phones that are not for `compare` out of its help; `run` refuses them."""
    hidden = parser.add_argument_group(conflict_handler="resolve")
    for flag in _OF_BENCH:
        action = "store_true" if flag == "--dry-run" else "store"
        hidden.add_argument(flag, action=action, help=argparse.SUPPRESS)


def _are_files(sides: list[Path]) -> list[bool]:
    """Tell of both sides whether they are run files.

    Raises:
        BadInput: there are not two sides, or one is a run file and the other is not.

    """
    if len(sides) != 2:  # noqa: PLR2004 - a base and a candidate
        raise BadInput(
            f"{' '.join(map(str, sides))}: a comparison is of BASE and CANDIDATE",
            hint="or of a run file with earlier ones, with --history",
        )
    files = [path.suffix == ".json" and not is_folder(path, "input") for path in sides]
    if files[0] != files[1]:
        raise BadInput(
            f"{sides[0]} and {sides[1]}: one is a run file and the other is not",
            hint="give two artifacts, two folders or two run files",
        )
    return files


def _of_files(args: argparse.Namespace, bounds: Bounds) -> Comparison:
    from coronet_deploy.bench.compare import match
    from coronet_deploy.report.pairs import check_keys, filed_pairs, lone_rows, subjects_of
    from coronet_deploy.report.verdict import Method
    from coronet_deploy.results.files import read_run

    base, candidate = (read_run(path) for path in args.sides)
    check_threads(args, [base, candidate])
    check_keys(base, candidate)
    matching = match(subjects_of(base), subjects_of(candidate))
    pairs = filed_pairs(
        base, candidate, matching.pairs, args.max_load, across_models=args.across_models
    )
    # A run compared with itself has nothing between its sides.
    notes = [_APART if base.id != candidate.id else _SAME]
    lone = lone_rows(base, candidate, matching.pairs)
    return _comparison(pairs, matching, [base, candidate], bounds, notes, Method.TWO_RUNS, lone)


def _comparison(
    pairs: list[Pair],
    matching: Matching,
    runs: list[Run],
    bounds: Bounds,
    notes: list[str],
    method: Method,
    lone: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Comparison:
    """Return the verdicts; `lone` are the base's and the candidate's rows without another side."""
    from coronet_deploy.report.verdict import Comparison, judge

    comparison = Comparison(
        rows=judge(pairs, bounds),
        bounds=bounds,
        method=method,
        no_base=(*(subject.name for subject in matching.candidate_only), *lone[1]),
        no_candidate=(*(subject.name for subject in matching.base_only), *lone[0]),
        notes=(*notes, *matching.namesakes),
    )
    return _told(comparison, runs)


def _told(comparison: Comparison, runs: Sequence[Run]) -> Comparison:
    """Return `comparison` with what its runs' conditions make a reader wary of."""
    from dataclasses import replace

    told = [str(note) for run in runs for note in _notes(run)]
    if any(row.pair.target.device == "host" for row in comparison.rows):
        told.append("Measured on this host: it says nothing of phones.")
    return replace(comparison, notes=tuple(dict.fromkeys([*comparison.notes, *told])))


def _notes(run: Run) -> list[object]:
    from coronet_deploy.report.verdict import EMULATED

    notes = run.conditions.get("notes")
    emulated = [EMULATED] if run.emulated else []
    return [*emulated, *(notes if isinstance(notes, list | tuple) else [])]


def _show(args: argparse.Namespace, comparison: Comparison, paths: list[Path]) -> None:
    from coronet_deploy.report import ci
    from coronet_deploy.report.comparison import (
        comparison_json,
        comparison_markdown,
        print_comparison,
    )
    from coronet_deploy.storage import write_text

    if args.json:
        print(json.dumps(comparison_json(comparison, [str(path) for path in paths]), indent=2))
    else:
        print_comparison(comparison, sys.stdout)
        for path in paths:
            print(f"Every sample is kept in {path}")
    junit = ci.junit_xml(comparison, inconclusive_ok=args.inconclusive_ok)
    for path, text in (
        (args.markdown, comparison_markdown(comparison)),
        (args.junit, junit),
        (args.bmf, ci.bencher_json(comparison)),
        (args.benchmark_action, ci.benchmark_action_json(comparison)),
    ):
        if path is not None:
            write_text(path, text)
    if args.github:
        # The runner reads both streams; stdout may be JSON, or on its way to a file.
        for line in ci.github_commands(comparison):
            print(line, file=sys.stderr)


def _load(text: str) -> float:
    try:
        return seconds(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a load average above 0") from error


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:  # noqa: PLR2004 - percent
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of percent from 0 to 100")
    return value / 100
