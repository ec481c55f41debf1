"""Which attached phone `--device` means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coronet_deploy.bench.adb import DeviceLost
from coronet_deploy.bench.attached import Attached
from coronet_deploy.bench.choose import Candidate, candidates, choose
from coronet_deploy.bench.process import Limit
from coronet_deploy.errors import BadInput, EnvironmentProblem
from virtual_phone import VirtualPhone

PROPERTIES: dict[str, dict[str, str]] = {
    "R5CT30": {"ro.soc.model": "SM8550", "ro.product.model": "SM-S911B"},
    "R5CT31": {"ro.soc.model": "SM8550", "ro.product.model": "SM-S918B"},
    "10.0.0.7:5555": {
        "ro.soc.model": "s5e9945",
        "ro.product.model": "SM-S926N",
        "ro.serialno": "R3CX77",
    },
    "OLD": {"ro.soc.model": "SM8150", "ro.product.model": "Old"},
}


def properties_of(serial: str, _limit: Limit) -> Mapping[str, str]:
    if serial not in PROPERTIES:
        raise DeviceLost(f"phone {serial} is absent")
    return PROPERTIES[serial]


def attached(**states: str) -> tuple[Candidate, ...]:
    known = [
        Attached(serial.replace("_", ".").replace("N", "10.0.0.7:5555"), state)
        for serial, state in states.items()
    ]
    return candidates(known, properties_of=properties_of)


@pytest.mark.parametrize(
    ("name", "serial", "expected"),
    [
        ("sm8550", None, "R5CT30"),
        ("Snapdragon 8 Gen 2", None, "R5CT30"),
        ("exynos2400", None, "10.0.0.7:5555"),
        ("10.0.0.7:5555", None, "10.0.0.7:5555"),
        ("R5CT30", None, "R5CT30"),
        ("any", "OLD", "OLD"),
        ("OLD", None, "OLD"),
        ("sm8550", "R5CT30", "R5CT30"),
        ("any", "R3CX77", "10.0.0.7:5555"),
        ("exynos2400", "R3CX77", "10.0.0.7:5555"),
        ("R3CX77", None, "10.0.0.7:5555"),
    ],
)
def test_a_phone_is_found_by_chipset_or_serial(
    name: str, serial: str | None, expected: str
) -> None:
    found = choose(name, attached(R5CT30="device", N="device", OLD="device"), serial=serial)
    assert found.attached.serial == expected
    assert (found.profile is None) == (expected == "OLD")


def test_of_several_the_flag_that_decides_is_named() -> None:
    both = attached(R5CT30="device", R5CT31="device", N="device")
    with pytest.raises(
        BadInput, match=r"any of R5CT30 \(SM-S911B, Snapdragon.*R5CT31.*--serial R5CT30\)$"
    ) as caught:
        choose("sm8550", both)
    assert "s5e9945" not in str(caught.value)
    assert choose("sm8550", both, serial="R5CT31").attached.serial == "R5CT31"
    with pytest.raises(BadInput, match="could be any of"):
        choose("any", both)


@pytest.mark.parametrize(
    ("name", "serial", "variable", "expected"),
    [
        ("sm8550", None, "R5CT31", "R5CT31"),
        ("any", None, "R5CT31", "R5CT31"),
        ("any", None, "R3CX77", "10.0.0.7:5555"),  # its own serial
        ("any", None, "OLD", "OLD"),
        ("sm8550", "R5CT30", "R5CT31", "R5CT30"),
        ("sm8550", "R5CT30", "ELSEWHERE", "R5CT30"),
        ("R5CT30", None, "R5CT31", "R5CT30"),
        ("R3CX77", None, "ELSEWHERE", "10.0.0.7:5555"),
    ],
)
def test_where_no_serial_is_given_the_variable_of_adb_says_one(
    name: str, serial: str | None, variable: str, expected: str
) -> None:
    every = attached(R5CT30="device", R5CT31="device", N="device", OLD="device")
    assert choose(name, every, serial=serial, variable=variable).attached.serial == expected


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        (
            "ELSEWHERE",
            r"no such phone is attached; attached: R5CT30.*\(unset ANDROID_SERIAL; --ser",
        ),
        ("10.0.0.9:5555", r"no such phone is attached; .*\(adb connect 10\.0\.0\.9:5555, or unset"),
        ("R3CX77", r"10\.0\.0\.7:5555 \(SM-S926N, Exynos 2400\) has another chipset \(unset ANDR"),
        ("OLD", r"OLD \(Old, SM8150\) has another chipset"),
        ("R5CT31", r"phone R5CT31 is offline .*reconnect"),
    ],
)
def test_a_variable_that_names_no_phone_that_could_be_meant_is_told(
    variable: str, told: str
) -> None:
    # Though one phone of the chipset is ready: adb would not take it either.
    every = attached(R5CT30="device", R5CT31="offline", N="device", OLD="device")
    with pytest.raises(
        EnvironmentProblem, match=f"^--device sm8550 and ANDROID_SERIAL={variable}: {told}"
    ):
        choose("sm8550", every, variable=variable)


def test_a_serial_of_its_own_that_two_have_names_neither_and_adbs_name_goes_first() -> None:
    own = {"ro.serialno": "R3CX77"}
    usb, wifi, named = (
        Candidate(Attached(serial, "device"), own, None)
        for serial in ("R3CX77", "10.0.0.7:5555", "adb-R3CX77-x._adb-tls-connect._tcp")
    )
    assert choose("any", [wifi, usb, named], serial="R3CX77") == usb
    with pytest.raises(BadInput, match=r"any of 10\.0\.0\.7:5555.*--serial 10\.0\.0\.7:5555\)$"):
        choose("any", [wifi, named], serial="R3CX77")
    # Makers leave it in phones that they give none.
    made_up = {"ro.serialno": "0123456789ABCDEF"}
    nameless = Candidate(Attached("10.0.0.8:5555", "device"), made_up, None)
    with pytest.raises(EnvironmentProblem, match="no such phone"):
        choose("any", [nameless], serial="0123456789ABCDEF")


def test_one_that_is_not_ready_does_not_stand_in_the_way() -> None:
    found = choose("sm8550", attached(R5CT30="device", R5CT31="unauthorized"))
    assert found.attached.serial == "R5CT30"


def test_without_the_phone_it_is_told_what_is_attached() -> None:
    with pytest.raises(
        EnvironmentProblem,
        match=r"--device mt6989: no such phone.*SM-S926N, Exynos 2400.*--device 10\.0\.0\.7:5555",
    ):
        choose("mt6989", attached(N="device"))
    with pytest.raises(EnvironmentProblem, match=r"none is attached.*USB debugging"):
        choose("sm8550", ())
    with pytest.raises(EnvironmentProblem, match=r"R5CT30 \(unauthorized\).*allow USB debugging"):
        choose("sm8550", attached(R5CT30="unauthorized"))
    with pytest.raises(EnvironmentProblem, match=r"--serial OLD: no such phone"):
        choose("sm8550", attached(R5CT30="device", OLD="device"), serial="OLD")


def test_a_phone_named_by_serial_that_is_not_ready_gets_its_advice() -> None:
    with pytest.raises(EnvironmentProblem, match=r"phone R5CT30 is offline .*reconnect"):
        choose("R5CT30", attached(R5CT30="offline", N="device"))


def test_a_misspelt_chipset_gets_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'sm8551'.*did you mean sm8550"):
        choose("sm8551", attached(R5CT30="device"))


@pytest.mark.parametrize(("name", "serial"), [("sm8150", "OLD"), ("sm-s918b", "R5CT31")])
def test_what_a_phone_says_of_itself_gets_its_serial(name: str, serial: str) -> None:
    with pytest.raises(BadInput, match=rf"'{name}'.*\(--serial {serial} alone takes the phone"):
        choose(name, attached(R5CT31="device", OLD="device"))


@pytest.mark.parametrize("name", ["cpu", "GPU", "localhost"])
def test_what_elsewhere_is_called_a_device_is_told_from_a_phone(name: str) -> None:
    with pytest.raises(BadInput, match=rf"'{name}'.*\(this host is --device host; what of a phone"):
        choose(name, attached(R5CT30="device"))


def test_a_serial_that_is_not_attached_is_told_as_one() -> None:
    with pytest.raises(BadInput, match=r"no attached phone has that serial; attached: R5CT30 \("):
        choose("R5CT31", attached(R5CT30="device"))
    with pytest.raises(
        EnvironmentProblem,
        match=r"10\.0\.0\.7:5555: no such phone.*\(adb connect 10\.0\.0\.7:5555\)",
    ):
        choose("10.0.0.7:5555", attached(R5CT30="device"))


def test_a_phone_by_its_address_that_is_not_there_is_to_be_connected() -> None:
    address = "10.0.0.9:5555"
    told = rf"--serial {address}: no such phone.*\(adb connect {address}\)$"
    for others in (attached(), attached(R5CT30="device"), attached(R5CT30="unauthorized")):
        for name in ("any", "sm8550", address):
            with pytest.raises(EnvironmentProblem, match=told):
                choose(name, others, serial=address)
    # There, and another chipset: what is attached is told.
    with pytest.raises(EnvironmentProblem, match=r"--device .* takes that phone"):
        choose("mt6989", attached(N="device"), serial="10.0.0.7:5555")


def test_a_phone_that_goes_away_while_asked_is_listed_as_such() -> None:
    (one,) = candidates([Attached("GONE", "device")], properties_of=properties_of)
    assert str(one) == "GONE (not answering)"
    # `adb devices` calls it a ready one.
    assert "connect it again" in (one.attached.advice or "")
    assert one.profile is None


def test_a_virtual_phone_is_recognised(phone: VirtualPhone) -> None:
    found = choose("Snapdragon 8 Gen 2", candidates())
    assert found.attached.serial == phone.serial
    assert found.profile is not None
    assert found.profile.id == "sm8550"
