"""How far two cores of this machine are from each other: the nanoseconds there and back.

Threads that compute a picture together wait for each other thousands of times an inference, and
read what the others wrote. A hypervisor may move a virtual machine's cores from one piece of
silicon to another without a word to the guest, and what two threads take changes by half with it.

Two processes, each on its own core, hand a byte to and fro. The loop is Python's, whose own time,
a fifth of a microsecond, is in the figure: figures compare with each other on one machine alone.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Sequence

_TURNS, _ROUNDS = 1000, 30
_HERE, _THERE = 0, 128  # on cache lines of their own
_PATIENCE = 2_000_000  # looks at a byte, a tenth of a second, before the other is given up
_DEADLINE_S = 10
# On two cores of a virtual machine near ones took 180 to 300 ns, far ones 600 and more.
_MOVED = 1.9


def round_trip_ns() -> float | None:
    """Return the nanoseconds from a core to another and back, or None where none can be told."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1:
        return None
    # In a process of its own: this one may have threads, which a fork does not bring along.
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_DEADLINE_S, check=True)
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def moved_notes(seen: Sequence[float]) -> list[str]:
    """Return a sentence if two cores were near each other at some times and far at others."""
    if not seen or max(seen) <= _MOVED * min(seen):
        return []
    between = f"{min(seen):.0f} to {max(seen):.0f} ns between two of them and back"
    mixed = "what several threads took is partly of near cores, partly of far ones"
    return [f"The hypervisor moved the cores, {between}: {mixed}."]


def _hand_to_and_fro() -> float:
    """Return the quickest of a few rounds, in ns: others' work only makes them longer."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    shared = mmap.mmap(-1, 2 * _THERE)
    child = os.fork()
    os.sched_setaffinity(0, {first if child else second})
    if not child:
        for turn in range(1, _ROUNDS * _TURNS + 1):
            _await(shared, _HERE, turn % 2)
            shared[_THERE] = turn % 2
        os._exit(0)
    rounds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter_ns()
        for turn in range(1, _TURNS + 1):
            shared[_HERE] = turn % 2
            _await(shared, _THERE, turn % 2)
        rounds.append((time.perf_counter_ns() - started) / _TURNS)
    os.waitpid(child, 0)
    return min(rounds)


def _await(shared: mmap.mmap, place: int, value: int) -> None:
    """Return once the byte has `value`; end this process if the other is gone."""
    for _ in range(_PATIENCE):
        if shared[place] == value:
            return
    os._exit(1)


if __name__ == "__main__":
    sys.stdout.write(f"{_hand_to_and_fro():.0f}\n")
