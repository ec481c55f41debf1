"""A phone that went away and came back, perhaps by a restart: wait for it, make it what it was."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from coronet_deploy.bench.adb import AdbError, AdbTimeout, Device, DeviceLost, call_adb
from coronet_deploy.bench.attached import ABSENT, DEVICE, advice_for, is_address
from coronet_deploy.bench.conditions import State, cautions
from coronet_deploy.bench.phone_state import read_state, set_fixed_performance
from coronet_deploy.vocabulary import Run

_BOOTED = ("getprop", "sys.boot_completed")
_ANSWER_S = 10.0
_QUICK_S = 15.0
_RECONNECT_EVERY_S = 2.0
_POLL_S = 0.5


class PhoneGone(AdbError):
    """The phone went away for good, or refuses what a bench needs.

    `run` holds what had finished, `planned` counts all launches.
    """

    def __init__(self, error: AdbError, run: Run, planned: int) -> None:
        super().__init__(error.what, hint=error.hint, serial=error.serial)
        self.run = run
        self.planned = planned


def wait_until_ready(device: Device, seconds: float) -> None:
    """Wait for adb to have the phone again, connecting anew to one on the network.

    Raises:
        DeviceLost: it was not so within `seconds`.

    """
    end = time.monotonic() + seconds
    by_network = is_address(device.serial)
    if by_network and device.unsure:  # adb takes long to see that such a connection is dead
        with contextlib.suppress(AdbError):
            call_adb(["disconnect", device.serial], seconds=_QUICK_S)
    connected = -_RECONNECT_EVERY_S
    while (state := device.state) != DEVICE:
        if time.monotonic() >= end:
            raise DeviceLost(
                f"phone {device.serial} is {state}, and was not back after {seconds:g} s",
                hint=advice_for(state, device.serial),
                serial=device.serial,
            )
        if by_network and time.monotonic() >= connected + _RECONNECT_EVERY_S:
            connected = time.monotonic()
            with contextlib.suppress(AdbError):  # tried again until the time is up
                if state != ABSENT:
                    call_adb(["disconnect", device.serial], seconds=_QUICK_S)
                # Whether that worked is told by the list alone: the client's status does not tell.
                call_adb(["connect", device.serial], seconds=_QUICK_S)
        time.sleep(_POLL_S)


def wait_until_up(device: Device, seconds: float) -> None:
    """Wait for the phone to be there, and for Android to have started, at most `seconds`.

    Raises:
        DeviceLost: it was not so in time.

    """
    end = time.monotonic() + seconds
    wait_until_ready(device, seconds)
    while not _has_started(device):
        if time.monotonic() >= end and device.unsure:
            raise DeviceLost(
                f"phone {device.serial} is listed by adb, but did not answer for {seconds:g} s",
                hint=advice_for(DEVICE, device.serial),
                serial=device.serial,
            )
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


def state_after(device: Device, before: State, notes: list[str]) -> dict[str, Any] | None:
    """Return the phone's conditions after the last launch; notes what came meanwhile, or a loss."""
    try:
        after = read_state(device)
    except DeviceLost:
        notes.append("The phone went away after the last launch: its state then is not known.")
        return None
    told = cautions(before)
    notes += [f"After the last launch: {one}" for one in cautions(after) if one not in told]
    return after.as_json()
