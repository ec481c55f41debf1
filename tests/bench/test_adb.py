"""The adb layer against Android's real debugging daemon, and against an adb that lies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from coronet_deploy.bench import adb, process
from coronet_deploy.bench.adb import (
    AdbError,
    AdbTimeout,
    Device,
    DeviceLost,
    list_devices,
)
from coronet_deploy.bench.attached import Attached
from coronet_deploy.bench.choose import candidates
from coronet_deploy.bench.dryrun import DryDevice
from coronet_deploy.bench.phone_back import wait_until_ready, wait_until_up
from coronet_deploy.errors import EnvironmentProblem
from virtual_phone import SM8550, AdbServer, VirtualPhone

SLOW = 30.0
FOR_EVER = 3600.0


def test_a_phone_is_listed_and_says_what_it_is(phone: VirtualPhone) -> None:
    assert Attached(phone.serial, "device") in list_devices()
    properties = Device(phone.serial).properties()
    assert properties == dict(SM8550.properties)


def test_status_and_streams_come_back_apart_and_as_bytes(phone: VirtualPhone) -> None:
    device = Device(phone.serial)
    result = device.shell("printf 'a\\0b\\r\\n'; echo err >&2; exit 7", seconds=SLOW)
    assert (result.status, result.stdout, result.stderr) == (7, b"a\0b\r\n", b"err\n")
    assert device.shell(["false"], seconds=SLOW).status == 1
    assert device.shell(["no-such-thing"], seconds=SLOW).status == 127
    assert device.shell(["sh", "-c", "kill -ABRT $$"], seconds=SLOW).status == 134
    with pytest.raises(AdbError, match="ended with status 3: told") as caught:
        device.shell("echo told >&2; exit 3", seconds=SLOW, check=True)
    assert (caught.value.status, caught.value.serial) == (3, phone.serial)
    assert caught.value.stderr == b"told\n"


def test_arguments_reach_the_phone_as_they_are(phone: VirtualPhone) -> None:
    nasty = ["it's", "two  spaces", "$HOME", "`id`", "a;b|c>d", "*", "\\", '"', "", "né"]
    result = Device(phone.serial).shell(["printf", "%s\\n", *nasty], seconds=SLOW)
    assert result.stdout.decode().split("\n")[:-1] == nasty


def test_a_file_whose_name_begins_with_a_dash_is_no_option(
    phone: VirtualPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-dash").write_bytes(b"whole")
    Device(phone.serial).push(Path("-dash"), "/data/local/tmp/dash")
    assert Device(phone.serial).read_text("/data/local/tmp/dash") == "whole"
    said: list[str] = []
    DryDevice(phone.serial, said.append).push(Path("-dash"), "/data/local/tmp/dash")
    assert said == [f"adb -s {phone.serial} push ./-dash /data/local/tmp/dash"]


def test_files_go_there_and_back_whole(phone: VirtualPhone, tmp_path: Path) -> None:
    device = Device(phone.serial)
    data = os.urandom(3_000_001)
    (tmp_path / "out").write_bytes(data)
    device.push(tmp_path / "out", "/data/local/tmp/a file")
    device.pull("/data/local/tmp/a file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    device.shell(["rm", "/data/local/tmp/a file"], seconds=SLOW, check=True)
    with pytest.raises(AdbError, match="No such file"):
        device.pull("/data/local/tmp/a file", tmp_path / "never")
    assert not (tmp_path / "never").exists()
    with pytest.raises(AdbError, match=r"ermission denied|ead-only"):
        device.push(tmp_path / "out", "/system/out")
    assert device.read_text("/sys/devices/system/cpu/possible") == "0-7"
    assert device.read_text("/sys/no/such") is None


def test_a_command_past_its_deadline_is_dead_on_the_phone(phone: VirtualPhone) -> None:
    start = time.monotonic()
    with pytest.raises(AdbTimeout, match="did not end in 1 s"):
        Device(phone.serial).shell(["sleep", "321"], seconds=1)
    assert time.monotonic() - start < 10
    assert not any("sleep 321" in line for line in phone.processes().values())


def test_a_phone_that_dies_during_a_command_is_lost_and_comes_back(
    phone: VirtualPhone, adb_server: AdbServer
) -> None:
    device = Device(phone.serial)
    phone.fake("restart_seconds", "3")
    killer = threading.Timer(1, phone.kill_daemon)
    killer.start()
    try:
        with pytest.raises(DeviceLost, match="cut short") as caught:
            device.shell(["sleep", "30"], seconds=SLOW)
        assert caught.value.exit_status == 3
        with pytest.raises(DeviceLost, match=r"not back after 0\.2 s"):
            wait_until_ready(device, 0.2)
        wait_until_ready(device, 30)
    finally:
        killer.cancel()
        phone.fake("restart_seconds", None)
        phone.connect(adb_server, seconds=30)
    assert device.shell(["echo", "hello"], seconds=SLOW).text == "hello"


def test_a_phone_that_is_listed_and_does_not_answer_is_lost_at_once_from_then_on(
    phone: VirtualPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "_GRACE_S", 0.5)
    monkeypatch.setattr(adb, "_ANSWER_S", 1.0)
    device = Device(phone.serial)
    assert device.shell(["true"], seconds=SLOW).status == 0
    daemon = _daemon(phone)
    os.kill(daemon, signal.SIGSTOP)  # as a phone that left the network: adb does not see it
    try:
        with pytest.raises(DeviceLost, match="`sleep 1` was cut short: the phone does not answer"):
            device.shell(["sleep", "1"], seconds=1)
        assert device.state == "device"
        with pytest.raises(DeviceLost, match="does not answer"):
            device.shell(["true"], seconds=FOR_EVER)
        with pytest.raises(DeviceLost, match="does not answer"):
            device.pull("/system/build.prop", Path("nowhere"), seconds=0.5)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert device.shell(["echo", "back"], seconds=SLOW).text == "back"
    assert not device.unsure


_INTERRUPTED = """
import sys
from coronet_deploy.bench import adb
adb._ANSWER_S = 1.0
device = adb.Device(sys.argv[1])
device.shell(["true"], seconds=30)
try:
    device.shell(["sleep", "57"], seconds=3600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
try:
    device.shell(["true"], seconds=3600)
except adb.DeviceLost as error:
    print(error, flush=True)
"""


def test_after_ctrl_c_it_is_asked_first_whether_the_phone_answers(phone: VirtualPhone) -> None:
    pipe, line = subprocess.PIPE, [sys.executable, "-c", _INTERRUPTED, phone.serial]
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        try:
            end = time.monotonic() + SLOW
            while not any("sleep 57" in one for one in phone.processes().values()):
                assert time.monotonic() < end
                time.sleep(0.05)
            user.send_signal(signal.SIGINT)
            assert user.stdout.readline() == "interrupted\n"
            daemon = _daemon(phone)
            os.kill(daemon, signal.SIGSTOP)
            try:
                told = user.communicate("\n", timeout=SLOW)[0]
            finally:
                os.kill(daemon, signal.SIGCONT)
            assert "does not answer" in told
        finally:
            user.kill()
    assert Device(phone.serial).shell(["echo", "back"], seconds=SLOW).text == "back"


def _daemon(phone: VirtualPhone) -> int:
    """Return the process id of the phone's adbd, the oldest of that name: it forks for commands."""
    return min(pid for pid, line in phone.processes().items() if "/sbin/adbd" in line)


def test_a_phone_that_is_not_there(phone: VirtualPhone) -> None:
    assert phone.serial
    absent = Device("R5CT30NOTHERE")
    assert absent.state == "absent"
    with pytest.raises(DeviceLost, match="R5CT30NOTHERE is absent"):
        absent.shell(["true"], seconds=SLOW)


@pytest.mark.parametrize(
    ("line", "state", "advice"),
    [
        ("R5\tunauthorized", "unauthorized", "allow USB debugging"),
        ("R5\toffline", "offline", "reconnect"),
        (
            "R5\tno permissions (user in plugdev group; are your udev rules wrong?); see [x]",
            "no permissions",
            "udev",
        ),
    ],
)
def test_states_of_phones_that_are_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, state: str, advice: str
) -> None:
    scripted_adb(
        tmp_path,
        monkeypatch,
        f"""
case "$*" in
  devices) printf 'List of devices attached\\n%s\\n\\n' '{line}';;
  *) echo "error: device {state}." >&2; exit 1;;
esac""",
    )
    (one,) = list_devices()
    assert (one.serial, one.state) == ("R5", state)
    assert advice in (one.advice or "")
    with pytest.raises(DeviceLost, match=state) as caught:
        Device("R5").shell(["true"], seconds=SLOW)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("serial", "line", "advice"),
    [
        ("R5", "", "is it plugged in and switched on?"),
        ("10.0.0.7:5555", "", "in this network? `adb connect 10.0.0.7:5555`)"),
        (
            "10.0.0.7:5555",
            "10.0.0.7:5555\toffline",
            "in this network? `adb disconnect 10.0.0.7:5555`, then `adb connect 10.0.0.7:5555`)",
        ),
        ("10.0.0.7:5555", "10.0.0.7:5555\tunauthorized", "allow USB debugging for this computer"),
        ("adb-R5-x._adb-tls-connect._tcp", "", "with wireless debugging on?"),
    ],
)
def test_a_phone_on_the_network_that_is_lost_is_not_to_be_plugged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serial: str, line: str, advice: str
) -> None:
    script = f"""
case "$*" in
  devices) printf 'List of devices attached\\n%s\\n\\n' '{line}';;
  *) echo "error: device '{serial}' not found" >&2; exit 1;;
esac"""
    scripted_adb(tmp_path, monkeypatch, script)
    with pytest.raises(DeviceLost) as caught:
        Device(serial).shell(["true"], seconds=SLOW)
    assert advice in str(caught.value)
    with pytest.raises(DeviceLost) as caught:
        wait_until_ready(Device(serial), 0.1)
    assert advice in str(caught.value)
    for one in list_devices():
        assert advice.rstrip(")") in (one.advice or "")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        # Before Android 7 its daemon sent one stream, a terminal's, and no status.
        ('eval "$4" 2>&1 | sed "s/$/\\r/"; exit 0', "tells no status of a command, as old ones"),
        ('PATH=/nowhere; eval "$4"', "has no `timeout`, as old ones"),
    ],
)
def test_a_phone_that_is_too_old_is_not_said_to_be_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    scripted_adb(
        tmp_path,
        monkeypatch,
        f"""
case "$*" in
  devices) printf 'List of devices attached\\nR5\\tdevice\\n\\n';;
  *) {script};;
esac""",
    )
    with pytest.raises(AdbError, match=f"phone R5 {told} .use a phone with a newer Android."):
        Device("R5").properties()
    (one,) = candidates()
    assert str(one) == "R5 (too old)"
    assert one.attached.advice == "use a phone with a newer Android"


