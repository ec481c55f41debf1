"""A bench on a phone is gone on with as it was begun: same phone, settings and native files."""

from __future__ import annotations

import contextlib
import getpass
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from coronet_deploy.bench import phone_lock
from coronet_deploy.bench.adb import AdbError, Device, DeviceLost
from coronet_deploy.bench.identity import identity
from coronet_deploy.bench.phone_kit import (
    Kit,
    Settings,
    check_planned,
    check_same_bench,
    with_earlier,
)
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.plan import PlannedLaunch, Subject
from coronet_deploy.errors import BadInput
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import Launch, Run, Runtime, Target
from phone_bench import Bench, last_line


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    for name in ("runner", "tflite", "onnx", "qnn", "tool", "other"):
        (tmp_path / name).write_text(name)
    return Kit(
        runner=tmp_path / "runner",
        libraries={Runtime.TFLITE: tmp_path / "tflite", Runtime.ONNX: tmp_path / "onnx"},
        backend_libraries={"qnn": tmp_path / "qnn", "gpu": "/vendor/lib64/libgpu.so"},
        backend_options={"qnn": ("backend_type=htp",)},
        vendor_tools=(tmp_path / "tool",),
    )


def conditions(kit: Kit, settings: Settings, *runtimes: Runtime) -> dict[str, Any]:
    return {
        "device": "sm8550",
        "fingerprint": "samsung/dm1q:14/UP1A/1:user",
        **identity("a", {}, None),
        "settings": settings.as_json(),
        "kit": kit.as_json(runtimes or (Runtime.TFLITE,)),
    }


def earlier(told: dict[str, Any]) -> Run:
    """Return a run of those conditions, as a run file has them."""
    return Run("first", "2026-01-01T00:00:00+00:00", (), json.loads(json.dumps(told)), {}, {}, ())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"runner": "other"}, r"--runner was the file \w{12} then and is the file \w{12} now"),
        ({"libraries": {Runtime.TFLITE: "other"}}, "--litert-library was"),
        ({"backend_libraries": {"qnn": "other", "gpu": "/vendor/lib64/libgpu.so"}},
         "--backend-library qnn was"),
        ({"backend_libraries": {"qnn": "qnn", "gpu": "/vendor/lib64/2.so"}},
         "--backend-library gpu was /vendor/lib64/libgpu.so then and is /vendor/lib64/2.so now"),
        ({"backend_options": {"qnn": ("backend_type=gpu",)}},
         "--backend-option qnn was backend_type=htp then and is backend_type=gpu now"),
        ({"backend_options": {}}, "--backend-option qnn was .* then and is not given now"),
        ({"vendor_tools": ("other",)}, "--vendor-tool was the file"),
        ({"vendor_tools": ()}, "--vendor-tool was the file .* is not given now"),
    ],
)  # fmt: skip
def test_other_native_files_are_named(
    kit: Kit, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(one) for key, one in value.items()}
        if isinstance(value, tuple):
            return tuple(map(placed, value))
        return tmp_path / value if (tmp_path / value).is_file() else value

    now = conditions(replace(kit, **placed(changes)), Settings())
    with pytest.raises(BadInput, match=f"^run first cannot be gone on with: {told}") as refusal:
        check_same_bench(earlier(conditions(kit, Settings())), now)
    assert ";" not in refusal.value.what


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": 5}, "--rounds was 6 then and is 5 now"),
        ({"threads": (4,)}, "--threads was 1,2 then and is 4 now"),
        ({"deadline_s": 9.0}, "--deadline was 300.0 then and is 9.0 now"),
        ({"warmest_c": 40.0}, "--warmest was 36.0 then and is 40.0 now"),
        ({"mask": "f0"}, "--cpu-mask was not given then and is f0 now"),
        ({"allow_fallback": True, "repeats": 0},
         "--allow-fallback was off then and is on now; --repeats was 2 then and is 0 now"),
    ],
)  # fmt: skip
def test_only_the_settings_that_differ_are_named(
    kit: Kit, changes: dict[str, Any], told: str
) -> None:
    now = conditions(kit, replace(Settings(), **changes))
    with pytest.raises(BadInput) as refusal:
        check_same_bench(earlier(conditions(kit, Settings())), now)
    assert refusal.value.what == f"run first cannot be gone on with: {told}"


def test_the_same_bench_is_gone_on_with(kit: Kit) -> None:
    then = conditions(kit, Settings())
    check_same_bench(earlier(then), then)
    # A run of before there was --warmest.
    older = {**then, "settings": {**then["settings"]}}
    del older["settings"]["warmest_c"]
    check_same_bench(earlier(older), then)
    # How long to wait for a phone changes nothing of a launch: a message tells to wait longer.
    longer = replace(Settings(), cool_s=600.0, cool_total_s=600.0, reconnect_s=600.0)
    check_same_bench(earlier(then), conditions(kit, longer))
    # A run that kept nothing of its kit, and one that had no ONNX file yet.
    check_same_bench(earlier({**then, "kit": None}), then)
    check_same_bench(earlier(then), conditions(kit, Settings(), *Runtime))
    with pytest.raises(BadInput, match="the serial was b then and is a now"):
        check_same_bench(earlier({**then, "serial": "b"}), then)


