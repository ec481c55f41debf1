"""`coronet-deploy inspect`."""

from __future__ import annotations

import argparse

HELP = "inspect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    raise SystemExit(f"{args.command} is not written yet")
