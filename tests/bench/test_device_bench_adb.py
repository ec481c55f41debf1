"""`coronet-deploy bench --device sm8550` when adb is what goes wrong, on a virtual phone.

The real client is started by a script first on PATH, which stops where a test wants it to and
stands in for what a real daemon cannot be brought to; see `FRONT`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coronet_deploy.bench.phone_files import ROOT
from phone_bench import Bench, Done, last_line, started, wait_for
from virtual_phone import AdbServer

# Beside it: `pause_at` is the timed launch that waits until there is a file `go`; `state` is how
# the phone is from now on; `cut` is how pushes end: half of the file arrives, and the client
# notices ("dies", with the daemon) or does not ("once", "always"); `greeting` is what the phone's
# shell says to stdout before each command.
FRONT = """#!/bin/sh
here=${0%/*}
case "$*" in *"--runs 30"*)
  echo >> "$here/launches"
  if [ "$(wc -l < "$here/launches")" = "$(cat "$here/pause_at")" ]; then
    touch "$here/paused"
    until [ -e "$here/go" ]; do sleep 0.02; done
  fi;;
esac
if [ -e "$here/state" ]; then
  state=$(cat "$here/state")
  case "$*" in
  devices) REAL devices | sed "s/\\tdevice$/\\t$state/"; exit;;
  *connect*) echo "failed to connect"; exit;;
  -s*) echo "error: device $state." >&2; exit 1;;
  esac
fi
[ "$3" = shell ] && [ -e "$here/greeting" ] && cat "$here/greeting"
case "$*" in *" push "*)
  if [ -e "$here/cut" ]; then
    how=$(cat "$here/cut")
    [ "$how" = always ] || rm "$here/cut"
    head -c 1000 "$4" > "$here/half"
    REAL "$1" "$2" push "$here/half" "$5"
    if [ "$how" = dies ]; then
      REAL "$1" "$2" shell 'kill -KILL $PPID'
      echo "adb: error: failed to copy '$4' to '$5': remote EOF" >&2
      exit 1
    fi
    exit
  fi;;
esac
exec REAL "$@"
"""


@pytest.fixture
def front(bench: Bench, tmp_path: Path) -> Path:
    """Put the script in front of adb for `bench`; returns the folder it looks into."""
    bench.first = tmp_path / "bin"
    bench.first.mkdir()
    real = shutil.which("adb")
    assert real
    path = bench.first / "adb"
    path.write_text(FRONT.replace("REAL", real))
    path.chmod(0o755)
    (bench.first / "pause_at").write_text("0")
    return bench.first


def paused(
    bench: Bench, front: Path, launch: int, act: Callable[[], object], *, reconnect: float = 20
) -> Done:
    """Run a bench of four launches and `act` as one of them is about to be made."""
    (front / "pause_at").write_text(str(launch))
    ended: list[Done] = []
    thread = threading.Thread(
        target=lambda: ended.append(bench("--rounds", 4, "--reconnect", reconnect, "--json"))
    )
    thread.start()
    try:
        end = time.monotonic() + 60
        while not (front / "paused").exists():
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        act()
    finally:
        (front / "go").touch()
        thread.join()
    return ended[0]


@contextlib.contextmanager
def other_version(port: int, *, stubborn: bool = False) -> Iterator[None]:
    """Have an adb server of another version at `port`: it ends when told to, unless `stubborn`."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                with listener.accept()[0] as client:
                    request = client.recv(int(client.recv(4), 16))
                    if request == b"host:version":
                        client.sendall(b"OKAY00040028")
                    elif request == b"host:kill":
                        client.sendall(b"OKAY")
                        if not stubborn:
                            listener.close()

    listener = _listening(port)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _listening(port: int) -> socket.socket:
    """Listen at `port` once an adb server that was told to end, and answered, has left it."""
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


@pytest.fixture
def own_server(bench: Bench, tmp_path: Path) -> Iterator[AdbServer]:
    """Let `bench` have an adb server of its own, which may be killed."""
    home = tmp_path / "home"
    home.mkdir()
    with AdbServer.start(home) as server:
        shared, bench.server = bench.server, server
        bench.phone.connect(server, seconds=20)
        yield server
        bench.server = shared


def test_a_phone_that_does_not_trust_this_computer_is_one_line(bench: Bench, front: Path) -> None:
    (front / "state").write_text("unauthorized")
    done = bench()
    assert (done.returncode, done.stdout) == (3, "")
    told = f"phone {bench.phone.serial} is unauthorized (unlock the phone and allow USB debugging"
    assert told in last_line(done)
    assert done.stderr.count("\n") == 1
    assert list(bench.output.iterdir()) == []


def test_what_a_phones_shell_says_before_each_command_is_not_the_commands(
    bench: Bench, front: Path
) -> None:
    plain = bench()
    assert plain.returncode == 0, plain.stderr
    then = bench.run_file()
    shutil.rmtree(bench.output)
    (front / "greeting").write_text("WARNING: linker: libfoo.so has text relocations 1 2 3\n")
    done = bench()
    assert done.returncode == 0, done.stderr
    now = bench.run_file()
    for key in ("architecture", "clusters", "phone", "notes", "fixed_performance"):
        assert now.conditions[key] == then.conditions[key]
    assert now.conditions["canary"]["baseline_ms"] is not None
    assert len(now.launches) == 2


def test_a_phone_whose_daemon_does_not_answer_is_offline(
    bench: Bench, own_server: AdbServer
) -> None:
    (daemon,) = (pid for pid, line in bench.phone.processes().items() if "/sbin/adbd" in line)
    own_server.adb("disconnect", bench.phone.serial)
    os.kill(daemon, signal.SIGSTOP)
    line = ["adb", "connect", bench.phone.serial]
    try:
        with subprocess.Popen(
            line, env=own_server.environment, stdout=subprocess.DEVNULL
        ) as client:
            while "offline" not in own_server.adb("devices").stdout:
                assert client.poll() is None
            done = bench()
            client.kill()
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"phone {bench.phone.serial} is offline (is it switched on" in last_line(done)
    assert f"`adb connect {bench.phone.serial}`" in last_line(done)
    assert done.stderr.count("\n") == 1


def test_a_phone_whose_network_goes_is_waited_for_though_adb_lists_it(bench: Bench) -> None:
    (daemon,) = (pid for pid, line in bench.phone.processes().items() if "/sbin/adbd" in line)
    bench.mode("slow")
    with started(bench, "--rounds", "3", "--deadline", "4", "--json") as process:
        wait_for(process, "launch 2 of 3")
        bench.wait_for_runner()
        bench.mode(None)
        os.kill(daemon, signal.SIGSTOP)
        try:
            wait_for(process, "went away: waiting for it")
        finally:
            os.kill(daemon, signal.SIGCONT)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    row = json.loads(out)["rows"][0]
    assert (row["launches"], row["failed"], row["samples"]) == (3, 0, 25 + 5 + 5)
    bench.check_clean()


@pytest.mark.parametrize(
    ("state", "advice"),
    [("unauthorized", "allow USB debugging"), ("offline", "`adb connect 127.0.0.1:")],
)
def test_a_phone_that_is_not_ready_any_more_ends_the_bench_and_keeps_what_had_finished(
    bench: Bench, front: Path, state: str, advice: str
) -> None:
    done = paused(bench, front, 3, lambda: (front / "state").write_text(state), reconnect=0.5)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"is {state}, and was not back after 0.5 s" in last_line(done)
    assert advice in last_line(done)
    assert "2 of 4 launches kept in" in done.stderr
    run = bench.run_file()
    assert [len(one.samples_ms) for one in run.launches] == [5, 5]
    assert state in run.conditions["lost"]


def test_no_call_of_a_bench_goes_to_the_phone_of_adbs_variable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.server.environment, "ANDROID_SERIAL", "elsewhere")
    done = bench()
    assert done.returncode == 0, done.stderr
    bench.check_clean()


def test_a_server_of_another_version_is_replaced_and_the_bench_goes_on(
    bench: Bench, front: Path, own_server: AdbServer
) -> None:
    with contextlib.ExitStack() as stack:

        def replace() -> None:
            own_server.adb("kill-server")
            stack.enter_context(other_version(own_server.port))

        done = paused(bench, front, 3, replace)
    assert done.returncode == 0, done.stderr
    assert "went away: waiting for it" in done.stderr
    run = bench.run_file()
    assert [len(one.samples_ms) for one in run.launches] == [5] * 4
    assert run.conditions["losses"] == 1
    assert any("came back" in note for note in run.conditions["notes"])
    bench.check_clean()


def test_two_versions_of_adb_that_fight_end_the_bench_and_it_keeps_what_had_finished(
    bench: Bench, front: Path, own_server: AdbServer
) -> None:
    with contextlib.ExitStack() as stack:

        def replace() -> None:
            own_server.adb("kill-server")
            stack.enter_context(other_version(own_server.port, stubborn=True))

        done = paused(bench, front, 3, replace)
        again = bench()
    for one in (done, again):
        assert (one.returncode, one.stdout) == (3, "")
        assert "failed to start daemon (two versions of adb fight for its server" in last_line(one)
    assert "2 of 4 launches kept in" in done.stderr
    assert again.stderr.count("\n") == 1
    assert len(bench.run_file().launches) == 2


@pytest.mark.parametrize("how", ["once", "dies"])
def test_a_push_that_is_cut_short_is_made_again(bench: Bench, front: Path, how: str) -> None:
    shell = ("-s", bench.phone.serial, "shell")
    bench.server.adb(*shell, f"rm -rf {ROOT}")
    (front / "cut").write_text(how)
    done = bench()
    assert done.returncode == 0, done.stderr
    run = bench.run_file()
    assert [len(one.samples_ms) for one in run.launches] == [5, 5]
    assert run.conditions["losses"] == (how == "dies")
    assert not (front / "cut").exists()
    assert ".part" not in bench.server.adb(*shell, f"find {ROOT}").stdout
    bench.check_clean()


def test_a_cable_that_damages_all_ends_the_bench_and_keeps_what_had_finished(
    bench: Bench, front: Path
) -> None:
    def wipe() -> None:
        (front / "cut").write_text("always")
        bench.server.adb("-s", bench.phone.serial, "shell", f"rm -rf {ROOT}/files")
        bench.phone.kill_daemon()

    done = paused(bench, front, 3, wipe)
    assert (done.returncode, done.stdout) == (3, "")
    assert "arrived damaged, twice (try another cable or port)" in last_line(done)
    assert "2 of 4 launches kept in" in done.stderr
    assert len(bench.run_file().launches) == 2
    bench.check_clean()