@pytest.mark.parametrize(
    ("first", "again", "same"),
    [
        (("10.0.0.5:37123", "R5CT30"), ("10.0.0.5:40011", "R5CT30"), True),
        (("R5CT30", "R5CT30"), ("adb-R5CT30-x._adb-tls-connect._tcp", "R5CT30"), True),
        (("10.0.0.5:5555", "R5CT30"), ("10.0.0.5:5555", "R5CT31"), False),
        # Of phones without a serial of their own, and so of emulators, adb's decides.
        (("10.0.0.5:37123", "0123456789ABCDEF"), ("10.0.0.6:1", "0123456789ABCDEF"), False),
        (("10.0.0.5:5555", "unknown"), ("10.0.0.5:5555", "unknown"), True),
        (("10.0.0.5:5555", None), ("10.0.0.5:5555", None), True),
    ],
)
def test_a_phone_is_known_by_its_own_serial_and_not_by_its_address(
    kit: Kit, first: tuple[str, str | None], again: tuple[str, str | None], same: bool
) -> None:
    then, now = (
        {
            **conditions(kit, Settings()),
            **identity(address, {"ro.serialno": own} if own else {}, None),
        }
        for address, own in (first, again)
    )
    with contextlib.nullcontext() if same else pytest.raises(BadInput, match="the serial was"):
        check_same_bench(earlier(then), now)


def test_what_was_to_be_known_of_launches_that_are_kept_is_known_of_them_still() -> None:
    saver, usb = "Battery saver was on: it lowers the clocks.", "The phone was powered by usb."
    then = earlier({"notes": [saver, usb]})
    before = f"Before the bench was gone on with: {saver}"
    assert with_earlier([usb, usb], then) == [usb, before]
    again = earlier({"notes": [usb, before]})
    assert with_earlier([usb], again) == [usb, before]
    assert with_earlier([usb], earlier({})) == with_earlier([usb], None) == [usb]


def test_the_conditions_of_kept_launches_are_told_with_them(bench: Bench) -> None:
    saver = bench.phone.root / "fake" / "settings" / "global.low_power"
    saver.write_text("1\n")
    try:
        assert bench("--samples", "5").returncode == 0
    finally:
        saver.write_text("0\n")
    (path,) = bench.output.glob("*.json")
    done = bench("--samples", "5", "--resume", path, "--json")
    assert done.returncode == 0, done.stderr
    assert "launch 1 of 2" not in done.stderr  # it is kept, not made again
    told = [note for note in json.loads(done.stdout)["notes"] if "Battery saver was on" in note]
    assert told == [
        "Before the bench was gone on with: Battery saver was on: it lowers the clocks."
    ]


def test_a_run_that_kept_the_address_as_the_serial_is_gone_on_with(kit: Kit) -> None:
    now = {
        **conditions(kit, Settings()),
        **identity("10.0.0.5:5555", {"ro.serialno": "R5CT30"}, None),
    }
    then = {**now, "serial": "10.0.0.5:5555"}
    del then["address"]
    check_same_bench(earlier(then), now)


def test_a_phone_that_was_updated_meanwhile_is_refused(kit: Kit) -> None:
    then = conditions(kit, Settings())
    now = {**then, "fingerprint": "samsung/dm1q:14/UP1A/2:user"}
    with pytest.raises(BadInput, match="the fingerprint was samsung"):
        check_same_bench(earlier(then), now)
    check_same_bench(earlier({**then, "fingerprint": None}), now)


def test_emulators_are_told_apart_by_adb() -> None:
    told = identity("emulator-5554", {"ro.serialno": "EMULATOR34X0"}, "ro.boot.qemu is 1")
    assert told["serial"] == "emulator-5554"


