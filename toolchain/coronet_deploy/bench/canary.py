"""A fixed piece of work that tells whether a phone is as fast as it was: the canary.

Phones hide their temperatures and clocks from us more often than not; work that never changes and
takes longer than before tells without asking. Here it is counting aloud (`seq`), so far that it
takes a while on this phone, the fastest of three: the same idea as Android's own benchmark
library, which takes 10 % more for throttling. Not hashing or copying: phones have units for those,
which do not throttle alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from coronet_deploy.bench.adb import AdbTimeout, Device

LIMIT = 1.10
"""How many times the baseline a canary takes on a throttled phone (Jetpack Benchmark's figure)."""

_START_COUNT = 100_000
_MOST_COUNT = 100_000 << 8
# Starting a program takes a phone some milliseconds; the work must be much longer.
_LEAST_MS = 60.0
_TIMES = 3
_SECONDS = 60.0
_NS_PER_MS = 1e6


@dataclass
class Canary:
    """The canary of one phone, pinned to CPUs by a hexadecimal mask if one is given.

    It counts up to `count`; `calibrate` finds a good one.
    """

    device: Device
    mask: str | None = None
    count: int = _START_COUNT

    def calibrate(self) -> None:
        """Count so far that it takes a while on this phone, and as far from now on."""
        while self.count < _MOST_COUNT:
            spent_ms = self.measure()
            if spent_ms is None or spent_ms >= _LEAST_MS:
                return
            self.count *= 2

    def measure(self) -> float | None:
        """Return the milliseconds of the fastest of three; None where the phone cannot time it."""
        # A phone without seq would time nothing, and take its noise for throttling.
        once = f"date +%s%N; seq {self.count} > /dev/null || exit 1; date +%s%N"
        script = f"for n in {' '.join(map(str, range(_TIMES)))}; do {once}; done"
        pin = ["taskset", self.mask] if self.mask else []
        try:
            result = self.device.shell([*pin, "sh", "-c", script], seconds=_SECONDS)
        except AdbTimeout:
            return None
        stamps = [int(word) for word in result.text.split() if word.isdecimal()]
        if result.status != 0 or len(stamps) != 2 * _TIMES:
            return None
        spans = [after - before for before, after in zip(stamps[::2], stamps[1::2], strict=True)]
        # The network sets a phone's clock, back too: one time is lost by that, and not all three.
        forward = [span for span in spans if span > 0]
        return round(min(forward) / _NS_PER_MS, 3) if forward else None
