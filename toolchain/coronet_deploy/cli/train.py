"""`coronet-deploy train`."""

from __future__ import annotations

import argparse

HELP = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    raise SystemExit(f"{args.command} is not written yet")
