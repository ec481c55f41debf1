"""A fixed piece of work that tells whether a phone is as fast as it was: the canary.

Phones hide their temperatures and clocks from us more often than not; work that never changes and
takes longer than before tells without asking. Here it is hashing 4 MB on the phone, the fastest of
three: the same idea as Android's own benchmark library, which takes 10 % more for throttling.
"""

from __future__ import annotations

from dataclasses import dataclass

from coronet_deploy.bench.adb import AdbTimeout, Device
from coronet_deploy.bench.phone_files import PhoneFiles

LIMIT = 1.10
"""How many times the baseline a canary takes on a throttled phone (Jetpack Benchmark's figure)."""

_SIZE_MB = 4
_TIMES = 3
_SECONDS = 60.0
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Canary:
    """The canary of one phone, pinned to CPUs by a hexadecimal mask if one is given."""

    device: Device
    path: str
    mask: str | None = None

    def measure(self) -> float | None:
        """Return the milliseconds of the fastest of three; None where the phone cannot time it."""
        pin = f"taskset {self.mask} " if self.mask else ""
        once = f"date +%s%N; {pin}sha256sum {self.path} > /dev/null; date +%s%N"
        script = f"for n in {' '.join(map(str, range(_TIMES)))}; do {once}; done"
        try:
            result = self.device.shell(script, seconds=_SECONDS)
        except AdbTimeout:
            return None
        stamps = [int(word) for word in result.text.split() if word.isdecimal()]
        if result.status != 0 or len(stamps) != 2 * _TIMES:
            return None
        spans = [after - before for before, after in zip(stamps[::2], stamps[1::2], strict=True)]
        return round(min(spans) / _NS_PER_MS, 3) if min(spans) > 0 else None


def lay_canary(device: Device, files: PhoneFiles, mask: str | None = None) -> Canary:
    """Return a canary on `device`, whose work folder it lives in.

    Raises:
        AdbError: the phone has no room for it, or went away.

    """
    path = files.work_path("canary")
    script = f"head -c {_SIZE_MB << 20} /dev/zero > {path}"
    device.shell(script, seconds=_SECONDS, check=True)
    return Canary(device, path, mask)
