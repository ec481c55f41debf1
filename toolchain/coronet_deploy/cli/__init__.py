"""The command line: parse, call, print.

One module a command; each has `HELP`, `add_arguments(parser)` and `run(args) -> exit status`,
and imports nothing heavy before `run`, so that `--help` answers at once. Results go to stdout
(as JSON with `--json`), progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from coronet_deploy import __version__
from coronet_deploy.errors import INTERRUPTED, CoronetError

COMMANDS = (
    "demo",
    "inspect",
    "materialize",
    "export",
    "verify",
    "evaluate",
    "bench",
    "compare",
    "report",
    "results",
    "train",
    "devices",
    "doctor",
    "runner",
)

_EPILOG = """exit statuses: 0 fine, 1 a gate failed (parity or latency), 2 usage or bad input,
3 environment or device, 4 conversion, 5 nothing was measured or inconclusive, 130 interrupted"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coronet-deploy",
        description="Take a GAN generator that was pruned while it trained to a phone: "
        "materialize it, export it to ONNX and TFLite, prove the picture, time it.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    common.add_argument("--debug", action="store_true", help="show a traceback with an error")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        command = subparsers.add_parser(
            name, parents=[common], help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (see `errors`)."""
    # A polite kill takes the same way out as Ctrl-C, so that nothing is left half-written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = _parser().parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except CoronetError as error:
        if args.debug:
            raise
        print(f"coronet-deploy: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("coronet-deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; say nothing more, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
