"""`coronet-deploy bench --device sm8550` that is cut short: by its phone, its lock or Ctrl-C.

On virtual phones; the runner is one that misbehaves on request: see rig/faulty_runner.c.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from coronet_deploy.bench.phone_files import ROOT
from phone_bench import Bench, last_line, started, wait_for
from support import Cli
from virtual_phone import SM8550, AdbServer, VirtualPhone


def test_a_phone_whose_daemon_dies_is_waited_for_and_the_bench_goes_on(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench, "--json", "--rounds", "3") as process:
        wait_for(process, "launch 2 of 3")
        bench.wait_for_runner()
        bench.mode(None)
        bench.phone.kill_daemon()
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    answer = json.loads(out)
    # The launch that was cut short is made again, and is quick by then.
    assert (answer["rows"][0]["launches"], answer["rows"][0]["samples"]) == (3, 25 + 5 + 5)
    assert any("came back" in note for note in answer["notes"])
    assert "went away: waiting for it" in told
    bench.check_clean()


def test_a_phone_that_goes_away_before_anything_is_tried_is_waited_for(
    bench: Bench, tmp_path: Path
) -> None:
    real = shutil.which("adb")
    bench.first = tmp_path / "bin"
    bench.first.mkdir()
    front = bench.first / "adb"
    front.write_text(
        f"""#!/bin/sh
case "$*" in
*low_power*) mkdir {bench.first}/once 2>/dev/null && {real} disconnect "$2";;
esac
exec {real} "$@"
"""
    )
    front.chmod(0o755)
    done = bench()
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("went away: waiting for it") < done.stderr.index("trying tiny.tflite")
    assert bench.run_file().conditions["losses"] == 1
    bench.check_clean()


def test_a_lock_that_the_phone_let_go_of_between_two_calls_is_taken_again(bench: Bench) -> None:
    shell = ("-s", bench.phone.serial, "shell")
    bench.mode("slow")
    with started(bench, "--json", "--rounds", "3") as process:
        wait_for(process, "launch 1 of 3")
        bench.wait_for_runner()
        # What a daemon or a server that starts anew would end, and nothing else.
        bench.server.adb(*shell, f"kill -KILL -- -$(cat {ROOT}/holder)")
        wait_for(process, "launch 2 of 3")
        bench.wait_for_runner()
        taken = bench.server.adb(*shell, f"flock -n {ROOT}/lock true", check=False)
        fixed = bench.server.adb(*shell, "cat /data/local/tmp/.fixed_performance").stdout
        bench.mode(None)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert (taken.returncode, fixed) == (1, "true\n")
    answer = json.loads(out)
    assert answer["rows"][0]["launches"] == 3
    assert any("came back" in note for note in answer["notes"])
    bench.check_clean()


def test_a_phone_whose_bench_is_killed_leaves_fixed_performance_mode_by_itself(
    bench: Bench,
) -> None:
    shell = ("-s", bench.phone.serial, "shell", "cat /data/local/tmp/.fixed_performance")
    bench.mode("slow")
    with started(bench, "--rounds", "9") as process:
        wait_for(process, "launch 1 of 9")
        bench.wait_for_runner()
        assert bench.server.adb(*shell).stdout == "true\n"
        process.kill()
    end = time.monotonic() + 20
    while bench.server.adb(*shell).stdout != "false\n":
        assert time.monotonic() < end, "the mode stayed on"
        time.sleep(0.2)
    bench.mode(None)
    done = bench()
    assert done.returncode == 0, done.stderr
    bench.check_clean()


def test_a_phone_that_is_gone_for_good_ends_the_bench_and_it_can_be_gone_on_with(
    adb_server: AdbServer, faulty: Path, tiny: Path, tmp_path: Path
) -> None:
    with VirtualPhone.boot(SM8550, adb_server) as own:
        bench = Bench(adb_server, own, faulty, tiny / "tiny.tflite", tmp_path / "runs")
        bench.mode("slow")
        own.fake("restart_seconds", "600")
        more = ("--rounds", "4", "--reconnect", "1")
        with started(bench, *more) as process:
            wait_for(process, "launch 3 of 4")
            bench.wait_for_runner()
            own.kill_daemon()
            _, told = process.communicate(timeout=120)
        assert process.returncode == 3
        assert "not back after 1 s" in told.splitlines()[-1]
        assert "2 of 4 launches kept in" in told
        run = bench.run_file()
        assert len(run.launches) == 2
        assert "not back" in run.conditions["lost"]
        # Back again: the two that are missing are made.
        bench.mode(None)
        own.fake("restart_seconds", None)
        own.kill("sleep 600")
        own.connect(adb_server, seconds=60)
        (path,) = bench.output.glob("*.json")
        done = bench(*more, "--resume", path, "--json")
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)["rows"][0]
        assert (row["launches"], row["samples"]) == (4, 2 * 25 + 2 * 5)
        assert "launch 4 of 4" in done.stderr
        other = bench("--rounds", "5", "--resume", path)
        assert other.returncode == 2
        assert "--rounds was 4 then and is 5 now" in last_line(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_phone_clean_and_keeps_what_had_finished(
    bench: Bench, number: signal.Signals
) -> None:
    bench.mode("slow")
    with started(bench, "--rounds", "9") as process:
        wait_for(process, "launch 2 of 9")
        bench.wait_for_runner()
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    (path,) = bench.output.glob("*.json")
    assert f"1 of 9 launches kept in {path}; --resume {path} goes on\n" in told
    assert len(bench.run_file().launches) == 1
    bench.check_clean()


def test_a_bench_that_is_cut_short_again_before_its_first_launch_leaves_the_earlier_run(
    bench: Bench,
) -> None:
    bench.mode("slow")
    with started(bench, "--rounds", "4") as process:
        wait_for(process, "launch 2 of 4")
        bench.wait_for_runner()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    (path,) = bench.output.glob("*.json")
    with started(bench, "--rounds", "4", "--resume", str(path)) as process:
        wait_for(process, "trying tiny.tflite")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "launches kept" not in told
    assert list(bench.output.iterdir()) == [path]
    bench.check_clean()


def test_what_is_recovered_of_a_killed_bench_is_said_to_be_gone_on_with(
    bench: Bench, cli: Cli
) -> None:
    bench.mode("slow")
    with started(bench, "--rounds", "3") as process:
        wait_for(process, "launch 2 of 3")
        bench.wait_for_runner()
        process.kill()
        process.communicate(timeout=60)
    (journal,) = bench.output.glob("*.partial")
    done = cli("results", "recover", journal)
    (path,) = bench.output.glob("*.json")
    assert done.stdout == f"1 launch is in {path}; --resume {path} goes on\n"
    bench.mode(None)
    done = bench("--rounds", "3", "--resume", path, "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["rows"][0]
    assert (row["launches"], row["samples"]) == (3, 25 + 2 * 5)
    bench.check_clean()


def test_a_phone_that_comes_back_and_does_not_start_ends_the_bench(bench: Bench) -> None:
    prop = bench.phone.root / "system" / "build.prop"
    ready = prop.read_text()
    bench.mode("slow")
    try:
        with started(bench, "--reconnect", "3", "--rounds", "3") as process:
            wait_for(process, "launch 2 of 3")
            bench.wait_for_runner()
            prop.write_text(ready.replace("sys.boot_completed=1", "sys.boot_completed="))
            bench.phone.kill_daemon()
            _, told = process.communicate(timeout=120)
    finally:
        prop.write_text(ready)
    assert process.returncode == 3
    assert "is back, but had not started after 3 s" in told
