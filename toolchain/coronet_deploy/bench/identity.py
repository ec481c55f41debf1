"""Which phone it is, however it is attached: by cable, or by the network under ever new addresses.

What adb calls a phone's serial is its own over USB, and an address over the network: wireless
debugging chooses another port each time. A phone's own serial stays.
"""

from __future__ import annotations

from collections.abc import Mapping

_OWN = ("ro.serialno", "ro.boot.serialno")
# What makers leave in phones that they give no serial of their own.
_NONE = frozenset({"", "unknown", "123456789", "1234567890", "123456789abcdef", "1234567890abcdef"})


def identity(serial: str, properties: Mapping[str, str], emulated: str | None) -> dict[str, str]:
    """Return which phone it was as a run keeps it: its "serial", and its "address", adb's name.

    Where the phone tells no serial of its own, as an emulator that shares it with others, it is
    `serial`, the one that adb goes by.
    """
    own = own_serial(properties)
    return {"serial": serial if own is None or emulated else own, "address": serial}


def own_serial(properties: Mapping[str, str]) -> str | None:
    """Return the serial that a phone tells of itself by its properties, if it has one."""
    told = (properties.get(key, "").strip() for key in _OWN)
    return next((one for one in told if one.lower().lstrip("0") not in _NONE), None)