def test_a_server_of_another_version_is_replaced_by_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_adb(
        tmp_path,
        monkeypatch,
        """
echo "adb server version (40) doesn't match this client (41); killing..." >&2
echo '* daemon started successfully' >&2
printf 'List of devices attached\\nR5\\tdevice\\n\\n'""",
    )
    assert list_devices() == (Attached("R5", "device"),)
    scripted_adb(
        tmp_path,
        monkeypatch,
        """
echo "adb server version (40) doesn't match this client (41); killing..." >&2
echo 'ADB server didnt ACK' >&2
echo '* failed to start daemon' >&2
echo 'error: cannot connect to daemon' >&2; exit 1""",
    )
    with pytest.raises(AdbError, match="`adb devices` failed"):
        list_devices()


def test_an_adb_that_floods_or_hangs_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "_GRACE_S", 0.5)
    monkeypatch.setattr(process, "OUTPUT_MOST_BYTES", 1 << 20)
    scripted_adb(
        tmp_path,
        monkeypatch,
        """
case "$*" in
  devices) printf 'List of devices attached\\nR5\\tdevice\\n\\n';;
  *true*) echo '@coronet-deploy 0' >&2;;
  *hang*) sleep 123;;
  *flood*) exec yes;;
esac""",
    )
    with pytest.raises(AdbError, match="without end"):
        Device("R5").shell(["flood"], seconds=SLOW)
    with pytest.raises(AdbTimeout):
        Device("R5").shell(["hang"], seconds=0.5)
    ps = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 123" not in ps.stdout