def test_the_same_phone_at_another_address_goes_on(bench: Bench) -> None:
    prop = bench.phone.root / "system" / "build.prop"
    as_it_was = prop.read_text()
    # As a phone that is a real one says of itself.
    real = as_it_was.replace("ro.boot.qemu=1\n", "").replace("arm64-v8a", "x86_64")
    prop.write_text(f"{real}ro.serialno=R5CT30\n")
    elsewhere = bench.phone.serial.replace("127.0.0.1", "localhost")
    try:
        done = bench("--samples", "5")
        assert done.returncode == 0, done.stderr
        (path,) = bench.output.glob("*.json")
        bench.server.adb("connect", elsewhere)
        more = ("--samples", "5", "--resume", path, "--serial", elsewhere)
        done = bench(*more)
        assert done.returncode == 0, done.stderr
        prop.write_text(f"{real}ro.serialno=R5CT31\n")
        other = bench(*more)
    finally:
        prop.write_text(as_it_was)
        bench.server.adb("disconnect", elsewhere, check=False)
    assert other.returncode == 2
    assert "the serial was R5CT30 then and is R5CT31 now" in last_line(other)
    runs = sorted(map(read_run, bench.output.glob("*.json")), key=lambda one: one.created)
    assert [one.conditions["serial"] for one in runs] == ["R5CT30", "R5CT30"]
    assert {one.conditions["address"] for one in runs} == {bench.phone.serial, elsewhere}


def test_launches_of_two_runners_do_not_get_into_one_row(bench: Bench, tmp_path: Path) -> None:
    done = bench("--samples", "5")
    assert done.returncode == 0, done.stderr
    (path,) = bench.output.glob("*.json")
    other = tmp_path / "other-runner"
    other.write_bytes((bench.kit / "coronet-runner").read_bytes() + b"\0")
    more = ("--samples", "5", "--resume", path)
    done = bench(*more, "--runner", other)
    assert done.returncode == 2
    assert "cannot be gone on with: --runner was the file" in last_line(done)
    plain = json.loads(path.read_text())
    assert set(plain["conditions"]["kit"]) == {"runner", "litert-library"}
    # As runs were before they kept that.
    del plain["conditions"]["kit"]
    path.write_text(json.dumps(plain))
    done = bench(*more, "--runner", other)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [KeyError("uid not found: 12345"), OSError("no user name")])
def test_a_user_without_a_name_holds_a_phone_too(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def nobody() -> NoReturn:
        raise error

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert PhoneLock(Device("a"))._owner.startswith("uid 12345@")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("mkdir: '/data/local/tmp/coronet-deploy': No space left on device", "make room on the"),
        ("mkdir: '/data/local/tmp/coronet-deploy': Permission denied", "can the shell user write"),
    ],
)
def test_a_phone_that_cannot_be_locked_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, hint: str
) -> None:
    adb = tmp_path / "adb"
    adb.write_text(f'#!/bin/sh\necho "{answer}"\nexit 1\n')
    adb.chmod(0o755)
    monkeypatch.setattr(phone_lock, "find_adb", lambda: str(adb))
    with pytest.raises(AdbError, match=f"cannot be locked: .*{hint}"), PhoneLock(Device(answer)):
        pass


@pytest.mark.parametrize("line", ["* daemon not running; starting now at tcp:5037", "warning: x"])
def test_what_adb_says_first_is_not_the_phones_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    adb = tmp_path / "adb"
    adb.write_text(f'#!/bin/sh\necho "{line}"\nsleep 0.2\necho held\ncat\n')
    adb.chmod(0o755)
    monkeypatch.setattr(phone_lock, "find_adb", lambda: str(adb))
    with PhoneLock(Device(line)) as lock:
        assert not lock.lost


def test_a_phone_that_is_offline_when_it_is_locked_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adb = tmp_path / "adb"
    adb.write_text('#!/bin/sh\necho "error: device offline"\nexit 1\n')
    adb.chmod(0o755)
    monkeypatch.setattr(phone_lock, "find_adb", lambda: str(adb))
    monkeypatch.setattr(Device, "state", "offline")
    with pytest.raises(DeviceLost, match="is offline"), PhoneLock(Device("R5-offline")):
        pass


def test_a_kept_launch_that_is_not_planned_is_refused() -> None:
    target = Target("sm8550", "gpu", 1)
    kept = Launch("a.tflite", "0" * 64, target, 3, (1.0,), started="2026-01-01T00:00:00+00:00")
    planned = PlannedLaunch(Subject("a.tflite", target), 0, 3)
    check_planned([kept], [planned])
    with pytest.raises(BadInput, match=r"launch 4 of a\.tflite on gpu is not among"):
        check_planned([kept], [replace(planned, order=2)])


def test_artifacts_that_are_others_than_then_are_told_as_such(bench: Bench, tmp_path: Path) -> None:
    done = bench("--samples", "5")
    assert done.returncode == 0, done.stderr
    (path,) = bench.output.glob("*.json")
    other = tmp_path / "other.tflite"
    other.write_bytes(bench.artifact.read_bytes() + b"\0")
    more = ("--samples", "5", "--resume", path)
    line = bench.line(*more)
    line.insert(2, str(other))
    done = subprocess.run(
        line, check=False, env=bench.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "the artifacts, their order or the back ends" in last_line(done)
    bench.artifact = other
    done = bench(*more)
    assert done.returncode == 2
    assert "cannot be gone on with: tiny.tflite is not given now" in last_line(done)
