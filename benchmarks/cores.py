"""How far two cores are from each other: `python benchmarks/cores.py` prints nanoseconds.

Threads that compute a picture together wait for each other thousands of times an inference, and
read what the other wrote. A virtual machine's two cores are now on one piece of silicon, now on
two, without a word to the guest; what two threads take changes by half with it. A figure of two
threads says little without this one beside it.

Two processes, each on its own core, hand a byte to and fro. The loop is Python's, whose own time,
some 100 ns a hand, is in the figure.
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_TURNS, _ROUNDS = 4000, 5
_HERE, _THERE = 0, 128  # on cache lines of their own


def round_trip_ns() -> float | None:
    """Return the nanoseconds from one core to another and back; None where there is one core."""
    command = [sys.executable, str(Path(__file__).resolve())]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return float(told[0]) if told else None


def _measure() -> float:
    first, second, *_ = sorted(os.sched_getaffinity(0))
    shared = mmap.mmap(-1, 2 * _THERE)
    child = os.fork()
    os.sched_setaffinity(0, {first if child else second})
    if not child:
        for turn in range(1, _ROUNDS * _TURNS + 1):
            while shared[_HERE] != turn % 2:
                pass
            shared[_THERE] = turn % 2
        os._exit(0)
    rounds = []
    for round_ in range(_ROUNDS):
        started = time.perf_counter_ns()
        for turn in range(round_ * _TURNS + 1, (round_ + 1) * _TURNS + 1):
            shared[_HERE] = turn % 2
            while shared[_THERE] != turn % 2:
                pass
        rounds.append((time.perf_counter_ns() - started) / _TURNS)
    os.waitpid(child, 0)
    return statistics.median(rounds)


if __name__ == "__main__" and len(os.sched_getaffinity(0)) > 1:
    print(f"{_measure():.0f} ns")
