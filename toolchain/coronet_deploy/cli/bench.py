"""`coronet-deploy bench`: time artifacts and keep every sample."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import (
    COUNT_MOST,
    SECONDS_MOST,
    THREADS_MOST,
    check_reports,
    check_writable,
    device_name,
    note_given,
    refuse,
    refuse_phone_flags,
    require_text,
    settle_seconds,
    take_serial_alone,
)
from coronet_deploy.cli._bench_phone import dry_run, measure_phone
from coronet_deploy.cli._phone_flags import add_phone_arguments
from coronet_deploy.cli._shared import ARTIFACTS, files_of
from coronet_deploy.errors import (
    BadInput,
    ConversionFailed,
    GateFailed,
    NothingMeasured,
)
from coronet_deploy.storage import files_in, require_temporary

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.bench.host import Progress
    from coronet_deploy.report.summary import Row
    from coronet_deploy.results.journal import Journal
    from coronet_deploy.vocabulary import Run

HELP = "time artifacts on this host or a phone, one process a launch, in interleaved rounds"

_FOLDER = Path("out/artifacts")
_RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    note_given(parser)
    parser.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="*",
        type=Path,
        help=f"an .onnx or .tflite file, or a folder of them (default: {_FOLDER})",
    )
    parser.add_argument(
        "--device",
        type=device_name,
        default="host",
        metavar="NAME",
        help="where to run: host, a phone's chipset or serial, any (default: host)",
    )
    parser.add_argument(
        "--threads",
        type=thread_counts,
        default=(1, 2),
        metavar="N[,N...]",
        help="numbers of threads to measure with (default: 1,2)",
    )
    parser.add_argument(
        "--rounds",
        type=count,
        default=6,
        metavar="N",
        help="launches of each artifact and number of threads (default: 6, the fewest whose "
        "interval can cover 95 %%)",
    )
    parser.add_argument(
        "--samples",
        type=count,
        default=30,
        metavar="N",
        help="inferences timed in a launch (default: 30)",
    )
    parser.add_argument(
        "--seconds",
        type=duration,
        default=3.0,
        metavar="S",
        help="stop a launch's sampling early, but not below 5 samples (default: 3, or half of "
        "a --deadline of 3 or less)",
    )
    parser.add_argument(
        "--deadline",
        type=duration,
        default=300.0,
        metavar="S",
        help="stop a launch that has not answered by then (default: 300, or twice "
        "--seconds of 300 or more)",
    )
    parser.add_argument(
        "--baseline", metavar="ARTIFACT", help="give each row's speed-up over this artifact's"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_RUNS,
        metavar="DIR",
        help=f"folder that the run file goes to (default: {_RUNS})",
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables to FILE too"
    )
    add_phone_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, keep the run file, and print its rows.

    Raises:
        CoronetError: nothing was measured (5), or some launches failed: every time because a
            runtime refused the artifact (4), or otherwise (1).

    """
    from coronet_deploy.bench.host import bench_host
    from coronet_deploy.report.summary import summarize

    take_serial_alone(args)
    refuse_phone_flags(args)
    settle_seconds(args)
    artifacts = files_of(args.artifacts) if args.artifacts else _default_artifacts()
    require_text(sys.argv[1:], artifacts)
    if args.baseline is not None:
        args.baseline = _named(args.baseline, artifacts)
    if args.dry_run:
        refuse(args, ["--resume"], "with --dry-run, which says the whole bench")
        return dry_run(args, artifacts)
    check_reports(args, ["--markdown"], artifacts)
    check_writable(args.output)
    require_temporary()
    on_phone = args.device != "host"
    with (
        journal_in(args.output, on_phone=on_phone) as journal,
        bench_progress() as progress,
    ):
        if on_phone:
            measured = measure_phone(args, artifacts, progress, journal)
        else:
            measured = bench_host(
                artifacts,
                threads=args.threads,
                rounds=args.rounds,
                samples=args.samples,
                seconds=args.seconds,
                deadline_s=args.deadline,
                command=_command(),
                progress=progress,
                keeper=journal,
            )
        path = journal.end(measured, args.output)
    rows = summarize(measured, args.baseline)
    _show(args, measured, rows, path)
    judge(measured, rows)
    return 0


@contextlib.contextmanager
def journal_in(folder: Path, *, on_phone: bool = False) -> Iterator[Journal]:
    """Yield what keeps a bench's launches as they end, for `Journal.end` to make a run file of.

    When Ctrl-C ends the bench, or its phone goes away for good, the launches that had finished
    become a run file in `folder`; where the bench can be gone on with, it is said how.
    """
    from coronet_deploy.bench.host import BenchInterrupted
    from coronet_deploy.bench.phone_back import PhoneGone
    from coronet_deploy.results.journal import (
        going_on,
        journaled,
        left_behind,
        recovery,
        running,
    )

    for path in () if on_phone else running(folder):
        print(f"another bench is going on, by {path}: both disturb each other", file=sys.stderr)
    for path in left_behind(folder):
        print(
            f"{path} holds launches of a bench that was cut off: "
            f"`{recovery(path)}` makes a run file of them",
            file=sys.stderr,
        )
    with journaled(folder) as journal:
        try:
            yield journal
        except (BenchInterrupted, PhoneGone) as cut:
            if cut.run.launches:
                path = journal.end(cut.run, folder)
                finished = len(cut.run.launches)
                kept = f"{finished} of {cut.planned} launches kept in {path}"
                print("; ".join(filter(None, (kept, going_on(cut.run, path)))), file=sys.stderr)
            raise