def test_without_adb_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    with pytest.raises(EnvironmentProblem, match="platform-tools"):
        list_devices()


def scripted_adb(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script called adb first in PATH."""
    path = folder / "bin" / "adb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")


def test_a_connect_that_fails_does_not_end_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_adb(
        tmp_path,
        monkeypatch,
        """
case "$*" in
  devices) printf 'List of devices attached\\n1.2.3.4:5\\toffline\\n\\n';;
  *) echo 'error: no such device' >&2; exit 1;;
esac""",
    )
    with pytest.raises(DeviceLost, match="not back after 1 s"):
        wait_until_ready(Device("1.2.3.4:5"), 1)


def test_a_phone_that_goes_on_being_silent_is_not_said_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "_QUICK_S", 0.3)
    monkeypatch.setattr(adb, "_ANSWER_S", 0.3)
    scripted_adb(
        tmp_path,
        monkeypatch,
        """
case "$*" in
  devices) printf 'List of devices attached\\nR5\\tdevice\\n\\n';;
  *) exec sleep 321;;
esac""",
    )
    with pytest.raises(DeviceLost, match="R5 is listed by adb, but did not answer for 1 s"):
        wait_until_up(Device("R5"), 1)


def test_what_adb_logs_is_no_reason() -> None:
    log = (
        b"adb I 11-28 17:25:58 24876 27234 transport.cpp:287] 127.0.0.1:5555: read failed: Success"
    )
    said = b"* daemon not running\n" + log + b"\nADB server: failed to start daemon\n"
    assert process.last_words(process.Ended(1, b"", said)) == "ADB server: failed to start daemon"
    # Where there is nothing else, it is what there is.
    assert process.last_words(process.Ended(1, b"", log)).endswith("read failed: Success")
