"""`coronet-deploy compare` of run files: the flags that say how to measure mean nothing there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import is_given, phone_flags, refuse
from coronet_deploy.errors import BadInput

if TYPE_CHECKING:  # pydantic comes with it, and --help needs it not
    from coronet_deploy.vocabulary import Run

_MEASURING = ("--rounds", "--most", "--samples", "--seconds", "--deadline")
_WHY = "with run files, which are judged as they are"


def refuse_measuring(args: argparse.Namespace) -> None:
    """Let arguments for run files through that do not say how to measure.

    --output, --device host and --threads may be there (see `check_threads`): the GitHub action
    gives them, whatever the sides are.

    Raises:
        BadInput: they do; names the flags.

    """
    refuse(args, (*_MEASURING, *phone_flags()), _WHY)
    if args.device != "host":
        raise BadInput(f"--device {args.device} means nothing {_WHY}")
    if args.history:
        refuse(args, ("--threads", "--output"), _WHY)


def check_threads(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Let `--threads` through if it says what all rows of the run files were measured with.

    Raises:
        BadInput: there are other rows, which would be judged too.

    """
    held = {one.target.threads for run in runs for one in run.launches}
    if is_given(args, "--threads") and held - set(args.threads):
        asked, there = (",".join(map(str, sorted(one))) for one in (args.threads, held))
        raise BadInput(
            f"--threads {asked}: the run files hold rows of {there} threads, and all are judged",
            hint="leave it out: it is for measuring",
        )
