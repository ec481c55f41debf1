"""What this host's CPU has beyond the plain instructions."""

from __future__ import annotations

from pathlib import Path

_TOLD = Path("/proc/cpuinfo")


def cpu_flags() -> frozenset[str]:
    """Return what Linux says that the CPU has, such as "avx512_vnni"; nothing where it is silent.

    Other words of what it says are among them.
    """
    try:
        told = _TOLD.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(told.split())
