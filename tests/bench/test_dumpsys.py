"""Android's dumps, as versions and makers write them, read into the same plain values."""

from __future__ import annotations

from pathlib import Path

import pytest

from coronet_deploy.bench.dumpsys import (
    BATTERY,
    CPU,
    GPU,
    SKIN,
    Battery,
    parse_battery,
    parse_screen,
    parse_thermal,
)

FIXTURES = Path(__file__).with_name("fixtures") / "dumpsys"


@pytest.mark.parametrize(
    ("name", "status", "skin", "cpu", "gpu", "battery"),
    [
        # The highest of a kind; today's value, not the cached one; 0.0 is no sensor.
        ("thermal-android12-hal2", 0, 30.114, 39.6, 37.0, 28.4),
        ("thermal-android13-samsung", 2, 39.0, 41.3, None, 35.4),
        ("thermal-android14-aidl", 1, 39.2, 52.1, 48.0, 31.0),
        ("thermal-android16-override", 4, 30.9, None, None, 31.0),
        ("thermal-farsi", 3, 41.5, 60.25, None, None),
        ("thermal-comma", 0, 33.5, 45.0, None, None),
        ("thermal-no-hal", 0, None, None, None, None),
    ],
)
def test_heat(
    name: str,
    status: int,
    skin: float | None,
    cpu: float | None,
    gpu: float | None,
    battery: float | None,
) -> None:
    thermal = parse_thermal((FIXTURES / f"{name}.txt").read_text())
    assert thermal.status == status
    assert [thermal.hottest(kind) for kind in (SKIN, CPU, GPU, BATTERY)] == [
        skin,
        cpu,
        gpu,
        battery,
    ]
    assert thermal.overridden == name.endswith("override")


def test_cached_temperatures_serve_where_there_are_no_others() -> None:
    text = (FIXTURES / "thermal-android12-hal2.txt").read_text().partition("HAL Ready")[0]
    assert parse_thermal(text).hottest(SKIN) == 24.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("battery-android12-usb", Battery(87, 28.4, "usb", "charging", faked=False)),
        ("battery-android14-unplugged", Battery(18, 39.5, "battery", "discharging", faked=False)),
        ("battery-samsung-set-by-hand", Battery(50, None, "ac", "full", faked=True)),
    ],
)
def test_battery(name: str, expected: Battery) -> None:
    assert parse_battery((FIXTURES / f"{name}.txt").read_text()) == expected


def test_screen() -> None:
    assert parse_screen((FIXTURES / "power-awake.txt").read_text()) == "on"
    assert parse_screen((FIXTURES / "power-dozing.txt").read_text()) == "off"
    assert parse_screen("  mWakefulness=Somehow\n") is None


@pytest.mark.parametrize("text", ["", "Can't find service: battery", "\0\xff" * 9, "level: -\n"])
def test_nonsense_tells_nothing(text: str) -> None:
    assert parse_battery(text) == Battery(None, None, None, None, faked=False)
    thermal = parse_thermal(text)
    assert (thermal.status, thermal.temperatures) == (None, ())
    assert parse_screen(text) is None


def test_numbers_past_all_bounds_are_no_readings() -> None:
    battery = parse_battery("level: 9e999\nscale: 100\ntemperature: 284\nstatus: 9e999\n")
    assert battery == Battery(None, 28.4, None, None, faked=False)
    text = "Temperature{mValue=31.5, mType=%s, mName=skin, mStatus=0}\n"
    assert parse_thermal(text % "9e999").temperatures == ()
    assert parse_thermal(text % "3").hottest(SKIN) == 31.5
