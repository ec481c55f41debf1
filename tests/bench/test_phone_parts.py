"""A phone's files, lock and canary, on a virtual phone."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.bench import adb, phone_launch, phone_vendor
from coronet_deploy.bench.adb import AdbError, AdbFlood, Device, DeviceLost, ShellResult
from coronet_deploy.bench.canary import LIMIT, Canary
from coronet_deploy.bench.conditions import State
from coronet_deploy.bench.launch import Failed, Failure
from coronet_deploy.bench.phone_back import state_after, wait_until_ready
from coronet_deploy.bench.phone_files import ROOT, PhoneFiles
from coronet_deploy.bench.phone_launch import execute, outcome
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.bench.phone_placement import check_cpus, crowded
from coronet_deploy.bench.phone_state import fixed_performance, read_state
from coronet_deploy.bench.runner import RunnerResult
from coronet_deploy.bench.thermals import StillHot, Thermals
from coronet_deploy.bench.vendor_result import Tool
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.storage import sha256_of
from virtual_phone import EXYNOS_2400, AdbServer, VirtualPhone


@pytest.fixture
def device(phone: VirtualPhone) -> Iterator[Device]:
    made = Device(phone.serial)
    yield made
    made.shell(["rm", "-rf", ROOT], seconds=10)


def listing(device: Device) -> list[str]:
    found = device.shell(["find", ROOT, "-type", "f"], seconds=10).text.splitlines()
    return sorted(line.removeprefix(f"{ROOT}/") for line in found)


def test_a_file_is_pushed_once_and_used_only_with_its_hash(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "my model;.tflite"
    model.write_bytes(os.urandom(100_000))
    digest = sha256_of(model)
    pushed: list[str] = []
    real = Device.push

    def push(self: Device, source: Path, target: str, *, seconds: float = 300.0) -> None:
        pushed.append(target)
        real(self, source, target, seconds=seconds)

    monkeypatch.setattr(Device, "push", push)
    # A phone that was lost in an earlier test keeps the lock's file, which nobody holds.
    device.shell(["rm", "-rf", ROOT], seconds=10, check=True)
    files = PhoneFiles(device)
    with files.session():
        there = files.put(model)
        assert there == f"{ROOT}/files/{digest[:16]}/my_model_.tflite"
        assert device.shell(["sha256sum", there], seconds=10).text.startswith(digest)
        files.put(model)
        assert len(pushed) == 1
        # Same name and size, other content, as after a push by hand: not taken for the model.
        device.shell(f"head -c 100000 /dev/zero > {there}", seconds=10, check=True)
        files.put(model)
        assert len(pushed) == 2
    assert listing(device) == [f"files/{digest[:16]}/my_model_.tflite"]


def test_what_a_bench_did_not_use_is_gone_after_it(device: Device, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    files = PhoneFiles(device)
    with files.session():
        files.put(tmp_path / "old")
        device.shell(["touch", files.work_path("out")], seconds=10, check=True)
    files = PhoneFiles(device)
    with files.session():
        files.put(tmp_path / "new")
    assert [line.rpartition("/")[2] for line in listing(device)] == ["new"]


def test_a_push_cut_short_is_not_used(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half").write_bytes(os.urandom(1 << 20))

    def cut(self: Device, source: Path, target: str, *, seconds: float = 300.0) -> None:
        self.shell(f"head -c 1000 /dev/urandom > {target}", seconds=seconds, check=True)
        assert source

    files = PhoneFiles(device)
    files.begin()
    monkeypatch.setattr(Device, "push", cut)
    with pytest.raises(EnvironmentProblem, match="half arrived damaged, twice"):
        files.put(tmp_path / "half")
    assert listing(device) == []


def test_a_full_disk_is_told_and_nothing_half_stays(
    adb_server: AdbServer, phone: VirtualPhone, tmp_path: Path
) -> None:
    assert phone.serial
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    with VirtualPhone.boot(EXYNOS_2400, adb_server, data_mb=4) as small:
        device = Device(small.serial)
        files = PhoneFiles(device)
        with pytest.raises(AdbError, match=r"No space left.*make room"), files.session():
            files.put(tmp_path / "big")
        assert listing(device) == []


def test_a_phone_that_gave_no_sign_of_life_is_not_waited_for_again_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, hung, calls = tmp_path / "adb", tmp_path / "hung", tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n'
        "case $* in devices) printf 'S\\tdevice\\n'; exit;; esac\n"
        f"[ -e {hung} ] && exec sleep 60\n"
        "echo '@coronet-deploy 0' >&2\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(adb, "_GRACE_S", 0.1)
    monkeypatch.setattr(adb, "_ANSWER_S", 3.0)
    device = Device("S")
    with PhoneFiles(device).session(), fixed_performance(device):
        hung.touch()
        with pytest.raises(DeviceLost, match="does not answer"):
            device.shell(["true"], seconds=0.1)
        asked = calls.read_text()
    assert calls.read_text() == asked
    hung.unlink()
    with PhoneFiles(device).session(), fixed_performance(device):
        hung.touch()
        with pytest.raises(DeviceLost, match="does not answer"):
            device.shell(["true"], seconds=0.1)
        hung.unlink()
        device.shell(["true"], seconds=20)
    assert "rm -rf" in calls.read_text().splitlines()[-1]


def test_left_over_processes_are_ended(device: Device, phone: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "stuck").write_text("#!/system/bin/sh\nsleep 456\n:\n")
    files = PhoneFiles(device)
    files.begin()
    stuck = files.put(tmp_path / "stuck")
    device.shell(f"nohup {stuck} > /dev/null 2>&1 &", seconds=10)
    assert any("stuck" in line for line in phone.processes().values())
    files.end()
    assert not any("stuck" in line for line in phone.processes().values())


def test_a_second_bench_is_told_who_has_the_phone(device: Device) -> None:
    with PhoneLock(device), pytest.raises(EnvironmentProblem, match="on this computer"):
        PhoneLock(device).__enter__()
    with PhoneLock(device):
        pass


def test_a_folder_that_cannot_be_locked_is_no_other_bench_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not in use"
    folder.mkdir()
    (folder / f"coronet-deploy-{os.getuid()}").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(EnvironmentProblem) as caught, PhoneLock(Device("a", adb="adb")):
        pass
    assert "Not a directory (name another folder by TMPDIR)" in str(caught.value)
    assert "another bench" not in str(caught.value)


def test_a_bench_of_another_computer_is_told_too(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with PhoneLock(device):
        # Another computer has another disk.
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(
            EnvironmentProblem, match=rf"@{socket.gethostname()} process {os.getpid()}"
        ):
            PhoneLock(device).__enter__()
    with PhoneLock(device):
        pass


def test_a_lock_dies_with_its_holder_and_is_renewed_after_a_loss(
    device: Device, phone: VirtualPhone, adb_server: AdbServer
) -> None:
    lock = PhoneLock(device)
    with lock:
        assert lock._holder is not None
        held = lock.lost
        lock._holder.kill()  # as when our process is killed
        other = _raw_lock(device)
        assert other == "0"
        assert (held, lock.lost) == (False, True)
        phone.kill_daemon()
        wait_until_ready(device, 30)
        phone.connect(adb_server, seconds=30)
        lock.renew()
        assert not lock.lost
        assert _raw_lock(device) == "1"


def test_a_lock_that_the_phone_still_holds_for_a_lost_connection_is_renewed(
    device: Device, phone: VirtualPhone
) -> None:
    lock = PhoneLock(device)
    with lock:
        lost, lock._holder = lock._holder, None
        assert lost is not None
        lock.renew()
        assert lost.wait(10) != 0  # what held it is dead
        assert _raw_lock(device) == "1"
    assert not any(ROOT in line for line in phone.processes().values())


def _raw_lock(device: Device) -> str:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        told = device.shell(f"exec 9>>{ROOT}/lock; flock -n 9 9>&9; echo $?", seconds=10).text
        if told == "0":
            break
        time.sleep(0.2)
    return told


def test_the_canary_takes_longer_on_a_phone_that_throttles(
    device: Device, phone: VirtualPhone
) -> None:
    canary = Canary(device)
    canary.calibrate()
    cool = canary.measure()
    assert cool is not None
    phone.fake("throttle", "0.5")
    try:
        hot = canary.measure()
    finally:
        phone.fake("throttle", None)
    assert hot is not None
    assert hot > 500
    assert hot > LIMIT * cool


@pytest.mark.parametrize(("back_s", "told_ms"), [((1,), 70.0), ((0, 1, 2), None)])
def test_a_clock_that_is_set_back_costs_the_canary_one_time_and_not_all(
    back_s: tuple[int, ...], told_ms: float | None
) -> None:
    class Told(Device):
        def shell(self, *_: object, **__: object) -> ShellResult:
            words, now_ns = [], 2_000_000_000_000_000_000
            for place, spent_ms in enumerate((80, 60, 70)):
                words.append(now_ns)
                now_ns += spent_ms * 1_000_000 - (place in back_s) * 3_600_000_000_000
                words.append(now_ns)
            return ShellResult(0, "\n".join(map(str, words)).encode(), b"")

    assert Canary(Told("a", adb="adb")).measure() == told_ms


def test_a_phone_that_goes_away_after_the_last_launch_loses_nothing(
    device: Device, phone: VirtualPhone
) -> None:
    notes: list[str] = []
    before = read_state(device)
    after = state_after(device, before, notes)
    assert (after or {})["battery_percent"] == 87
    assert notes == []
    assert phone.serial != "127.0.0.1:1"
    assert state_after(Device("127.0.0.1:1"), before, notes) is None
    assert "went away after the last launch" in notes[0]


def test_a_phone_that_is_warm_at_first_gets_its_baseline_once_it_is_cool() -> None:
    class Counting(Canary):
        def calibrate(self) -> None:
            self.count = 1

        def measure(self) -> float | None:
            return 80.0

    hot, cold = State(thermal_status=3), State(thermal_status=0)
    states = iter([hot, cold, cold])
    thermals = Thermals(lambda: next(states), Counting(Device("a", adb="adb")), wait_s=0.0)
    with pytest.raises(StillHot):
        thermals.settle()
    before = thermals.baseline_ms
    thermals.wait_until_cool()
    assert (before, thermals.baseline_ms) == (None, 80.0)
    assert thermals.throttled(100.0) is not None


def test_waiting_in_vain_is_bounded_and_a_phone_that_is_cool_later_is_measured() -> None:
    now = [State(thermal_status=3)]
    said: list[str] = []
    thermals = Thermals(
        lambda: now[0],
        Canary(Device("a", adb="true")),
        wait_s=0.2,
        total_s=0.3,
        poll_s=0.01,
        say=said.append,
    )
    with pytest.raises(StillHot, match=r"not cool after 0\.2 s: Android's"):
        thermals.wait_until_cool()
    with pytest.raises(StillHot, match=r"not cool after 0\.1 s: Android's"):
        thermals.wait_until_cool()
    assert said.pop() == "not cool in 0.3 s in all: not waited for any more"
    said.clear()
    with pytest.raises(StillHot, match=r"not cool in 0\.3 s in all: Android's"):
        thermals.wait_until_cool()
    assert said == []
    thermals.baseline_ms, thermals._tried, now[0] = 80.0, True, State(thermal_status=0)
    assert thermals.wait_until_cool() == pytest.approx(0.0, abs=0.1)


def result(*samples_ms: float, allowed: str | None = None) -> RunnerResult:
    details = {"cpus_allowed_list": allowed} if allowed else {}
    return RunnerResult(samples_ms, (), 1.0, None, None, None, None, {}, details)


def test_a_mask_that_is_granted_in_part_fails_the_launch() -> None:
    check_cpus(result(1.0, allowed="4-7"), "f0")
    check_cpus(result(1.0), "f0")
    check_cpus(result(1.0, allowed="unknown"), "f0")
    check_cpus(result(1.0, allowed="0-3"), None)
    with pytest.raises(Failed, match=r"--cpu-mask f0 asks for CPUs 4,5,6,7, .* have 4-6"):
        check_cpus(result(1.0, allowed="4-6"), "f0")
    assert crowded("f0", (1, 4)) == []
    assert "fewer CPUs (4) than threads (8)" in crowded("f0", (1, 8))[0]


@pytest.mark.parametrize(
    ("parsed", "failure"),
    [
        (result(), Failure.GARBAGE),
        (replace(result(1.0), interrupted=True), Failure.CRASHED),
    ],
)
def test_a_launch_cut_short_is_a_failed_launch(
    monkeypatch: pytest.MonkeyPatch, parsed: RunnerResult, failure: Failure
) -> None:
    monkeypatch.setattr(phone_launch, "parse_lines", lambda _lines: parsed)
    with pytest.raises(Failed) as why:
        outcome(ShellResult(0, b"", b""))
    assert why.value.failure is failure


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, b'CANNOT LINK EXECUTABLE "/x/coronet-runner": library "libc++_shared.so" not found'),
        (126, b"env: exec /x/coronet-runner: Permission denied"),
    ],
)
def test_a_runner_that_does_not_begin_says_why(status: int, said: bytes) -> None:
    with pytest.raises(Failed) as caught:
        outcome(ShellResult(status, b"", said + b"\n"))
    assert caught.value.reason == f"the runner ended with status {status}: {said.decode()}"
    assert caught.value.failure is Failure.CRASHED


def test_a_runner_that_was_killed_may_have_had_no_memory() -> None:
    with pytest.raises(Failed, match=r"was killed by SIGKILL \(out of memory\?\)$"):
        outcome(ShellResult(137, b"", b""))
    with pytest.raises(Failed, match=r"was killed by SIGSEGV$"):
        outcome(ShellResult(139, b"", b""))


def test_a_runner_that_writes_without_end_is_a_failed_launch() -> None:
    class Flooding(Device):
        def shell(
            self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
        ) -> ShellResult:
            raise AdbFlood(f"{argv} wrote without end ({seconds}, {check})")

    with pytest.raises(Failed, match="without end") as why:
        execute(Flooding("a", adb="adb"), ["runner"], 1.0)
    assert why.value.failure is Failure.GARBAGE


def test_two_programs_of_one_kind_are_refused(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(phone_vendor, "identify", lambda *_: Tool.TFLITE)
    files = PhoneFiles(device)
    with files.session(), pytest.raises(BadInput, match="two is a second"):
        phone_vendor.put_tools(device, files, [tmp_path / "one", tmp_path / "two"])
