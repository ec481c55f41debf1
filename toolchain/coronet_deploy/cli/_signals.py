"""Ctrl-C, a polite kill and a session that is closed: one way out of the process.

An exception that arrives in the middle of an import is lost, or leaves a package half loaded: numpy
then refuses to be loaded again. So nothing is raised there. While the command line itself imports
what a command needs, nothing has begun that must be undone, and the process ends at once; while
work imports more, the interruption waits for the end of that import.

One that arrives in a finalizer, or in a callback of native code, is lost there as well: Python or
the library passes over it. So it is raised again, unless something deals with an exception then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from coronet_deploy.errors import INTERRUPTED

_HERE = f"{Path(__file__).parent}{os.sep}"
_IMPORTER = "<frozen importlib"
_AGAIN_S = 0.05
_LOST_S = 0.5

_arrived: list[int] = []
"""The signals of this command that were raised as an interruption."""


def take_signals() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the process as Ctrl-C does, with nothing half-written.

    A signal that whoever started us had us ignore (`nohup`, a shell's `&`) stays ignored, but for
    SIGTERM.
    """
    settle()
    signal.signal(signal.SIGTERM, _interrupt)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def settle() -> None:
    """Let an interruption of this command be raised no more: it was heard, or the work is done."""
    if signal.getsignal(signal.SIGALRM) is _interrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _arrived:
        sys.unraisablehook = sys.__unraisablehook__
        _arrived.clear()


def keep_status() -> Callable[[int], int]:
    """Return what is told the status of a command that is done, which no signal changes any more.

    The process ends in its own time: libraries take a while to go. A signal meanwhile ends it at
    once, with that status, and none does when Python has taken its handlers down, where a signal's
    own end would be the status.
    """
    taken: list[int] = []

    def done(status: int) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, lambda *_: os._exit(status))
                taken.append(number)
        return status

    def deaf() -> None:
        for number in taken:
            signal.signal(number, signal.SIG_IGN)

    atexit.register(deaf)  # before any library's, so that it is the last
    return done


def is_of_interruption(error: BaseException) -> bool:
    """Tell of an error whether native code made it of an interruption, whose trace it lost.

    One that came while an interruption was dealt with has that in its chain, and is its own.
    """
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, KeyboardInterrupt):
            return False
        chain = chain.__cause__ or chain.__context__
    return bool(_arrived)


def _interrupt(number: int, frame: FrameType | None) -> None:
    importing, at_work = _state(frame)
    raised_before = number == signal.SIGALRM and _arrived
    if raised_before and sys.exc_info()[0] is not None:
        _interrupt_after(_LOST_S)
    elif not importing:
        _interrupt_after(_LOST_S)
        _arrived.append(number)
        sys.unraisablehook = _pass_over
        raise KeyboardInterrupt
    elif at_work:
        _interrupt_after(_AGAIN_S)
    else:
        with contextlib.suppress(OSError):
            os.write(2, b"coronet-deploy: interrupted\n")
        os._exit(INTERRUPTED)


def _interrupt_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _pass_over(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interruption that a finalizer has met: it is raised again."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _state(frame: FrameType | None) -> tuple[bool, bool]:
    """Tell of the stack above `main` whether it imports, and whether that is for work begun.

    Work is whatever the command line calls: what is open there, a temporary folder, say, must be
    closed.
    """
    importing = at_work = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_IMPORTER):
            importing, at_work = True, False
        elif not code.co_filename.startswith(_HERE):
            at_work = True
        elif code.co_name == "main":
            break
        frame = frame.f_back
    return importing, at_work
