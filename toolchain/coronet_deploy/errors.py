"""The tree of errors: one branch an exit status.

    CoronetError
    ├── GateFailed             1  parity, quality or latency is out of its bound
    ├── BadInput               2  usage, or a file that is not what it should be
    ├── EnvironmentProblem     3  a missing tool or package, a device, a disk
    ├── ConversionFailed       4  a network that cannot be lowered or written
    └── NothingMeasured        5  no sample, or no verdict

A defect of ours gives 70, interrupting 130. Each error says what happened, where, and what a person
can do next; the command line prints that as one line, the last, and shows a traceback with
`--debug` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

INTERRUPTED = 130


class CoronetError(Exception):
    """An expected failure.

    `what` says what happened and where; `hint` the next step a person can take. `listing` are
    lines that are shown before it, such as a list that would bury it. `parts` are the errors that
    it stands for, if it stands for several.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str | None = None, listing: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.listing = tuple(listing)
        self.parts: tuple[CoronetError, ...] = ()

    def __str__(self) -> str:
        return f"{_line(self.what)} ({_line(self.hint)})" if self.hint else _line(self.what)


def _line(text: str) -> str:
    """Return `text` on one line, without what could drive a terminal: names come from files too."""
    return " ".join("".join(c if _is_shown(c) else "\ufffd" for c in text).split())


def _is_shown(c: str) -> bool:
    # A byte of a name that is not UTF-8 is a surrogate, which the stream escapes.
    return c.isprintable() or c.isspace() or "\ud800" <= c <= "\udfff"


class GateFailed(CoronetError):
    """A figure is out of its bound: names the artifact, the figure and the bound."""

    exit_status = 1


class BadInput(CoronetError):
    """What the user gave cannot be used: names the file or the flag, and what was expected."""

    exit_status = 2


class EnvironmentProblem(CoronetError):
    """Something around us is missing or broken: a package, a tool, a device, a disk."""

    exit_status = 3


class ConversionFailed(CoronetError):
    """A network cannot be captured, lowered, written or loaded by its runtime."""

    exit_status = 4


class NothingMeasured(CoronetError):
    """There is no measurement to report or to judge."""

    exit_status = 5


def refuse_newer(source: str, key: str, version: object, newest: int) -> None:
    """Let a file through whose version, under `key`, is not newer than what this version reads.

    Raises:
        BadInput: it is; says what to do.

    """
    if type(version) is int and version > newest:
        raise BadInput(
            f"{source}: {key} {version} is newer than {newest}, the newest this version reads",
            hint="upgrade coronet-deploy",
        )


def missing_package(package: str, extra: str) -> EnvironmentProblem:
    """Return the error for an optional package that is not installed."""
    return EnvironmentProblem(
        f"the package {package!r} is not installed",
        hint=f"pip install 'coronet-deploy[{extra}]'",
    )
