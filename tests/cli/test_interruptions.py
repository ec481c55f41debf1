"""Ctrl-C and a polite kill while a command imports what it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import COMMAND


def _wait_until_it_takes(number: int, process: subprocess.Popen[str]) -> None:
    """Return once the process has a handler of its own for a signal (proc(5), SigCgt)."""
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt")]
        if int(caught, 16) >> (number - 1) & 1:
            return
        time.sleep(0.005)


def _interrupted(
    line: list[str], number: int, delay_s: float, folder: Path
) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        # A shell that runs tests in the background has SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
    ) as process:
        # SIGINT has Python's own handler from the start.
        _wait_until_it_takes(signal.SIGTERM, process)
        time.sleep(delay_s)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
def test_an_interruption_while_packages_are_imported_ends_the_command(
    delay_s: float, number: int, tmp_path: Path
) -> None:
    status, _, told = _interrupted([str(COMMAND), "inspect"], number, delay_s, tmp_path)
    if status == 0:
        assert told == ""
    else:
        assert (status, told) == (130, "coronet-deploy: interrupted\n")


_DONE = """
import atexit, os, signal, sys
from coronet_deploy import __main__, cli
from coronet_deploy.cli import inspect
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)
def run(args):
    print("said")
    if when == "exit":
        atexit.register(os.kill, os.getpid(), number)
    else:
        sys.last = Last()  # gone when Python has taken its handlers down
    return 1
inspect.run = run
number, when = int(sys.argv[1]), sys.argv[2]
sys.argv[1:] = ["inspect"]
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["exit", "late"])
def test_a_signal_after_the_work_leaves_its_status(number: int, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DONE, str(int(number)), when],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "said\n", "")


_PACKAGE = """
import time
try:
    time.sleep(1.5)
except BaseException as error:
    print("lost:", repr(error))
"""
_WORK = """
import sys, time
from coronet_deploy import cli
from coronet_deploy.cli import inspect
def run(args):
    try:
        import slow_package
        time.sleep(60)
    finally:
        print("undone")
inspect.run = run
sys.exit(cli.main(["inspect"]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_work_that_imports_is_interrupted_behind_the_import_and_undone(tmp_path: Path) -> None:
    (tmp_path / "slow_package.py").write_text(_PACKAGE)
    line = [sys.executable, "-c", _WORK]
    status, out, told = _interrupted(line, signal.SIGINT, 0.5, tmp_path)
    assert (status, out, told) == (130, "undone\n", "coronet-deploy: interrupted\n")


_FINALIZER = """
import sys, time
from coronet_deploy import cli
from coronet_deploy.cli import inspect
class Slow:
    def __del__(self):
        time.sleep(1)
def run(args):
    try:
        Slow()  # an interruption in there is lost
        print("went on", flush=True)
        time.sleep(10)
    finally:
        time.sleep(1.2)
        print("undone")
inspect.run = run
sys.exit(cli.main(["inspect"]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interruption_that_a_finalizer_swallows_is_raised_again(
    number: int, tmp_path: Path
) -> None:
    line = [sys.executable, "-c", _FINALIZER]
    status, out, told = _interrupted(line, number, 0.5, tmp_path)
    assert (status, told) == (130, "coronet-deploy: interrupted\n")
    assert out == "went on\nundone\n"


_LAST_IMPORT = """
import atexit, os, signal, sys, time
from coronet_deploy import __main__
from coronet_deploy.cli import inspect
def run(args):
    import signalled
    return 1
def at_end():
    time.sleep(0.3)
    print("whole")
inspect.run = run
atexit.register(at_end)
sys.argv[1:] = ["inspect"]
sys.exit(__main__.main())
"""


def test_an_interruption_that_waits_for_an_import_ends_with_the_work(tmp_path: Path) -> None:
    (tmp_path / "signalled.py").write_text("import os\nos.kill(os.getpid(), 15)\n")
    done = subprocess.run(
        [sys.executable, "-c", _LAST_IMPORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "whole\n", "")


_LOADING = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupter:
    def find_spec(self, name, *others):
        if name == "coronet_deploy.cli._signals":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
runpy.run_module("coronet_deploy", run_name="__main__")
"""


def test_an_interruption_before_the_command_line_is_loaded_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADING], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "coronet-deploy: interrupted\n")
