"""`coronet-deploy bench` against a virtual phone, with a runner that misbehaves on request."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coronet_deploy.bench.phone_files import ROOT
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import Run
from support import COMMAND
from virtual_phone import RIG, AdbServer, VirtualPhone

QUICK = ("--threads", "1", "--rounds", "2", "--no-parity", "--canary-limit", "20")
Done = subprocess.CompletedProcess[str]


@dataclass
class Bench:
    """Runs the command against a virtual phone; `first` is a folder to look for programs in."""

    server: AdbServer
    phone: VirtualPhone
    kit: Path
    artifact: Path
    output: Path
    first: Path | None = None

    def line(self, *more: object, device: str = "sm8550") -> list[str]:
        given = [self.artifact, "--device", device, "--serial", self.phone.serial]
        own = ["--phone-libraries", self.kit, "--output", self.output]
        return [str(one) for one in (COMMAND, "bench", *given, *own, *QUICK, *more)]

    def __call__(self, *more: object, **options: Any) -> Done:
        settings = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run(self.line(*more), check=False, env=self.environment, **settings)

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ["PATH"]
        return {**self.server.environment, "PATH": f"{self.first}:{path}" if self.first else path}

    def mode(self, name: str | None) -> None:
        """Make the runner misbehave from its next start on, or not any more."""
        self.phone.fake("faulty_mode", name)

    def wait_for_runner(self) -> int:
        """Return a timed launch's process, once the runner knows how it is to behave."""

        def runs(line: str) -> bool:
            return line.startswith(f"{ROOT}/files/") and "--runs 30" in line

        end = time.monotonic() + 60
        while not (found := [pid for pid, one in self.phone.processes().items() if runs(one)]):
            assert time.monotonic() < end, "no launch began"
            time.sleep(0.02)
        time.sleep(0.2)  # it reads that first of all
        return found[0]

    def kill_runner(self, number: signal.Signals) -> None:
        """Kill a timed launch as the phone's system would."""
        os.kill(self.wait_for_runner(), number)

    def run_file(self) -> Run:
        (path,) = self.output.glob("*.json")
        return read_run(path)

    def check_clean(self) -> None:
        """See that nothing of a bench runs on the phone and that its work folder is gone."""
        running = [line for line in self.phone.processes().values() if ROOT in line]
        assert running == []
        shell = ("-s", self.phone.serial, "shell")
        assert self.server.adb(*shell, f"ls {ROOT}").stdout.split() == ["files", "lock"]
        assert self.server.adb(*shell, "cat /data/local/tmp/.fixed_performance").stdout == "false\n"


def compile_faulty(folder: Path) -> Path:
    """Compile the runner that misbehaves into `folder`; any library does for it."""
    runner = folder / "coronet-runner"
    source = RIG / "faulty_runner.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", runner, source], check=True)
    for name in ("libLiteRt.so", "libonnxruntime.so"):
        (folder / name).write_bytes(runner.read_bytes())
    return folder


def last_line(done: Done) -> str:
    """Return the line that says why the command failed."""
    return done.stderr.splitlines()[-1]


def started(bench: Bench, *more: str) -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        bench.line(*more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=bench.environment,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read its progress until `text` comes."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"the bench ended before {text!r}: {''.join(seen)}")
