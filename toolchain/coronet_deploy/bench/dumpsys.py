"""What Android's `dumpsys` says of heat, battery and screen, read into plain values.

The formats are those of Android 12 to 16 (ThermalManagerService, BatteryService and
PowerManagerService of the Android Open Source Project), with what makers make of them: sensors
that always read 0.0, thresholds left out, digits of the phone's language. What is not there is
None, never a guess.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

THERMAL_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal statuses by number."""

CPU, GPU, BATTERY, SKIN = 0, 1, 2, 3
"""Android's kinds of temperatures (android.hardware.thermal.TemperatureType)."""

_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>[^\s,}]+(?:,\w+)?), mType=(?P<kind>-?\w+), "
    r"mName=(?P<name>.*?), mStatus=(?P<status>-?\w+)\}"
)
_FROM_HAL = "Current temperatures from HAL:"
# Sensors that are not there read 0.0 on Samsung's phones, and far outside of this elsewhere.
_COLDEST_C, _HOTTEST_C = -40.0, 150.0
_CHARGING = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_SOURCES = {"AC": "ac", "USB": "usb", "Wireless": "wireless", "Dock": "dock"}
_WAKEFULNESS = {"Awake": "on", "Dreaming": "on", "Dozing": "off", "Asleep": "off"}


@dataclass(frozen=True)
class Temperature:
    """One sensor: Android's kind of temperature, the maker's name of it, degrees Celsius."""

    kind: int
    name: str
    celsius: float


@dataclass(frozen=True)
class Thermal:
    """Android's view of heat: the status's number, 0 none to 6 shutdown, and the sensors.

    `overridden` is true if somebody set the status by hand (`cmd thermalservice`).
    """

    status: int | None
    temperatures: tuple[Temperature, ...]
    overridden: bool

    def hottest(self, kind: int) -> float | None:
        """Return the highest temperature of a kind, in degrees Celsius."""
        return max((one.celsius for one in self.temperatures if one.kind == kind), default=None)


@dataclass(frozen=True)
class Battery:
    """Percent of full, degrees Celsius, what powers the phone, and whether it is charging.

    `power` is "battery", "ac", "usb", "wireless" or "dock". `faked` is true if somebody set the
    values by hand (`dumpsys battery set`), so that they say nothing of the phone.
    """

    percent: int | None
    celsius: float | None
    power: str | None
    charging: str | None
    faked: bool


def parse_thermal(text: str) -> Thermal:
    """Return what `dumpsys thermalservice` says."""
    plain = _ascii_digits(text)
    status = re.search(r"Thermal Status: (\d)", plain)
    # The cached values are those of the last change, and may be hours old.
    cached, _, current = plain.partition(_FROM_HAL)
    found = _temperatures(current) or _temperatures(cached)
    return Thermal(
        status=int(status[1]) if status and int(status[1]) < len(THERMAL_STATUSES) else None,
        temperatures=found,
        overridden=re.search(r"IsStatusOverride: true", plain) is not None,
    )


def parse_battery(text: str) -> Battery:
    """Return what `dumpsys battery` says."""
    plain = _ascii_digits(text)
    fields = dict(re.findall(r"^\s*([A-Za-z][A-Za-z ]*?): *(\S.*?)\s*$", plain, re.MULTILINE))
    level, scale, tenths = (_number(fields.get(key)) for key in ("level", "scale", "temperature"))
    powered = {name: fields.get(f"{word} powered") for word, name in _SOURCES.items()}
    on = [name for name, told in powered.items() if told == "true"]
    known = any(told in {"true", "false"} for told in powered.values())
    return Battery(
        percent=None if level is None else round(100 * level / (scale or 100)),
        celsius=None if tenths is None or not plausible(tenths / 10) else tenths / 10,
        power=(on[0] if on else "battery") if known else None,
        charging=_CHARGING.get(int(_number(fields.get("status")) or 0)),
        faked="UPDATES STOPPED" in plain,
    )


def parse_screen(text: str) -> str | None:
    """Return "on" or "off" of `dumpsys power`, None if it does not tell."""
    found = re.search(r"\bm?Wakefulness=(\w+)", text)
    return _WAKEFULNESS.get(found[1]) if found else None


def _temperatures(text: str) -> tuple[Temperature, ...]:
    found = []
    for one in _TEMPERATURE.finditer(text):
        value, kind = _number(one["value"]), _number(one["kind"])
        if value is not None and kind is not None and plausible(value):
            found.append(Temperature(int(kind), one["name"], value))
    return tuple(found)


def plausible(celsius: float) -> bool:
    """Tell whether a sensor means it: absent ones say 0, or what no phone lives through."""
    return _COLDEST_C < celsius < _HOTTEST_C and celsius != 0


def _number(text: str | None) -> float | None:
    # As long as a double is printed, and no longer: what is past all bounds is not a reading.
    pattern = r"(-?[0-9]{1,18})(?:[.,]([0-9]{1,18}))?(?:[eE]([+-]?[0-9]{1,2}))?"
    found = re.fullmatch(pattern, text or "")
    return float(f"{found[1]}.{found[2] or 0}e{found[3] or 0}") if found else None


def _ascii_digits(text: str) -> str:
    """Return text with the digits of any script as ASCII ones, their decimal sign as a point."""
    if text.isascii():
        return text
    digits = (str(unicodedata.digit(one)) if one.isdecimal() else one for one in text)
    return "".join(digits).replace("\N{ARABIC DECIMAL SEPARATOR}", ".")
