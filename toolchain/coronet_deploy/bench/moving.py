"""Whether a file on its way to a phone, or from one, still moves.

adb waits for ever for a phone that is listed and takes nothing, and how long a whole file takes
cannot be said before: USB 2 carries 30 MB a second, a poor wireless link less than one. So what has
arrived is looked at every few seconds: `PIECE_MB` must come within `PIECE_S`, which the poorest
link worth measuring over brings. The phone's answer may queue behind what is on its way to it;
until it comes, that is given the time it takes at `LEAST_MB_A_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PIECE_MB, PIECE_S = 1.0, 30.0
LEAST_MB_A_S = 0.5

_EVERY_S = 5.0
_ANSWER_LEAST_S = 1.0
_QUEUED_MOST_MB = 32.0  # adb's window
_BYTES_PER_MB = 1e6


class Moving:
    """A transfer that goes on, of `size_mb` in all where something may queue.

    `arrived(seconds)` tells how many bytes there are at its end; None without an answer in time.
    """

    def __init__(self, arrived: Callable[[float], int | None], size_mb: float = 0.0) -> None:
        self._arrived = arrived
        self._size_mb = size_mb
        self._mark_mb = self._latest_mb = 0.0
        self._since = time.monotonic()
        self._look_at = self._since + _EVERY_S
        self.stopped = False
        """Whether it was found to stand still."""

    def stands_still(self) -> bool:
        """Tell whether it does; asks its end every few seconds, however often it is called."""
        now = time.monotonic()
        if now < self._look_at:
            return self.stopped
        queued_mb = max(0.0, min(self._size_mb - self._mark_mb, _QUEUED_MOST_MB))
        silent_end = self._since + PIECE_S + queued_mb / LEAST_MB_A_S
        told = self._arrived(max(_ANSWER_LEAST_S, silent_end - now))
        now = time.monotonic()
        self._look_at = now + _EVERY_S
        if told is None:
            self.stopped = now >= silent_end
            return self.stopped
        self._latest_mb = told / _BYTES_PER_MB
        # Less than before: of a file that was there already, which is begun anew.
        if not self._mark_mb <= self._latest_mb < self._mark_mb + PIECE_MB:
            self._mark_mb, self._since = self._latest_mb, now
        self.stopped = now >= self._since + PIECE_S
        return self.stopped

    def __str__(self) -> str:
        """Return what came of it, as a clause: "stands still at 1.5 MB ..."."""
        return (
            f"stands still at {self._latest_mb:.1f} MB: less than {PIECE_MB:g} MB in {PIECE_S:g} s"
        )
