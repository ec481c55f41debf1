"""A phone's files, lock and canary, on a virtual phone."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coronet_deploy.bench.adb import AdbError, Device
from coronet_deploy.bench.canary import LIMIT, Canary
from coronet_deploy.bench.phone_files import ROOT, PhoneFiles
from coronet_deploy.bench.phone_lock import PhoneLock
from coronet_deploy.errors import EnvironmentProblem
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
        device.wait(30)
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
