"""The command line: parse, call, print.

One module a command; each has `HELP`, `add_arguments(parser)` and `run(args) -> exit status`,
and imports nothing heavy before `run`, so that `--help` answers at once. Results go to stdout
(as JSON with `--json`), progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import io
import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coronet_deploy import __version__
from coronet_deploy.cli._signals import is_of_interruption, settle, take_signals
from coronet_deploy.cli._usage import STATUSES, Parser, refuse_line
from coronet_deploy.errors import INTERRUPTED, BadInput, CoronetError, EnvironmentProblem
from coronet_deploy.memory import FREE_SOME, shortage

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

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_NO_PLACE = {*_UNWRITABLE, errno.EROFS, errno.EMFILE, errno.ENFILE}
_CLOSED = {errno.EACCES, errno.EPERM}
_NO_INPUT = {*_CLOSED, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
_DEFECT = 70  # EX_SOFTWARE of sysexits.h, which Windows has no name for


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="coronet-deploy",
        description="Take a GAN generator that was pruned while it trained to a phone: "
        "materialize it, export it to ONNX and TFLite, prove the picture, time it.",
        epilog=STATUSES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    common.add_argument("--debug", action="store_true", help="show a traceback with an error")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        command = subparsers.add_parser(
            name,
            parents=[common],
            help=module.HELP,
            description=module.HELP,
            epilog=STATUSES,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (see `errors`).

    An exception that is none of those is a defect of ours: its traceback, and status 70.
    """
    try:
        return _run(arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is: Python's own 1 is a failed gate's
        if is_of_interruption(error):
            return _interrupted()
        with contextlib.suppress(OSError):  # of a stderr that is full
            traceback.print_exc()
        return _DEFECT
    finally:
        settle()


def _run(arguments: Sequence[str] | None) -> int:
    debug = False
    try:
        _require_posix()
        _set_up()
        given = sys.argv[1:] if arguments is None else arguments
        refuse_line(given, COMMANDS)
        args = _parsed(given)
        debug = args.debug
        _require_folder()
        status: int = args.run(args)
        sys.stdout.flush()
    except CoronetError as error:
        return _interrupted() if is_of_interruption(error) else _failed(error, debug=debug)
    except KeyboardInterrupt:
        if debug:
            raise
        return _interrupted()
    except OSError as error:
        if isinstance(error, _Unwritten):
            # What is still to be flushed, at interpreter exit too, goes nowhere.
            _silence(error.descriptor)
            problem = EnvironmentProblem(f"cannot write to {error.stream}: {error.strerror}")
            return _failed(problem, debug=debug)
        return _failed(_short_of_memory(error) or _of_file(error), debug=debug)
    except Exception as error:
        short = _short_of_memory(error)
        if short is None:
            raise
        if not debug:
            traceback.clear_frames(error.__traceback__)  # what they hold: a line takes memory too
        return _failed(short, debug=debug)
    return status


def _short_of_memory(error: Exception) -> EnvironmentProblem | None:
    """Return what is to be said of an error that memory is the cause of; None of any other."""
    told = shortage(error)
    return (
        None if told is None else EnvironmentProblem(f"not enough memory: {told}", hint=FREE_SOME)
    )


def _interrupted() -> int:
    _tell("interrupted")
    return INTERRUPTED


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    finally:  # of --help, --version and usage errors: argparse passes over what it cannot print
        sys.stdout.flush()
        _flush_stderr()


def _require_posix() -> None:
    """Refuse a system without what locks and workers are made of, rather than fail midway."""
    if importlib.util.find_spec("fcntl") is None:
        raise EnvironmentProblem("coronet-deploy needs Linux or macOS (on Windows: WSL)")


def _require_folder() -> None:
    """Refuse a current folder that is gone: torch's libraries, for one, then find no way."""
    try:
        Path.cwd()
    except OSError as error:
        raise EnvironmentProblem(
            f"the current folder cannot be used: {error.strerror}",
            hint="was it removed? cd to one that is there",
        ) from error


def _of_file(error: OSError) -> CoronetError:
    """Return what is to be said of a file that nobody nearer to it told of.

    Raises:
        OSError: the error itself, if it is none that a file's place or rights explain: a file
            that is not there although it was looked for is a defect of ours.

    """
    name, reason = error.filename, error.strerror or str(error)
    if name is None and error.errno in _UNWRITABLE:
        return EnvironmentProblem(
            f"a file cannot be read or written: {reason}", hint="--debug shows which"
        )
    if name is None:
        raise error
    if error.errno in _NO_PLACE or (error.errno in _CLOSED and _was_to_be_written(name)):
        return EnvironmentProblem(f"cannot write {name}: {reason}", hint="choose another place")
    if error.errno in _NO_INPUT:
        return BadInput(f"{name} cannot be read: {reason}")
    raise error


def _was_to_be_written(name: Any) -> bool:  # noqa: ANN401 - text, bytes or a file descriptor
    """Tell of a file that was refused whether it could have been read, or had yet to be made."""
    folder = os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120 - bytes are no Path
    return os.access(name, os.R_OK) or (os.access(folder, os.X_OK) and not os.path.lexists(name))


def _failed(error: CoronetError, *, debug: bool) -> int:
    """Say what went wrong, and return the exit status that it has with `--debug` too."""
    if debug:
        traceback.print_exc()
    lists = dict.fromkeys(one.listing for one in (error, *error.parts))
    with contextlib.suppress(_Unwritten):
        for line in itertools.chain.from_iterable(lists):
            print(line, file=sys.stderr)
    _tell(f"error: {error}")
    return error.exit_status


def _tell(line: str) -> None:
    """Say a last line on stderr, if it takes one."""
    with contextlib.suppress(_Unwritten):  # _flush_stderr meets it again
        print(f"coronet-deploy: {line}", file=sys.stderr)
    _flush_stderr()


def _flush_stderr() -> None:
    """Let no line that stderr does not take change the exit status as the interpreter ends."""
    try:
        sys.stderr.flush()
    except _Unwritten as full:
        _silence(full.descriptor)


def _set_up() -> None:
    """Make the ways out of the process safe: its signals and its streams."""
    take_signals()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - open to the end
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _patient(stream))


def _patient(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream that fails neither without a reader nor over what it cannot show.

    A command whose reader has gone (`| head`) goes on to its own status: a gate's verdict.
    """
    raw = _Patient(stream.fileno(), "wb", closefd=False)
    raw.stream = stream.name.strip("<>")
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        stream.encoding,
        "replace" if stream.errors in {"strict", "surrogateescape"} else stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,  # as stderr is
    )


class _Unwritten(OSError):
    """A standard stream cannot be written: its place is full, say."""

    def __init__(self, error: OSError, stream: str, descriptor: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.stream = stream
        self.descriptor = descriptor


class _Patient(io.FileIO):
    stream = "stdout"

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        try:
            return super().write(data)
        except BrokenPipeError:
            _silence(self.fileno())
            return len(data)
        except OSError as error:
            raise _Unwritten(error, self.stream, self.fileno()) from error


def _silence(descriptor: int) -> None:
    """Let nothing more come out of a file descriptor."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
