"""A phone that the adb server knows: in what state it is, and what a person can do about that."""

from __future__ import annotations

from dataclasses import dataclass

DEVICE, ABSENT, SHARED = "device", "absent", "one of several"
"""States of a phone that is ready, of one that adb does not list, and of those with one serial."""

SILENT = "not answering"
"""The state of a phone that adb lists as ready, and that answers nothing."""

TOO_OLD = "too old"
"""The state of a phone whose Android lacks what every command on it needs."""

LOST_ADVICE = "is it plugged in and switched on?"

_ADVICE = {
    "unauthorized": "unlock the phone and allow USB debugging for this computer",
    "offline": "plug the cable in again, or `adb reconnect`",
    "no permissions": "install the udev rules for Android phones, then `adb kill-server`",
    "authorizing": "wait a moment, or allow USB debugging on the phone",
    "recovery": "start Android on the phone",
    "sideload": "start Android on the phone",
    "bootloader": "start Android on the phone",
    SILENT: "plug the cable in again; by network, `adb disconnect` and connect it again",
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
        return None if self.state == DEVICE else _ADVICE.get(self.state, "see `adb devices`")


def advice_for(state: str) -> str:
    """Return what a person can do about a phone in `state`; one that is ready by it was lost."""
    return _ADVICE.get(state, LOST_ADVICE)
