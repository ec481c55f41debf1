"""Several phones are asked at once: one that answers nothing holds up neither another nor Ctrl-C.

The adb here is a script, whose phones SILENT, LATE and BUSY behave as a real one cannot be brought
to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from coronet_deploy.bench import together
from coronet_deploy.bench.choose import candidates, find
from coronet_deploy.bench.inventory import take_inventory
from support import COMMAND, Cli

# Each call leaves a file of its phone's name; R1 and R2 answer once both were asked.
ADB = """#!/bin/sh
here=${0%/*}
case "$*" in
devices) printf "List of devices attached\\n$(cat "$here/listed")\\n"; exit;;
esac
touch "$here/asked-$2"
case $2 in
SILENT) sleep 12; touch "$here/waited"; exit;;
LATE) sleep 1;;
BUSY) case "$*" in *getprop*) sleep 12; touch "$here/waited"; exit;; esac;;
R*) until [ -e "$here/asked-R1" ] && [ -e "$here/asked-R2" ]; do sleep 0.02; done;;
esac
case "$*" in *getprop*)
  printf '[ro.soc.model]: [SM8550]\\n[ro.product.model]: [%s]\\n' "$2"
  printf '[ro.serialno]: [own of %s]\\n' "$2"
esac
echo '@coronet-deploy 0' >&2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the script first on PATH; returns its folder, where `listed` says what is attached."""
    path = tmp_path / "bin" / "adb"
    path.parent.mkdir()
    path.write_text(ADB)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(together, "_LATER_S", 0.5)
    return path.parent


def attach(folder: Path, *serials: str) -> None:
    (folder / "listed").write_text("".join(f"{one}\\tdevice\\n" for one in serials))


def test_phones_are_asked_side_by_side(folder: Path) -> None:
    attach(folder, "R1", "R2")
    assert [one.model for one in candidates()] == ["R1", "R2"]
    (folder / "asked-R1").unlink()
    (folder / "asked-R2").unlink()
    assert [one.ready for one in take_inventory()] == [True, True]


def test_a_slow_phone_is_waited_for_where_only_one_that_is_not_ready_is_beside_it(
    folder: Path,
) -> None:
    attach(folder, "LATE")
    with (folder / "listed").open("a") as listed:
        listed.write("U\\tunauthorized\\n")
    assert [str(one) for one in candidates()] == [
        "LATE (LATE, Snapdragon 8 Gen 2)",
        "U (unauthorized)",
    ]


def test_a_silent_phone_is_not_waited_for_once_another_has_answered(folder: Path) -> None:
    attach(folder, "SILENT", "A")
    silent, other = candidates()
    assert (silent.attached.state, other.model) == ("not answering", "A")
    assert find("sm8550").attached.serial == "A"
    assert not (folder / "waited").exists()


def test_a_phone_that_answers_and_does_not_say_what_it_is_is_not_called_silent(
    cli: Cli, folder: Path
) -> None:
    attach(folder, "BUSY", "A")
    busy, other = candidates()
    assert (busy.attached.state, other.model) == ("slow to answer", "A")
    assert not (folder / "waited").exists()
    done = cli("devices", env=os.environ)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "BUSY - slow to answer" in told
    assert "BUSY: it is busy, or still starting: wait until it is idle, or restart it" in told


def test_a_phone_on_the_network_is_found_by_its_own_serial(folder: Path) -> None:
    attach(folder, "SILENT", "adb-A-x7._adb-tls-connect._tcp", "10.0.0.7:5555")
    assert find("any", serial="own of 10.0.0.7:5555").attached.serial == "10.0.0.7:5555"
    found = find("own of adb-A-x7._adb-tls-connect._tcp")
    assert found.attached.serial == "adb-A-x7._adb-tls-connect._tcp"


def test_no_phone_is_asked_but_the_one_that_is_named(folder: Path) -> None:
    attach(folder, "SILENT", "A", "B")
    assert find("sm8550", serial="B").attached.serial == "B"
    assert find("B").attached.serial == "B"
    assert {one.name for one in folder.glob("asked-*")} == {"asked-B"}


def test_the_others_are_told_where_the_one_that_is_named_is_of_another_chipset(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    attach(folder, "A", "B")
    (tmp_path / "a.tflite").touch()
    line = ("bench", tmp_path / "a.tflite", "--device", "sm8650", "--serial", "A")
    done = cli(*line, env=os.environ)
    assert done.returncode == 3
    assert "attached: A (A, Snapdragon 8 Gen 2), B (B, Snapdragon 8 Gen 2)" in done.stderr


@pytest.mark.parametrize("command", ["devices", "doctor"])
def test_ctrl_c_does_not_wait_for_a_silent_phone(folder: Path, command: str) -> None:
    attach(folder, "SILENT")
    line = [str(COMMAND), command]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not (folder / "asked-SILENT").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "coronet-deploy: interrupted\n"
    mark = f"{folder}/adb"
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert mark not in running.stdout
