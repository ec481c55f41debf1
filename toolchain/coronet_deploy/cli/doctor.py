"""`coronet-deploy doctor`: is everything there, and how to get what is not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import EnvironmentProblem

if TYPE_CHECKING:  # they come with pydantic, and --help does not need it
    from coronet_deploy.bench.checkup import Check

HELP = "check what a bench needs on this host and on phones, and print how to fix what is missing"

_FOLDER = Path("out/phone/arm64-v8a")
_MARK = {"ok": "ok", "note": "note", "missing": "MISSING"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--host-only", action="store_true", help="check only what a bench on this host needs"
    )
    parser.add_argument(
        "--phone-libraries",
        type=Path,
        default=_FOLDER,
        metavar="DIR",
        help=f"folder with the runner and the runtimes' libraries for phones (default: {_FOLDER})",
    )
    parser.add_argument(
        "--runner", type=Path, metavar="FILE", help="the runner for phones, where it is elsewhere"
    )


def run(args: argparse.Namespace) -> int:
    """Print each check; 3 if something needed is missing."""
    from coronet_deploy.bench.checkup import Verdict, check_host, check_phones

    checks = list(check_host())
    if not args.host_only:
        checks += check_phones(args.phone_libraries, args.runner)
    missing = [check for check in checks if check.verdict is Verdict.MISSING]
    if args.json:
        plain = {"ok": not missing, "checks": [check.as_json() for check in checks]}
        print(json.dumps(plain, indent=2))
    else:
        for check in checks:
            _show(check)
        print(f"{len(missing)} missing" if missing else "Nothing is missing.")
    return EnvironmentProblem.exit_status if missing else 0


def _show(check: Check) -> None:
    import textwrap

    from coronet_deploy.report.figures import printable
    from coronet_deploy.report.tables import TERMINAL_WIDTH

    line = f"{_MARK[check.verdict]:8}{check.name}: {check.found}"
    print(textwrap.fill(printable(line), TERMINAL_WIDTH, subsequent_indent=" " * 8))
    if check.fix:
        fix = textwrap.fill(
            f"fix: {printable(check.fix)}",
            TERMINAL_WIDTH,
            initial_indent=" " * 8,
            subsequent_indent=" " * 13,
        )
        print(fix)
