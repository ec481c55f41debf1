"""`coronet-deploy compare --history PLACE RUN`: the part of the command that looks back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import BadInput

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.report.regression import Bounds
    from coronet_deploy.report.verdict import Comparison
    from coronet_deploy.vocabulary import Run


def add_history_argument(group: argparse._ArgumentGroup) -> None:
    """Add the flag that makes earlier sessions the base."""
    group.add_argument(
        "--history",
        metavar="DIR|STORE",
        help="judge a run file, and perhaps those of its re-runs, by earlier sessions: a folder "
        "of run files, an SQLite file or a postgresql:// URL",
    )
    group.add_argument(
        "--across-models",
        action="store_true",
        help="let run files of different checkpoints be compared",
    )


def compare_with_history(
    args: argparse.Namespace, bounds: Bounds
) -> tuple[Comparison, Sequence[Run]]:
    """Return the comparison of the run files that were given with their history, and the runs.

    Raises:
        CoronetError: a file is not a run file, or its history cannot be used.

    """
    from coronet_deploy.report.history import open_past
    from coronet_deploy.report.outlook import judge_by_history
    from coronet_deploy.results.files import read_run

    paths: list[Path] = args.sides
    for path in paths:
        if path.suffix != ".json" or path.is_dir():
            raise BadInput(f"{path} is not a run file, and --history judges run files only")
    runs = [read_run(path) for path in paths]
    with open_past(args.history, across_models=args.across_models) as past:
        return judge_by_history(runs, past, bounds, args.max_load), runs
