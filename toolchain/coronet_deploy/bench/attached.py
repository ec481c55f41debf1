"""A phone that the adb server knows: in what state it is, and what a person can do about that."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

DEVICE, ABSENT, SHARED = "device", "absent", "one of several"
"""States of a phone that is ready, of one that adb does not list, and of those with one serial."""

SILENT = "not answering"
"""The state of a phone that adb lists as ready, and that answers nothing."""

SLOW = "slow to answer"
"""The state of a phone that answers, and does not say in time what it is."""

TOO_OLD = "too old"
"""The state of a phone whose Android lacks what every command on it needs."""

SERIAL_VARIABLE = "ANDROID_SERIAL"
"""The variable by which adb itself chooses one of several phones."""

_LOST_ADVICE = "is it plugged in and switched on?"
_MDNS_ADVICE = "is it switched on and in this network, with wireless debugging on?"
_MDNS = re.compile(r"\._adb[a-z-]*\._tcp")

_ADVICE = {
    "unauthorized": "unlock the phone and allow USB debugging for this computer",
    "offline": "plug the cable in again, or `adb reconnect`",
    "no permissions": "install the udev rules for Android phones, then `adb kill-server`",
    "authorizing": "wait a moment, or allow USB debugging on the phone",
    "recovery": "start Android on the phone",
    "sideload": "start Android on the phone",
    "bootloader": "start Android on the phone",
    SILENT: "plug the cable in again; by network, `adb disconnect` and connect it again",
    SLOW: "it is busy, or still starting: wait until it is idle, or restart it",
    TOO_OLD: "use a phone with a newer Android",
    SHARED: "they have one serial, which adb cannot tell apart: attach only one of them",
}


@dataclass(frozen=True)
class Attached:
    """A phone that the adb server knows: `state` is "device" when it is ready."""

    serial: str
    state: str

    @property
    def advice(self) -> str | None:
        """What a person can do about a state other than "device"."""
        if self.state == DEVICE:
            return None
        return _of_address(self.serial, self.state) or _ADVICE.get(self.state, "see `adb devices`")


def serial_said(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the serial that `ANDROID_SERIAL` says, of this process unless an environment is given.

    An empty one says none, as for adb.
    """
    told = os.environ if environment is None else environment
    return told.get(SERIAL_VARIABLE) or None


def is_address(serial: str) -> bool:
    """Tell whether adb's name of a phone is its HOST:PORT on the network."""
    return ":" in serial


def advice_for(state: str, serial: str) -> str:
    """Return what a person can do about a phone in `state`; one that is ready by it was lost."""
    lost = _MDNS_ADVICE if _MDNS.search(serial) else _LOST_ADVICE
    return _of_address(serial, state) or _ADVICE.get(state, lost)


def _of_address(serial: str, state: str) -> str | None:
    """Return what is to be done about a phone whose connection by the network is gone."""
    if not is_address(serial) or state not in {DEVICE, ABSENT, SILENT, "offline"}:
        return None
    drop = "" if state == ABSENT else f"`adb disconnect {serial}`, then "
    return f"is it switched on and in this network? {drop}`adb connect {serial}`"
