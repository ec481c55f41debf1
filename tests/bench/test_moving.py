"""A transfer that stands still is stopped long before its file could have arrived, a slow one not.

Against an adb that is a script, whose phone is this machine, and against Android's real daemon.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from coronet_deploy.bench import adb, moving
from coronet_deploy.bench.adb import AdbTimeout, Device, DeviceLost
from coronet_deploy.bench.moving import Moving
from virtual_phone import VirtualPhone

MB = 1_000_000
_SCRIPT = """#!/bin/sh
case "$1 $3" in
  devices*) printf 'List of devices attached\\nR5\\tdevice\\n\\n';;
  *shell) exec sh -c "$4";;
  *) from=$4 to=$5; TRANSFER;;
esac
"""


def scripted(folder: Path, transfer: str) -> Device:
    """Return the phone of an adb whose pushes and pulls are the shell commands `transfer`."""
    path = folder / "adb"
    path.write_text(_SCRIPT.replace("TRANSFER", transfer))
    path.chmod(0o755)
    return Device("R5", adb=str(path))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have a tenth of a second count for many."""
    monkeypatch.setattr(moving, "PIECE_S", 3.0)
    monkeypatch.setattr(moving, "PIECE_MB", 0.001)
    monkeypatch.setattr(moving, "_EVERY_S", 0.1)
    monkeypatch.setattr(adb, "_ANSWER_S", 1.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("hasty")
def test_a_push_that_stands_still_is_stopped_and_says_how_far_it_came(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(5 * MB))
    device = scripted(tmp_path, 'head -c 1500000 "$from" > "$to"; exec sleep 1000')
    with pytest.raises(AdbTimeout) as caught:
        device.push(tmp_path / "file", str(tmp_path / "there"))
    assert str(caught.value) == (
        "phone R5: `push of file` stands still at 1.5 MB: less than 0.001 MB in 3 s "
        "(try another cable, port or network)"
    )


@pytest.mark.usefixtures("hasty")
def test_a_pull_that_stands_still_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    device = scripted(tmp_path, 'echo begun > "$to"; exec sleep 1000')
    with pytest.raises(AdbTimeout, match=r"`pull of /it` stands still at 0\.0 MB"):
        device.pull("/it", tmp_path / "file")
    assert [one.name for one in tmp_path.iterdir()] == ["adb"]


@pytest.mark.usefixtures("hasty")
def test_a_push_that_is_slow_and_moves_arrives_however_long_it_takes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(12_000))
    # There may be an earlier try's file, which is longer.
    (tmp_path / "there").write_bytes(bytes(MB))
    slow = 'rm "$to"; for n in 0 1 2 3 4 5 6 7 8 9 10 11; do sleep 0.4; '
    slow += 'dd if="$from" bs=1000 skip=$n count=1 >> "$to" 2>/dev/null; done'
    scripted(tmp_path, slow).push(tmp_path / "file", str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.usefixtures("hasty")
def test_a_push_to_a_phone_that_does_not_answer_any_more_is_a_lost_phone(
    phone: VirtualPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(MB))
    monkeypatch.setattr(moving, "LEAST_MB_A_S", 10.0)
    device = Device(phone.serial)
    assert device.shell(["true"], seconds=30).status == 0
    daemon = min(pid for pid, line in phone.processes().items() if "/sbin/adbd" in line)
    os.kill(daemon, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceLost, match="`push of file` was cut short: the phone does not"):
            device.push(tmp_path / "file", "/data/local/tmp/file")
    finally:
        os.kill(daemon, signal.SIGCONT)
    device.push(tmp_path / "file", "/data/local/tmp/file")
    assert device.shell(["stat", "-c", "%s", "/data/local/tmp/file"], seconds=30).text == str(MB)
    device.shell(["rm", "/data/local/tmp/file"], seconds=30)


def test_a_phone_whose_answer_queues_behind_a_file_is_given_time_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told: list[int | None] = [None]
    asked: list[float] = []

    def arrived(seconds: float) -> int | None:
        asked.append(seconds)
        now[0] += seconds if told[0] is None else 1.0
        return told[0]

    small, large = Moving(arrived, 1.0), Moving(arrived, 300.0)
    now[0] = 5.0
    assert large.stands_still()
    assert asked == [30 + 32 / 0.5 - 5]
    now[0] = 5.0
    assert small.stands_still()
    assert asked[1:] == [30 + 1 / 0.5 - 5]
    # What comes late has come: it counts from then on.
    late = Moving(arrived, 300.0)
    told[0], now[0] = 2 * MB, now[0] + 80
    assert not late.stands_still()
    now[0] += 20
    assert not late.stands_still()
    now[0] += 20
    assert late.stands_still()
    assert str(late) == "stands still at 2.0 MB: less than 1 MB in 30 s"
