"""Ask several phones at once: none waits for another that is slow or silent.

Each is asked in a thread of its own. One that does not answer is waited for as long as a call may
take if it is alone, and no more than a while once another has answered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

from coronet_deploy.bench.process import Limit

# Longer than a phone on the network takes to wake up; on a busy computer all take longer.
_LATER_S, _TIMES_LATER = 5.0, 4.0

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


def ask_all(
    ask: Callable[[_Asked, Limit], _Answer], asked: Sequence[_Asked], *, hurry: bool = False
) -> list[_Answer]:
    """Return what `ask` returns for each of `asked`, in their order; an exception is passed on.

    `ask` gives the limit to what it starts: that ends on Ctrl-C, and with `hurry` also where it
    takes much longer than the first of all to answer.
    """
    if not asked:
        return []
    start, limit = time.monotonic(), Limit()
    with ThreadPoolExecutor(len(asked)) as pool:
        try:
            answers = [pool.submit(ask, one, limit) for one in asked]
            if hurry:
                wait(answers, return_when=FIRST_COMPLETED)
                first_s = time.monotonic() - start
                limit.end = start + max(_LATER_S, _TIMES_LATER * first_s)
            wait(answers)
        finally:  # or the pool, which waits for its threads, would wait for the phones
            limit.end = -math.inf
    return [one.result() for one in answers]
