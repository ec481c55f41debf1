"""One timed launch on a phone, and again if the phone throttled meanwhile, or if it crashed.

A launch that throttled is kept in the record of the one that replaced it, with its samples, but
none of them is averaged in; so is one that crashed. A phone that goes on throttling, or does not
cool down in time, makes a failed launch, and so does a second crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from coronet_deploy.bench.crashes import Crashes
from coronet_deploy.bench.launch import Failed, Failure, Labels
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_launch import failed, now
from coronet_deploy.bench.thermals import StillHot, Thermals
from coronet_deploy.vocabulary import Launch


@dataclass(frozen=True)
class PhoneTimer:
    """How launches are timed on one phone; `repeats` bounds how often one is made again."""

    files: PhoneFiles
    thermals: Thermals
    repeats: int

    def launch(
        self, labels: Labels, make: Callable[[str], Launch], details: Mapping[str, Any]
    ) -> Launch:
        """Return the launch that `make(started)` gives or fails to; `details` go into its record.

        Raises:
            DeviceLost: the phone went away.

        """
        throttled: list[dict[str, Any]] = []
        crashes = Crashes()
        started = now()
        try:
            made = self._until_cool(make, throttled, crashes)
            told = {**details, **made.details, **_kept(throttled), **crashes.of_launch()}
            return replace(made, details=told)
        except StillHot as hot:
            why = Failed(Failure.THROTTLED, f"throttled: {hot}")
        except Failed as error:
            why = error
            if why.failure is Failure.DEADLINE:
                self.files.stop_leftovers()
        kept = {**details, **_kept(throttled), **crashes.of_launch()}
        return failed(labels, started, why, kept)

    def _until_cool(
        self, make: Callable[[str], Launch], throttled: list[dict[str, Any]], crashes: Crashes
    ) -> Launch:
        """Return the first launch that the phone did not throttle in; fills both records."""
        reason = None
        while len(throttled) <= self.repeats:
            waited_s = self.thermals.wait_until_cool(was_throttled=bool(throttled))
            started = now()
            try:
                launch = _whole(make(started))
            except Failed as why:
                crashes.forgive(why, started)
                self.thermals.say(f"{why.reason}: once more")
                continue
            canary_ms = self.thermals.measure()
            own = {"canary_ms": canary_ms, "waited_s": waited_s, **self._temperatures()}
            reason = self.thermals.throttled(canary_ms)
            if reason is None or launch.error is not None:
                return replace(launch, details={**launch.details, **own})
            throttled.append({**own, "reason": reason, "samples_ms": list(launch.samples_ms)})
        raise Failed(Failure.THROTTLED, f"throttled {len(throttled)} times: {reason}")

    def _temperatures(self) -> dict[str, Any]:
        state = self.thermals.latest
        if state is None:
            return {}
        return {
            "skin_c": state.skin_c,
            "battery_c": state.battery_c,
            "thermal_status": state.thermal_status,
        }


def may_pass(launch: Launch, thermals: Thermals) -> bool:
    """Tell whether a launch failed for heat alone: that says nothing of the row's later ones.

    Of a phone that is not waited for any more it is not believed that it cools.
    """
    return launch.details.get("failure") == Failure.THROTTLED and not thermals.gave_up


def _whole(launch: Launch) -> Launch:
    """Return a launch as it is.

    Raises:
        Failed: it crashed, as a vendor's program that says so in its launch.

    """
    if launch.error is not None and launch.details.get("failure") == Failure.CRASHED:
        raise Failed(Failure.CRASHED, launch.error)
    return launch


def _kept(throttled: list[dict[str, Any]]) -> dict[str, Any]:
    return {"throttled_launches": throttled} if throttled else {}
