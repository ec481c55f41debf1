"""A phone's conditions: judged, and read from a virtual phone over the real adb."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coronet_deploy.bench.adb import AdbTimeout, Device, DeviceLost, ShellResult
from coronet_deploy.bench.conditions import Limits, Policy, State, cautions, cool
from coronet_deploy.bench.phone_state import fixed_performance, read_facts, read_state
from virtual_phone import VirtualPhone, thermal

FIXTURES = Path(__file__).with_name("fixtures") / "dumpsys"


@pytest.mark.parametrize(
    ("state", "verdict", "reason"),
    [
        (State(thermal_status=0, skin_c=31.0, battery_c=30.0), True, "skin at 31.0 C, battery at"),
        (State(thermal_status=1, skin_c=31.0), False, "thermal status is light"),
        (State(thermal_status=6), False, "shutdown"),
        (State(thermal_status=0, skin_c=36.5), False, "skin is at 36.5 C, above 36"),
        (State(battery_c=40.2), False, "battery is at 40.2 C"),
        (State(thermal_status=0), True, "status is none"),
        (State(skin_c=30.0), True, "skin at 30.0 C"),
        (State(), None, "neither"),
        # What somebody set by hand tells nothing, in either direction.
        (State(thermal_status=4, skin_c=30.0, overridden=("thermal_status",)), True, "skin at"),
        (State(thermal_status=0, overridden=("thermal_status",)), None, "neither"),
        (State(battery_c=50.0, skin_c=30.0, overridden=("battery",)), True, "skin"),
    ],
)
def test_a_phone_is_cool_or_not_with_the_reason(
    state: State, verdict: bool | None, reason: str
) -> None:
    judgement = cool(state)
    assert judgement.cool is verdict
    assert reason in judgement.reason


def test_limits_may_be_others() -> None:
    warm = State(thermal_status=1, skin_c=38.0)
    assert cool(warm, Limits(skin_c=40.0, thermal_status=1)).cool is True


def test_what_to_be_wary_of_is_told() -> None:
    state = State(
        power="usb",
        low_power=True,
        screen="on",
        airplane=False,
        battery_percent=12,
        policies=(
            Policy((0, 1, 2), "walt", 1000, 2000, 2000),
            Policy((3, 4, 5, 6), "walt", 1000, 1800, 2800),
            Policy((7,), "walt", 1000, 2400, 3187),
        ),
        overridden=("battery",),
    )
    told = "\n".join(cautions(state))
    assert told.count("\n") == 7
    for part in (
        "powered by usb",
        "Battery saver",
        "screen",
        "Airplane mode was off",
        "at 12 %",
        "CPU 3-6 may run at 1800 MHz of 2800",
        "CPU 7 may run at 2400 MHz of 3187",
        "battery was set by hand",
    ):
        assert part in told
    assert cautions(State(power="battery", airplane=True, low_power=False, screen="off")) == ()
    assert cautions(State()) == ()


@pytest.fixture
def device(phone: VirtualPhone) -> Iterator[Device]:
    kept = {
        path: path.read_text()
        for folder in ("dumpsys", "settings")
        for path in (phone.root / "fake" / folder).iterdir()
    }
    yield Device(phone.serial)
    for path, text in kept.items():
        path.write_text(text)


def test_conditions_are_read_from_a_phone(device: Device, phone: VirtualPhone) -> None:
    phone.fake("dumpsys/thermalservice", (FIXTURES / "thermal-android12-hal2.txt").read_text())
    state = read_state(device)
    assert (state.thermal_status, state.skin_c, state.battery_c) == (0, 30.114, 28.4)
    assert (state.battery_percent, state.power, state.charging) == (87, "usb", "charging")
    assert (state.screen, state.airplane, state.low_power) == ("off", True, False)
    clusters = phone.model.clusters
    assert [one.cpus for one in state.policies] == [
        tuple(range(one.first, one.last + 1)) for one in clusters
    ]
    assert state.policies[-1].max_mhz == round(clusters[-1].max_khz / 1000)
    assert {one.governor for one in state.policies} == {"walt"}
    assert not any(one.capped for one in state.policies)
    assert state.unavailable == {}
    assert json.loads(json.dumps(state.as_json())) == state.as_json()


def test_what_a_phone_hides_is_said_to_be_hidden(device: Device, phone: VirtualPhone) -> None:
    phone.fake("dumpsys/thermalservice", None)
    phone.fake("dumpsys/power", "POWER MANAGER (dumpsys power)\n")
    phone.fake("settings/global.low_power", None)
    state = read_state(device)
    assert state.skin_c is None
    assert "Can't find service" in state.unavailable["skin_c"]
    assert "`dumpsys thermalservice`" in state.unavailable["thermal_status"]
    assert set(state.unavailable) == {
        "thermal_status", "skin_c", "cpu_c", "gpu_c", "screen", "low_power",
    }  # fmt: skip
    assert "does not tell" in state.unavailable["low_power"]
    assert state.battery_percent == 87
    assert cool(state).reason == "battery at 28.4 C"


def test_thermal_zones_serve_where_the_service_does_not(
    device: Device, phone: VirtualPhone
) -> None:
    phone.fake("dumpsys/thermalservice", (FIXTURES / "thermal-no-hal.txt").read_text())
    zones = phone.root / "sys" / "class" / "thermal"
    readings = [("cpu-1-0", 45200), ("cpu-1-1", 47100), ("skin-msm-therm", 38700), ("battery", 0)]
    # Sensors that are absent, or count in tenths.
    readings += [("gpu-0", -127000), ("skin-2", 385)]
    for number, (kind, milli) in enumerate(readings):
        zone = zones / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{milli}\n")
    state = read_state(device)
    assert (state.skin_c, state.cpu_c, state.gpu_c) == (38.7, 47.1, None)
    assert cool(state).cool is False
    for number in range(len(readings)):
        for name in ("type", "temp"):
            (zones / f"thermal_zone{number}" / name).unlink()


def test_heat_is_seen_as_it_comes_and_goes(device: Device, phone: VirtualPhone) -> None:
    for status, skin, verdict in ((0, 31.5, True), (2, 41.0, False), (0, 33.0, True)):
        phone.fake("dumpsys/thermalservice", thermal(status, skin))
        assert cool(read_state(device)).cool is verdict


def test_what_a_phone_is(device: Device, phone: VirtualPhone) -> None:
    facts = read_facts(device, device.properties())
    assert facts["model"] == phone.model.name
    assert facts["build"] == phone.model.properties["ro.build.fingerprint"]
    assert (facts["soc"], facts["api_level"]) == ("SM8550", "34")
    assert facts["kernel"]
    assert facts["memory_mb"] > 0
    assert facts["security_patch"] is None
    json.dumps(facts)


def test_fixed_performance_mode_is_undone(device: Device) -> None:
    def now() -> str | None:
        return device.read_text("/data/local/tmp/.fixed_performance")

    with fixed_performance(device) as refused:
        assert refused is None
        assert now() == "true"
    assert now() == "false"
    with pytest.raises(KeyboardInterrupt), fixed_performance(device):  # noqa: PT012 - as it comes
        assert now() == "true"
        raise KeyboardInterrupt
    assert now() == "false"


class Scripted(Device):
    """A phone that answers each command with a status and a text, or an error."""

    def __init__(self, answer: ShellResult | Exception) -> None:
        super().__init__("R5", adb="adb")
        self.answer = answer
        self.asked: list[str] = []

    def shell(
        self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
    ) -> ShellResult:
        assert seconds > 0
        assert not check
        self.asked.append(argv if isinstance(argv, str) else " ".join(argv))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_phone_without_fixed_performance_mode_says_why() -> None:
    told = b"Failed to set FIXED_PERFORMANCE mode\nThis is likely because Power HAL is missing\n"
    phone = Scripted(ShellResult(255, b"", told))
    with fixed_performance(phone) as refused:
        assert refused is not None
        assert "Power HAL" in refused
    assert len(phone.asked) == 1
    slow = Scripted(AdbTimeout("did not end in 20 s"))
    with fixed_performance(slow) as refused:
        assert refused == "it did not answer"


def test_a_service_that_hangs_costs_its_values_only() -> None:
    state = read_state_of_hanging()
    assert state.thermal_status is None
    assert "did not answer" in state.unavailable["thermal_status"]
    with pytest.raises(DeviceLost):
        read_state(Scripted(DeviceLost("gone")))


def read_state_of_hanging() -> State:
    class Hanging(Scripted):
        def shell(
            self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
        ) -> ShellResult:
            if isinstance(argv, list) and argv[0] == "dumpsys":
                raise AdbTimeout("did not end in 20 s")
            return super().shell(argv, seconds=seconds, check=check)

    return read_state(Hanging(ShellResult(0, b"", b"")))


def test_files_that_cannot_be_read_in_time_cost_their_values_only() -> None:
    class Stuck(Scripted):
        def shell(
            self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
        ) -> ShellResult:
            if isinstance(argv, str) and argv.startswith("for f in"):
                raise AdbTimeout("did not end in 20 s")
            return super().shell(argv, seconds=seconds, check=check)

    state = read_state(Stuck(ShellResult(0, b"", b"")))
    assert state.policies == ()
    assert "cannot be read" in state.unavailable["policies"]
