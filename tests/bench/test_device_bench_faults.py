"""`coronet-deploy bench --device sm8550` when things go wrong, on virtual phones.

The runner is one that misbehaves on request: see rig/faulty_runner.c.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from phone_bench import Bench, last_line, started, wait_for
from virtual_phone import EXYNOS_2400, SM8550, AdbServer, VirtualPhone, thermal

CRASHED = "/data/local/tmp/.crashed"
"""What those that crash once leave on the phone."""


@pytest.mark.parametrize(
    ("mode", "told", "failure"),
    [
        ("abort", "SIGABRT", "crashed"),
        ("garbage", "not json", "garbage"),
        ("short", "cut short", "garbage"),
    ],
)
def test_a_runner_that_fails_is_one_line_and_a_failed_launch(
    bench: Bench, mode: str, told: str, failure: str
) -> None:
    bench.mode(mode)
    done = bench()
    assert done.returncode == 5
    assert told in last_line(done)
    (launch,) = bench.run_file().launches
    assert launch.details["failure"] == failure
    bench.check_clean()


def test_a_launch_that_crashed_is_made_once_more_and_told(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench) as process:
        wait_for(process, "launch 1 of 2")
        bench.kill_runner(signal.SIGKILL)
        wait_for(process, "launch 1 of 2: the runner was killed by SIGKILL")
        bench.mode(None)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    note = (
        "tiny.tflite on cpu, 1 thread: a launch was made again after a crash: "
        "the runner was killed by SIGKILL (out of memory?)."
    )
    assert note in " ".join(out.split())
    run = bench.run_file()
    assert note in run.conditions["notes"]
    first, second = run.launches
    (crash,) = first.details["crashed_launches"]
    assert crash["reason"] == "the runner was killed by SIGKILL (out of memory?)"
    assert first.samples_ms
    assert "crashed_launches" not in second.details
    bench.check_clean()


def test_a_launch_that_crashes_twice_fails_its_row_and_not_the_others(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench, "--threads", "1,2", "--json") as process:
        wait_for(process, "launch 1 of 4")
        bench.kill_runner(signal.SIGSEGV)
        wait_for(process, "killed by SIGSEGV: once more")
        bench.kill_runner(signal.SIGBUS)
        wait_for(process, "launch 2 of 4")
        bench.mode(None)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killed by SIGBUS, and before that: the runner was killed by SIGSEGV" in told
    bad, good = json.loads(out)["rows"]
    assert (bad["threads"], bad["launches"], bad["failed"]) == (1, 0, 1)
    assert (good["threads"], good["launches"], good["failed"]) == (2, 2, 0)
    bench.check_clean()


def test_a_trial_that_crashed_is_made_once_more_and_told(bench: Bench) -> None:
    bench.server.adb("-s", bench.phone.serial, "shell", f"rm -f {CRASHED}")
    bench.mode("once")
    done = bench("--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["rows"][0]
    assert (row["launches"], row["failed"]) == (2, 0)
    note = "tiny.tflite on cpu: it was tried again after a crash: the runner was killed by SIGABRT."
    assert note in json.loads(done.stdout)["notes"]
    first, _ = bench.run_file().launches
    assert [one["reason"] for one in first.details["crashed_trials"]] == [
        "the runner was killed by SIGABRT"
    ]
    bench.check_clean()


def test_a_runner_that_hangs_is_stopped_on_the_phone(bench: Bench) -> None:
    bench.mode("hang")
    done = bench("--deadline", 1)
    assert done.returncode == 5
    assert "no answer after 1 s" in last_line(done)
    bench.check_clean()


def test_a_delegate_that_refuses_fails_its_row_and_not_the_others(bench: Bench) -> None:
    bench.mode("refuse")
    done = bench("--backend", "cpu,gpu", "--json")
    assert done.returncode == 1
    assert "the delegate refused" in last_line(done)
    good, bad = json.loads(done.stdout)["rows"]
    assert (good["backend"], good["samples"], good["failed"]) == ("cpu", 10, 0)
    assert (bad["backend"], bad["samples"], bad["failed"]) == ("gpu", 0, 1)
    bench.check_clean()


def test_a_partial_delegation_fails_its_row_unless_it_is_allowed_and_then_is_called_so(
    bench: Bench,
) -> None:
    bench.mode("partial")
    done = bench("--backend", "gpu", "--json")
    assert done.returncode == 1
    assert "gpu took 7 of 12 nodes" in last_line(done)
    assert json.loads(done.stdout)["rows"][0]["median_ms"] is None
    (path,) = bench.output.glob("*.json")
    path.unlink()
    done = bench("--backend", "gpu", "--allow-fallback", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["rows"][0]["backend"] == "gpu+cpu"
    assert any("partly on the CPU" in note for note in answer["notes"])
    assert bench.run_file().launches[0].details["nodes_taken"] == 7


def test_another_picture_fails_its_row(bench: Bench) -> None:
    line = [one for one in bench.line("--json") if one != "--no-parity"]
    done = subprocess.run(
        line, check=False, env=bench.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "draws another picture" in last_line(done)
    (launch,) = bench.run_file().launches
    assert launch.details["parity"]["passed"] is False
    assert launch.samples_ms == ()


def test_a_launch_that_throttled_is_made_again_and_not_averaged_in(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench, "--rounds", "2", "--json", "--canary-limit", "3") as process:
        wait_for(process, "launch 1 of 2")
        bench.wait_for_runner()
        bench.mode(None)
        bench.phone.fake("throttle", "0.5")
        wait_for(process, "cooling down")
        bench.phone.fake("throttle", None)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert json.loads(out)["rows"][0]["samples"] == 10
    first, second = bench.run_file().launches
    (again,) = first.details["throttled_launches"]
    assert "times as long" in again["reason"]
    assert len(again["samples_ms"]) == 25
    assert "throttled_launches" not in second.details


def test_a_phone_that_never_cools_down_fails_the_row(bench: Bench) -> None:
    service = "dumpsys/thermalservice"
    bench.phone.fake(service, thermal(3, 47.5))
    try:
        done = bench("--cool-down", 0.2)
    finally:
        bench.phone.fake(service, thermal(0, 31.5))
    assert done.returncode == 5
    assert "throttled: not cool after 0.2 s: Android's thermal status is severe" in last_line(done)
    run = bench.run_file()
    assert run.conditions["throttled"] is True
    assert run.launches[0].samples_ms == ()
    bench.check_clean()


def test_native_files_for_another_machine_are_refused_before_they_are_pushed(
    bench: Bench, tmp_path: Path
) -> None:
    arm = bytearray((bench.kit / "coronet-runner").read_bytes())
    arm[18:20] = (183).to_bytes(2, "little")
    (tmp_path / "arm").write_bytes(arm)
    done = bench("--runner", tmp_path / "arm")
    assert done.returncode == 2
    assert "built for aarch64 (arm64-v8a), and the phone is x86_64" in last_line(done)
    (tmp_path / "text").write_text("not a library at all")
    done = bench("--litert-library", tmp_path / "text")
    assert done.returncode == 2
    assert "--litert-library" in last_line(done)


def test_missing_native_files_are_named_with_the_way_to_get_them(
    bench: Bench, tmp_path: Path
) -> None:
    done = bench("--phone-libraries", tmp_path)
    assert done.returncode == 2
    assert "libLiteRt.so" in last_line(done)
    (tmp_path / "libLiteRt.so").write_bytes((bench.kit / "libLiteRt.so").read_bytes())
    done = bench("--phone-libraries", tmp_path)
    assert done.returncode == 2
    assert "coronet-deploy runner build" in last_line(done)


def test_a_full_phone_is_told(
    adb_server: AdbServer, faulty: Path, tiny: Path, tmp_path: Path
) -> None:
    big = tmp_path / "coronet-runner"
    big.write_bytes((faulty / "coronet-runner").read_bytes() + os.urandom(6 << 20))
    with VirtualPhone.boot(EXYNOS_2400, adb_server, data_mb=4) as small:
        bench = Bench(adb_server, small, faulty, tiny / "tiny.tflite", tmp_path / "runs")
        line = bench.line("--runner", big, device="exynos2400")
        done = subprocess.run(
            line, check=False, env=bench.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 3
        assert "No space left" in last_line(done)
        assert "make room on the phone" in last_line(done)
        bench.check_clean()


def test_a_phone_that_is_full_to_the_last_byte_is_left_as_it_was_found(
    adb_server: AdbServer, faulty: Path, tiny: Path, tmp_path: Path
) -> None:
    with VirtualPhone.boot(EXYNOS_2400, adb_server, data_mb=2) as full:
        shell = ("-s", full.serial, "shell")
        adb_server.adb(*shell, "echo false > /data/local/tmp/.fixed_performance")
        adb_server.adb(*shell, "cat /dev/zero > /data/local/tmp/others", check=False)
        bench = Bench(adb_server, full, faulty, tiny / "tiny.tflite", tmp_path / "runs")
        done = subprocess.run(
            bench.line(device="exynos2400"),
            check=False, env=bench.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 3
        assert "make room on the phone" in last_line(done)
        bench.check_clean()


def test_two_phones_of_one_chipset_need_a_serial(bench: Bench, adb_server: AdbServer) -> None:
    with VirtualPhone.boot(SM8550, adb_server) as twin:
        line = bench.line()
        place = line.index("--serial")
        del line[place : place + 2]
        done = subprocess.run(
            line, check=False, env=bench.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2
        assert bench.phone.serial in last_line(done)
        assert twin.serial in last_line(done)
        assert "--serial" in last_line(done)


def test_two_benches_at_once_do_not_share_a_phone(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench, "--rounds", "6") as process:
        wait_for(process, "launch 1 of 6")
        second = bench()
        assert second.returncode == 3
        assert "in use by another bench" in last_line(second)
        bench.mode(None)
        process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.fixture
def vendors_program(tmp_path: Path) -> Path:
    """Compile a program that prints what TFLite's benchmark_model does.

    On a phone with a file fake/vendors_crash it crashes, once.
    """
    fixtures = Path(__file__).with_name("fixtures") / "vendor"
    texts = [
        json.dumps((fixtures / f"{one}.txt").read_text()) for one in ("help-tflite", "tflite-cpu")
    ]
    source = tmp_path / "benchmark_model.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        "#include <string.h>\n#include <unistd.h>\n"
        "int main(int c, char **v) {\n"
        '  int asked = c > 1 && !strcmp(v[1], "--help");\n'
        '  if (!asked && access("/fake/vendors_crash", F_OK) == 0 &&\n'
        f'      open("{CRASHED}", O_CREAT | O_EXCL, 0600) >= 0) abort();\n'
        f"  fputs(asked ? {texts[0]} : {texts[1]}, stdout);\n"
        "  return 0;\n}\n"
    )
    program = tmp_path / "benchmark_model"
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    return program


def test_a_vendors_program_is_measured_with_in_rows_of_its_own(
    bench: Bench, vendors_program: Path
) -> None:
    done = bench("--vendor-tool", vendors_program, "--json")
    assert done.returncode == 0, done.stderr
    own, theirs = json.loads(done.stdout)["rows"]
    assert (own["backend"], own["samples"]) == ("cpu", 10)
    assert (theirs["backend"], theirs["samples"]) == ("cpu, benchmark_model", 0)
    assert (theirs["launches"], theirs["median_ms"]) == (2, 79.5)
    bench.check_clean()
    other = bench("--vendor-tool", bench.kit / "libLiteRt.so")
    assert other.returncode == 2
    assert "no benchmark program that is known" in last_line(other)


def test_a_vendors_program_that_crashed_is_started_once_more(
    bench: Bench, vendors_program: Path
) -> None:
    bench.server.adb("-s", bench.phone.serial, "shell", f"rm -f {CRASHED}")
    bench.phone.fake("vendors_crash", "")
    try:
        done = bench("--vendor-tool", vendors_program, "--json")
    finally:
        bench.phone.fake("vendors_crash", None)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(row["launches"], row["failed"]) for row in answer["rows"]] == [(2, 0), (2, 0)]
    (note,) = [one for one in answer["notes"] if "crash" in one]
    assert note.startswith("tiny.tflite on cpu, benchmark_model, 1 thread: a launch was made again")
    assert "it was killed by SIGABRT" in note


def test_a_back_end_that_a_vendors_program_lacks_fails_its_row_and_not_the_bench(
    bench: Bench, vendors_program: Path
) -> None:
    done = bench("--backend", "cpu,qnn", "--vendor-tool", vendors_program, "--json")
    rows = {row["backend"]: row for row in json.loads(done.stdout)["rows"]}
    assert [row["failed"] for row in rows.values()] == [0, 0, 0, 1]
    assert rows["qnn, benchmark_model"]["launches"] == 0
    assert "back end qnn of benchmark_model needs an external delegate" in last_line(done)
    assert (rows["cpu"]["launches"], rows["qnn"]["launches"]) == (2, 2)
    bench.check_clean()


def test_a_dry_run_says_every_command_and_tells_the_phone_nothing(bench: Bench) -> None:
    before = bench.server.adb("-s", bench.phone.serial, "shell", "find /data").stdout
    done = bench("--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"adb -s {bench.phone.serial} ") for line in lines)
    assert sum(" push " in line for line in lines) == 3
    assert sum("--warmup-runs" in line and "--runs 30" in line for line in lines) == 2
    assert bench.server.adb("-s", bench.phone.serial, "shell", "find /data").stdout == before


def test_a_dry_run_says_the_commands_of_a_vendors_program_in_their_turn(
    bench: Bench, vendors_program: Path
) -> None:
    done = bench("--dry-run", "--vendor-tool", vendors_program)
    assert done.returncode == 0, done.stderr
    timed = [line for line in done.stdout.splitlines() if " 30 " in line or "_runs=30" in line]
    theirs = [line for line in timed if "/benchmark_model --graph=" in line]
    assert [line in theirs for line in timed] == [False, True, True, False]
    assert all("tiny.tflite" in line and "--use_xnnpack=true" in line for line in theirs)
    assert f"push {vendors_program} " in done.stdout
    assert "/benchmark_model --help" in done.stdout
    other = bench("--dry-run", "--vendor-tool", bench.kit / "libLiteRt.so")
    assert other.returncode == 2
    assert "no benchmark program that is known" in last_line(other)


def test_a_delegate_that_takes_less_than_in_its_trial_fails_the_launch(bench: Bench) -> None:
    bench.mode("slow")
    with started(bench, "--backend", "gpu", "--rounds", "3", "--json") as process:
        wait_for(process, "launch 1 of 3")
        bench.wait_for_runner()
        bench.mode("partial")
        out, told = process.communicate(timeout=120)
    assert process.returncode != 0, told
    row = json.loads(out)["rows"][0]
    assert (row["samples"], row["failed"]) == (25, 2)
    _, second, third = bench.run_file().launches
    assert {one.details["failure"] for one in (second, third)} == {"delegation"}
    assert "gpu took 7 of 12 nodes" in (second.error or "")
