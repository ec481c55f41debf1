"""`--dry-run` beside the commands that a bench on a virtual phone really gives adb."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from coronet_deploy.bench.phone_files import ROOT
from phone_bench import Bench

# Each call, its words apart by one rare character and its end another.
FRONT = """#!/bin/sh
{ printf '%s\\037' "$@"; printf '\\036'; } >> LOG
exec REAL "$@"
"""
LIMITED = re.compile(r"timeout --foreground -s KILL \d+ ")
COUNTED = re.compile(r"seq \d+")
FIRST_LOOK = "dumpsys power | grep -m 1 Wakefulness="


def spoken(words: list[str]) -> list[str]:
    """Return a phone's command as one would type it, without what keeps it to a time."""
    kind, text = words[2], words[3].removeprefix("echo @coronet-deploy begins; ")
    text = text.partition("; s=$?; echo @coronet-deploy")[0]
    if kind != "shell":
        return words[2:]
    if "flock" in text:
        return [kind, "the phone's lock"]
    text = LIMITED.sub("", text, count=1)
    own = shlex.split(text)[2] if text.startswith("sh -c ") else text
    return [kind, COUNTED.sub("seq COUNT", own)]


def in_turn(commands: list[list[str]]) -> list[list[str]]:
    """Return commands without repeats: how often the canary is timed at first, phones decide."""
    return [one for one, last in zip(commands, [[], *commands], strict=False) if one != last]


def test_a_dry_run_says_what_a_bench_tells_adb_command_by_command(
    bench: Bench, tmp_path: Path
) -> None:
    bench.server.adb("-s", bench.phone.serial, "shell", f"rm -rf {ROOT}")
    real, log = shutil.which("adb"), tmp_path / "adb.log"
    assert real
    bench.first = tmp_path / "bin"
    bench.first.mkdir()
    front = bench.first / "adb"
    front.write_text(FRONT.replace("LOG", str(log)).replace("REAL", real))
    front.chmod(0o755)
    dry = bench("--dry-run")
    assert dry.returncode == 0, dry.stderr
    log.unlink()
    done = bench()
    assert done.returncode == 0, done.stderr

    calls = [one.split("\x1f")[:-1] for one in log.read_text().split("\x1e")[:-1]]
    told = [spoken(one) for one in calls if one[0] == "-s"]
    told = told[told.index(["shell", FIRST_LOOK]) :]
    said = [spoken(shlex.split(line)[1:]) for line in dry.stdout.splitlines()]
    # A phone that tells how warm its skin is need not be asked for its sensors.
    said = [one for one in said if "thermal_zone" not in one[1]]
    assert in_turn(said) == in_turn(told)
    assert sum("--runs 30" in one[1] for one in said) == 2
