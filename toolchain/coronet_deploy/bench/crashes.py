"""What crashed is started once more: the system may have ended it.

A machine that is short of memory kills what is nearest, and a phone's driver may fail once in a
hundred starts. One crash says little of an artifact, so it costs no row; two in a row do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coronet_deploy.bench.launch import Failed, Failure
from coronet_deploy.vocabulary import Launch

_LAUNCHES, _TRIAL = "crashed_launches", "crashed_trials"


@dataclass
class Crashes:
    """The crashes of one launch or trial, which may be made once more after the first."""

    _kept: list[dict[str, Any]] = field(default_factory=list)

    def forgive(self, why: Failed, started: str | None) -> None:
        """Take note of a first crash of what began at `started`.

        Raises:
            Failed: it is the second, and then tells both; or no crash.

        """
        if why.failure is not Failure.CRASHED:
            raise why
        if self._kept:
            first = self._kept[0]["reason"]
            told = "twice" if why.reason == first else f"and before that: {first}"
            raise Failed(why.failure, f"{why.reason}, {told}", why.stderr) from why
        self._kept.append({"started": started, "reason": why.reason, "stderr": why.stderr})

    def of_launch(self) -> dict[str, Any]:
        """Return what a launch's record keeps of them, if there were any."""
        return {_LAUNCHES: self._kept} if self._kept else {}

    def of_trial(self) -> dict[str, Any]:
        """Return what the record of a trial's launches keeps of them, if there were any."""
        return {_TRIAL: self._kept} if self._kept else {}


def made_again(make: Callable[[], Launch], say: Callable[[str], None]) -> Launch:
    """Return the launch that `make` returns; if it crashed, which `say` is told, the second."""
    crashes = Crashes()
    while True:
        made = make()
        if made.error is None:
            return replace(made, details={**made.details, **crashes.of_launch()})
        failure, stderr = Failure(made.details["failure"]), made.details["stderr"]
        try:
            crashes.forgive(Failed(failure, made.error, stderr), made.started)
        except Failed as why:
            details = {**made.details, **crashes.of_launch()}
            return replace(made, details=details, error=why.reason)
        say(f"{made.error}: once more")


def crash_notes(launches: Iterable[Launch]) -> list[str]:
    """Return a note for each row whose launches, or whose trial, crashed once and then did not."""
    told: dict[str, None] = {}
    for one in launches:
        if one.error is not None:
            continue
        place, threads = f"{one.artifact} on {one.target.backend}", one.target.threads
        row = f"{place}, {threads} thread{'' if threads == 1 else 's'}"
        for what, key in (
            (f"{row}: a launch was made again", _LAUNCHES),
            (f"{place}: it was tried again", _TRIAL),
        ):
            for reason in _reasons(one, key):
                told[f"{what} after a crash: {reason}."] = None
    return list(told)


def _reasons(launch: Launch, key: str) -> list[str]:
    """Return why launches crashed, of a record that may be from a file of anybody's."""
    kept = launch.details.get(key)
    crashes = kept if isinstance(kept, list | tuple) else ()
    return [str(one["reason"]) for one in crashes if isinstance(one, Mapping) and "reason" in one]
