"""How work ends before its time: a training is asked to stop, or memory is not enough."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch

from coronet_deploy.errors import EnvironmentProblem

_NO_MEMORY = (
    "not enough memory",
    "can't allocate",
    "allocate memory",
    "out of memory",
    "bad_alloc",
)
_LESS = "lower data.batch or model.width, or set search.form=collapsed; the last saved state stands"


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield what Ctrl-C, SIGTERM and a closed session set; a second Ctrl-C interrupts at once.

    Where `nohup` has the process outlive its session, it does.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    former = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def memory_told(doing: str = "train", less: str = _LESS) -> Iterator[None]:
    """Turn what torch and Python raise where memory is not enough for `doing` into one line.

    Raises:
        EnvironmentProblem: it is not enough; says with `less` what to lower.

    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = str(error).splitlines()[0] if str(error) else "none is left"
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(sign in str(error).lower() for sign in _NO_MEMORY):
            raise
        raise EnvironmentProblem(f"not enough memory to {doing}: {told}", hint=less) from error