def _show(args: argparse.Namespace, measured: Run, rows: tuple[Row, ...], path: Path) -> None:
    from coronet_deploy.report import tables
    from coronet_deploy.report.figures import caveats
    from coronet_deploy.report.lines import json_line, lines_of
    from coronet_deploy.storage import write_text

    notes = caveats(measured, rows)
    if args.json:
        lines = lines_of(measured, args.baseline)
        plain = [json_line(line, str(path)) for line in lines]
        print(json.dumps({"rows": plain, "notes": notes}, indent=2))
    else:
        tables.print_tables(rows, sys.stdout, notes)
        print(f"Every sample is kept in {path}")
    if args.markdown:
        write_text(args.markdown, tables.markdown(rows, notes))


def judge(measured: Run, rows: tuple[Row, ...]) -> None:
    """Raise if launches failed (see `run`)."""
    failed = [launch for launch in measured.launches if launch.error is not None]
    if not failed:
        return
    first = f"{failed[0].artifact}: {failed[0].error}"
    what = f"{len(failed)} of {len(measured.launches)} launches failed, the first {first}"
    kinds = {launch.details.get("failure") for launch in failed}
    if kinds <= {"parity", "delegation"}:
        raise GateFailed(what)
    # Not its samples: a vendor's program that keeps none still tells its median.
    if not any(row.median_ms is not None for row in rows):
        raise NothingMeasured(f"nothing was measured: {first}")
    if kinds == {"refused"}:
        raise ConversionFailed(what)
    raise GateFailed(what)


def _default_artifacts() -> list[Path]:
    try:
        return files_in(_FOLDER, ARTIFACTS)
    except BadInput as error:
        raise BadInput(
            f"no ARTIFACT is given and {_FOLDER} holds none",
            hint="run `coronet-deploy export` first, or name a file",
        ) from error


def _named(baseline: str, artifacts: Sequence[Path]) -> str:
    """Return what the run will call the artifact that `--baseline` names, by its name or path.

    Raises:
        BadInput: it names none, or more than one; said before anything is measured.

    """
    from coronet_deploy.bench.host import names_of

    paths = list(dict.fromkeys(artifacts))
    names = names_of(paths)
    if baseline in names:
        return baseline
    meant = [
        name
        for name, path in zip(names, paths, strict=True)
        if baseline == path.name or Path(baseline) == path
    ]
    if not meant:
        raise BadInput(f"--baseline {baseline} is not among the artifacts", hint=", ".join(names))
    if len(meant) > 1:
        raise BadInput(f"--baseline {baseline} could be any of {', '.join(meant)}")
    return meant[0]


def _command() -> tuple[str, ...]:
    return ("coronet-deploy", *sys.argv[1:])


@contextlib.contextmanager
def bench_progress() -> Iterator[Progress]:
    """Yield what shows progress on stderr: a bar on a terminal, a line a launch elsewhere."""
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    from coronet_deploy.report.figures import printable

    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=min(20, console.width // 6)),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # Gets what the others leave: a long name is cut short, not the count.
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            if total:
                bar.update(task, completed=done, total=total)
            bar.update(task, description=printable(what))

        yield show


def _line(done: int, total: int, what: str) -> None:
    from coronet_deploy.report.figures import printable

    if total == 0:  # before the launches
        print(printable(what), file=sys.stderr, flush=True)
    elif done < total:
        print(f"launch {done + 1} of {total}: {printable(what)}", file=sys.stderr, flush=True)


def thread_counts(text: str) -> tuple[int, ...]:
    """Parse numbers of threads: "1,2"."""
    counts = tuple(positive(part) for part in text.split(","))
    if max(counts) > THREADS_MOST:
        raise argparse.ArgumentTypeError(f"{max(counts)} threads: at most {THREADS_MOST:,}")
    if len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"{text!r} names a number twice")
    return counts


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def count(text: str) -> int:
    """Parse a number of launches or samples."""
    if (value := positive(text)) > COUNT_MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {COUNT_MOST:,}")
    return value


def duration(text: str) -> float:
    """Parse a number of seconds that something may take."""
    if (value := seconds(text)) > SECONDS_MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {SECONDS_MOST} seconds, a week")
    return value


def seconds(text: str) -> float:
    """Parse a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
