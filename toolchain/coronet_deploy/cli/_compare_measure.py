"""`coronet-deploy compare`: measuring both sides in turn, on this host or a phone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import (
    check_writable,
    is_given,
    refuse_phone_flags,
    settle_seconds,
    take_serial_alone,
)
from coronet_deploy.cli._bench_phone import measure_phone
from coronet_deploy.cli.bench import bench_progress, journal_in
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.storage import require_temporary

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.bench.compare import Matching
    from coronet_deploy.report.regression import Bounds
    from coronet_deploy.vocabulary import Run

_MORE = 4  # launches a side that a re-run has by default


def measure(args: argparse.Namespace, bounds: Bounds) -> tuple[Matching, list[Run], list[Path]]:
    """Measure, look, and measure again what is not settled; returns the runs and their files."""
    from coronet_deploy.bench.compare import find_subjects, match
    from coronet_deploy.report.pairs import measured_pairs
    from coronet_deploy.report.regression import LAUNCHES_LEAST
    from coronet_deploy.report.verdict import needs_rerun

    take_serial_alone(args)
    refuse_phone_flags(args)
    settle_seconds(args)
    if args.rounds >= args.most and not is_given(args, "--most"):
        args.most = args.rounds + _MORE  # or what is slower were called so without a re-run
    if args.rounds < LAUNCHES_LEAST or args.most < args.rounds:
        raise BadInput(
            f"--rounds {args.rounds} --most {args.most}: at least {LAUNCHES_LEAST} launches a "
            "side, and --most not below --rounds"
        )
    base, candidate = args.sides
    matching = match(find_subjects(base, "BASE"), find_subjects(candidate, "CANDIDATE"))
    check_writable(args.output)
    require_temporary()
    if args.device == "host":
        _require_quiet(args.max_load)
    first, path = _bench(args, matching, args.rounds)
    pairs = measured_pairs([first], matching.pairs, args.max_load)
    open_ones = {pair.artifact for pair in pairs if needs_rerun(pair, bounds)}
    if not open_ones or args.most == args.rounds:
        return matching, [first], [path]
    again = _only(matching, open_ones)
    print(f"not settled, measured again: {', '.join(sorted(open_ones))}", file=sys.stderr)
    # The first measurement is still in the load average, and is no other work.
    second, more = _bench(args, again, args.most - args.rounds, own_load=max(args.threads))
    return matching, [first, second], [path, more]


def _require_quiet(max_load: float | None) -> None:
    """Refuse to measure where the runs could not be judged.

    Raises:
        EnvironmentProblem: this host is busy.

    """
    from coronet_deploy.bench.system import cores_allowed, host_state
    from coronet_deploy.report.pairs import load_most

    load, most = host_state()["load_1min"], load_most(cores_allowed(), max_load)
    if load is not None and most is not None and load > most:
        raise EnvironmentProblem(
            f"the machine is busy: load average {load:g}, above {most:g} (--max-load)",
            hint="wait until it is idle: nothing would be judged",
        )


def _bench(
    args: argparse.Namespace, matching: Matching, rounds: int, *, own_load: float = 0.0
) -> tuple[Run, Path]:
    from coronet_deploy.bench.compare import bench_pairs
    from coronet_deploy.bench.host import bench_host

    def on_phone(paths: Sequence[Path], *, names: Sequence[str], **_settings: object) -> Run:
        own = argparse.Namespace(**{**vars(args), "rounds": rounds})
        return measure_phone(own, paths, progress, journal, names)

    is_phone = args.device != "host"
    with journal_in(args.output, on_phone=is_phone) as journal, bench_progress() as progress:
        run = bench_pairs(
            matching.pairs,
            bench=on_phone if is_phone else bench_host,
            threads=args.threads,
            rounds=rounds,
            samples=args.samples,
            seconds=args.seconds,
            deadline_s=args.deadline,
            command=("coronet-deploy", *sys.argv[1:]),
            progress=progress,
            keeper=journal,
            own_load=own_load,
        )
        return run, journal.end(run, args.output)


def _only(matching: Matching, artifacts: set[str]) -> Matching:
    from dataclasses import replace

    pairs = tuple(pair for pair in matching.pairs if pair[1].name in artifacts)
    return replace(matching, pairs=pairs)
