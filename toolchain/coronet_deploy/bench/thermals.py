"""Measure a phone only while it is cool, and know when it was not.

Before a launch the phone must say that it is cool, and the canary must be as fast as it was at
first; after a launch the canary is timed again, and a launch that it was slower after was
throttled: it is made again, not averaged in. Waiting has a bound, and so has repeating; a phone
that waiting does not cool is looked at before each launch, and not waited for any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from coronet_deploy.bench.canary import LIMIT, Canary
from coronet_deploy.bench.conditions import Limits, State, cool

_POLL_S = 5.0


class StillHot(Exception):
    """The phone was not cool within the bound; says why."""


@dataclass
class Thermals:
    """The state of one phone during one bench.

    `read` asks the phone; `limit` is how many times the baseline the canary may take, `warmest` how
    warm the phone may be; `wait_s` bounds one cool-down, `total_s` those in vain together; `say` is
    told what is being waited for.
    """

    read: Callable[[], State]
    canary: Canary
    limit: float = LIMIT
    warmest: Limits = field(default_factory=Limits)
    wait_s: float = 300.0
    total_s: float = 900.0
    poll_s: float = _POLL_S
    say: Callable[[str], None] = lambda _: None
    baseline_ms: float | None = None
    latest: State | None = field(default=None, init=False)
    _tried: bool = field(default=False, init=False)
    _in_vain_s: float = field(default=0.0, init=False)

    def settle(self) -> None:
        """Wait until the phone is cool, and so take the canary's baseline (see `wait_until_cool`).

        Raises:
            StillHot: it was not cool in time.

        """
        self.wait_until_cool()

    def _take_baseline(self) -> None:
        """Time the canary that the others are held against."""
        self.canary.calibrate()
        timed = [self.canary.measure() for _ in range(2)]
        self.baseline_ms = min((one for one in timed if one is not None), default=None)
        self._tried = True

    def wait_until_cool(self, *, was_throttled: bool = False) -> float:
        """Return the seconds it took until the phone was cool; a look if it is.

        After a launch that throttled, the canary must be back to its time as well. The first time
        that the phone is cool, the canary's baseline is taken.

        Raises:
            StillHot: it was not cool in time.

        """
        start = time.monotonic()
        left_s = self._left_s
        bound_s = min(self.wait_s, left_s)
        while True:
            self.latest = self.read()
            judgement = cool(self.latest, self.warmest)
            # A phone that hides its temperatures has only the canary to tell.
            reason = judgement.reason if judgement.cool is False else None
            if reason is None and was_throttled:
                reason = self.throttled(self.measure())
            waited = time.monotonic() - start
            if reason is None:
                if not self._tried:
                    self._take_baseline()
                return round(waited, 1)
            if waited >= bound_s:
                self._in_vain_s += bound_s
                if left_s > 0 and self.gave_up:
                    self.say(f"not cool in {self.total_s:g} s in all: not waited for any more")
                when = f"after {bound_s:g} s" if left_s > 0 else f"in {self.total_s:g} s in all"
                raise StillHot(f"not cool {when}: {reason}")
            self.say(f"cooling down: {reason}")
            time.sleep(min(self.poll_s, max(0.1, bound_s - waited)))

    @property
    def gave_up(self) -> bool:
        """Whether the phone is not waited for any more."""
        return self._left_s <= 0

    @property
    def _left_s(self) -> float:
        return max(0.0, round(self.total_s - self._in_vain_s, 3))

    def measure(self) -> float | None:
        """Return the canary's time now in ms, or None if the phone cannot time it."""
        return self.canary.measure()

    def throttled(self, canary_ms: float | None) -> str | None:
        """Say how much slower than at first the canary was, if it was too slow."""
        if canary_ms is None or self.baseline_ms is None:
            return None
        ratio = canary_ms / self.baseline_ms
        if ratio <= self.limit:
            return None
        return f"fixed work took {ratio:.2f} times as long as at first"

    @property
    def notes(self) -> list[str]:
        """What to know of a bench that has ended, a sentence each."""
        told = []
        if self.gave_up:
            told.append(
                f"The phone was waited for {self.total_s:g} s in all and did not cool, and then "
                "not any more (--cool-down-total)."
            )
        # It was cool, and its canary could not be timed all the same.
        if self._tried and self.baseline_ms is None:
            told.append("Throttling was not looked for: the canary could not be timed.")
        return told

    @property
    def temperature(self) -> str:
        """The latest skin or battery temperature: "31.5 °C", or nothing if both are hidden."""
        state = self.latest
        value = None if state is None else state.battery_c if state.skin_c is None else state.skin_c
        return "" if value is None else f"{value:.1f} °C"
