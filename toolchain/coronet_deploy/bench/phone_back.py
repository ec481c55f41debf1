"""A phone that went away and came back, perhaps by a restart: wait for it, make it what it was."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from coronet_deploy.bench.adb import AdbError, AdbTimeout, Device, DeviceLost
from coronet_deploy.bench.phone_state import read_state, set_fixed_performance
from coronet_deploy.vocabulary import Run

_BOOTED = ("getprop", "sys.boot_completed")
_ANSWER_S = 10.0
_POLL_S = 0.5


class PhoneGone(AdbError):
    """The phone went away for good, or refuses what a bench needs.

    `run` holds what had finished, `planned` counts all launches.
    """

    def __init__(self, error: AdbError, run: Run, planned: int) -> None:
        super().__init__(error.what, hint=error.hint, serial=error.serial)
        self.run = run
        self.planned = planned


def wait_until_up(device: Device, seconds: float) -> None:
    """Wait for the phone to be there, and for Android to have started, at most `seconds`.

    Raises:
        DeviceLost: it was not so in time.

    """
    end = time.monotonic() + seconds
    device.wait(seconds)
    while not _has_started(device):
        if time.monotonic() >= end:
            raise DeviceLost(
                f"phone {device.serial} is back, but had not started after {seconds:g} s",
                hint="wait until it has, or allow more with --reconnect",
                serial=device.serial,
            )
        time.sleep(_POLL_S)


def _has_started(device: Device) -> bool:
    with contextlib.suppress(AdbTimeout, DeviceLost):  # its daemon may start more than once
        return device.shell(_BOOTED, seconds=_ANSWER_S).text == "1"
    return False


def fix_again(device: Device, conditions: dict[str, Any]) -> list[str]:
    """Set fixed-performance mode where `conditions` say "on"; correct them and note if it fails.

    Raises:
        DeviceLost: the phone went away.

    """
    if conditions.get("fixed_performance") != "on":
        return []
    refused = set_fixed_performance(device)
    if refused is None:
        return []
    conditions["fixed_performance"] = refused
    return [f"Without fixed-performance mode since the phone came back: {refused}."]


def state_after(device: Device, notes: list[str]) -> dict[str, Any] | None:
    """Return the phone's conditions after the last launch; one that is gone by then is noted."""
    try:
        return read_state(device).as_json()
    except DeviceLost:
        notes.append("The phone went away after the last launch: its state then is not known.")
        return None
