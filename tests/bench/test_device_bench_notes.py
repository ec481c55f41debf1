"""What a bench on a phone could not do is said in its run, and what it was not let do fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.phone_lock import PhoneLock
from phone_bench import Bench, Done, last_line, started, wait_for
from virtual_phone import thermal


def test_an_artifact_that_a_back_end_cannot_take_is_said_to_be_left_out(
    bench: Bench, tiny: Path
) -> None:
    line = bench.line("--backend", "gpu,cpu", "--rounds", "1")
    line.insert(line.index("bench") + 1, str(tiny / "tiny.onnx"))
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=120, check=False, env=bench.environment
    )
    assert done.returncode == 0, done.stderr
    run = bench.run_file()
    measured = {(one.artifact, one.target.backend) for one in run.launches}
    assert measured == {("tiny.tflite", "gpu"), ("tiny.tflite", "cpu"), ("tiny.onnx", "cpu")}
    (note,) = [one for one in run.conditions["notes"] if "tiny.onnx" in one]
    assert note.startswith("tiny.onnx was not measured on gpu: ONNX Runtime has no GPU")
    assert "was not measured on gpu" in " ".join(done.stdout.split())


def test_cpus_that_the_phone_did_not_grant_fail_the_launch(bench: Bench) -> None:
    bench.mode("elsewhere")
    done = bench("--cpu-mask", "3", "--rounds", "1")
    assert done.returncode == 5
    assert "--cpu-mask 3 asks for CPUs 0,1, and the phone let the launch have 4-6" in (
        last_line(done)
    )
    (launch,) = bench.run_file().launches
    assert launch.samples_ms == ()
    bench.check_clean()


def test_what_was_asked_that_is_not_usual_is_told_beside_the_figures(bench: Bench) -> None:
    option = ("--backend", "gpu", "--backend-option", "gpu.precision=2")
    done = bench("--rounds", "1", "--cpu-mask", "f0", *option)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "Launches were pinned to some of the CPUs (--cpu-mask f0)." in told
    assert "gpu was given precision=2 (--backend-option)." in told


def test_cpus_that_a_phone_kept_a_launch_from_unasked_are_told(bench: Bench) -> None:
    bench.mode("elsewhere")
    done = bench()
    assert done.returncode == 0, done.stderr
    told = "The phone let 2 of 2 launches have CPUs 4-6 only, of its 8."
    assert told in " ".join(done.stdout.split())
    assert told in bench.run_file().conditions["notes"]


def test_a_phone_that_cannot_time_the_canary_is_measured_and_the_run_says_so(
    bench: Bench,
) -> None:
    seq = bench.phone.root / "system" / "bin" / "seq"
    away = seq.with_name("seq.away")
    seq.rename(away)
    try:
        done = bench("--rounds", "1")
    finally:
        away.rename(seq)
    assert done.returncode == 0, done.stderr
    run = bench.run_file()
    assert run.conditions["canary"]["baseline_ms"] is None
    assert [launch.details["canary_ms"] for launch in run.launches] == [None]
    note = "Throttling was not looked for: the canary could not be timed."
    assert note in run.conditions["notes"]


def test_a_phone_that_another_bench_holds_is_told_before_this_host_draws(
    bench: Bench, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(bench.artifact.read_bytes()[:500])
    bench.artifact = broken
    line = [one for one in bench.line() if one != "--no-parity"]

    def run() -> Done:
        return subprocess.run(
            line, check=False, env=bench.environment, capture_output=True, text=True, timeout=120
        )

    with PhoneLock(Device(bench.phone.serial)):
        held = run()
    free = run()
    assert (held.returncode, free.returncode) == (3, 4)
    assert "is in use by another bench" in last_line(held)
    assert f"LiteRT does not load {broken}" in last_line(free)
    assert "the screen of" not in free.stderr


def test_a_phone_whose_screen_is_on_is_told_before_anything_is_pushed(bench: Bench) -> None:
    power = bench.phone.root / "fake" / "dumpsys" / "power"
    asleep = power.read_text()
    power.write_text(asleep.replace("Asleep", "Awake"))
    try:
        done = bench("--rounds", "1")
    finally:
        power.write_text(asleep)
    assert done.returncode == 0, done.stderr
    told = f"the screen of phone {bench.phone.serial} is on: if somebody uses it, it is slower\n"
    assert done.stderr.index(told) < done.stderr.index("pushing")
    assert "The screen was on." in bench.run_file().conditions["notes"]


def test_what_came_while_the_bench_went_on_is_told(bench: Bench) -> None:
    bench.mode("slow")
    try:
        with started(bench) as process:
            wait_for(process, "launch 2 of 2")
            bench.phone.fake("settings/global.low_power", "1")
            bench.phone.fake("settings/global.airplane_mode_on", "0")
            _, told = process.communicate(timeout=120)
    finally:
        bench.phone.fake("settings/global.low_power", "0")
        bench.phone.fake("settings/global.airplane_mode_on", "1")
    assert process.returncode == 0, told
    notes = bench.run_file().conditions["notes"]
    assert [one for one in notes if one.startswith("After the last launch")] == [
        "After the last launch: Battery saver was on: it lowers the clocks.",
        "After the last launch: Airplane mode was off: the radios share heat and CPUs.",
    ]


def test_a_phone_that_is_never_cool_is_not_said_to_time_no_canary(bench: Bench) -> None:
    kept = (bench.phone.root / "fake" / "dumpsys" / "thermalservice").read_text()
    bench.phone.fake("dumpsys/thermalservice", thermal(2, 44.0))
    try:
        assert bench("--cool-down", "0.2").returncode == 5
    finally:
        bench.phone.fake("dumpsys/thermalservice", kept)
    notes = bench.run_file().conditions["notes"]
    assert any("was not cool before the first launch" in note for note in notes)
    assert not any("canary" in note for note in notes)


def test_a_phone_that_does_not_cool_is_not_waited_for_before_each_row(bench: Bench) -> None:
    kept = (bench.phone.root / "fake" / "dumpsys" / "thermalservice").read_text()
    bench.phone.fake("dumpsys/thermalservice", thermal(2, 44.0))
    try:
        done = bench("--threads", "2,3,4", "--cool-down", "0.4", "--cool-down-total", "0.6")
    finally:
        bench.phone.fake("dumpsys/thermalservice", kept)
    assert done.returncode == 5
    run = bench.run_file()
    told = [launch.error for launch in run.launches if launch.error]
    assert told[0].startswith("throttled: not cool after 0.2 s: Android's")
    (later,) = set(told[1:])
    assert later.startswith("throttled: not cool in 0.6 s in all: Android's")
    assert len(told) == 4
    assert done.stderr.count("not cool in 0.6 s in all: not waited for any more") == 1
    assert any("--cool-down-total" in note for note in run.conditions["notes"])


def test_a_row_that_began_on_a_hot_phone_is_measured_once_the_phone_is_cool(bench: Bench) -> None:
    kept = (bench.phone.root / "fake" / "dumpsys" / "thermalservice").read_text()
    bench.phone.fake("dumpsys/thermalservice", thermal(2, 44.0))
    try:
        with started(bench, "--rounds", "3", "--cool-down", "2", "--json") as process:
            wait_for(process, "launch 2 of 3")
            bench.phone.fake("dumpsys/thermalservice", kept)
            out, told = process.communicate(timeout=120)
    finally:
        bench.phone.fake("dumpsys/thermalservice", kept)
    assert process.returncode == 1
    assert "1 of 3 launches failed" in told
    row = json.loads(out)["rows"][0]
    assert (row["launches"], row["failed"]) == (2, 1)
    first, *later = bench.run_file().launches
    assert (first.error or "").startswith("throttled: not cool after 2 s")
    assert [len(one.samples_ms) for one in later] == [5, 5]


def test_a_phone_that_is_never_cooler_than_its_room_can_be_measured(bench: Bench) -> None:
    kept = (bench.phone.root / "fake" / "dumpsys" / "thermalservice").read_text()
    bench.phone.fake("dumpsys/thermalservice", thermal(0, 38.0))
    try:
        done = bench("--cool-down", "0.2")
        assert done.returncode == 5
        assert "its skin is at 38.0 C, above 36" in last_line(done)
        assert bench("--cool-down", "0.2", "--warmest", "40").returncode == 0
    finally:
        bench.phone.fake("dumpsys/thermalservice", kept)


def test_a_hot_phone_is_not_waited_for_where_nothing_is_left_to_time(bench: Bench) -> None:
    kept = (bench.phone.root / "fake" / "dumpsys" / "thermalservice").read_text()
    bench.phone.fake("dumpsys/thermalservice", thermal(2, 44.0))
    bench.mode("refuse")
    try:
        done = bench("--backend", "gpu", "--cool-down", "20")
    finally:
        bench.phone.fake("dumpsys/thermalservice", kept)
    assert done.returncode == 1
    assert "cooling down" not in done.stderr
    assert not any("cool" in note for note in bench.run_file().conditions["notes"])


def test_a_phone_that_comes_back_and_refuses_fixed_performance_mode_is_said_to_be_without(
    bench: Bench,
) -> None:
    bench.mode("slow")
    command = bench.phone.root / "system" / "bin" / "cmd"
    kept = command.read_bytes()
    try:
        with started(bench, "--rounds", "2") as process:
            wait_for(process, "launch 1 of 2")
            bench.wait_for_runner()
            command.write_text("#!/system/bin/sh\necho 'cmd: no Power HAL' >&2\nexit 255\n")
            bench.phone.kill_daemon()
            _, rest = process.communicate(timeout=120)
        assert process.returncode == 0, rest
    finally:
        command.write_bytes(kept)
    conditions = bench.run_file().conditions
    assert (conditions["losses"], conditions["fixed_performance"]) == (1, "cmd: no Power HAL")
    note = "Without fixed-performance mode since the phone came back: cmd: no Power HAL."
    assert note in conditions["notes"]
