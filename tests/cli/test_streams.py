"""Where output goes: closed, full, another encoding, nobody reading; and interruptions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import COMMAND


def _shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line of `coronet-deploy`."""
    return subprocess.run(
        ["bash", "-c", line.replace("coronet-deploy", str(COMMAND))],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def _main(setup: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `main` after some lines of set-up."""
    program = f"import sys\nfrom coronet_deploy import cli\n{setup}\n"
    program += f"sys.exit(cli.main({list(arguments)!r}))"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )


# Prints as `inspect` does, by rich, but without torch, which takes seconds to import.
_PRINTS = """
from coronet_deploy.cli import inspect
from rich.console import Console
def run(args):
    Console().print("a bar", "\u2588")
    return STATUS
inspect.run = run
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_that_nobody_reads_has_its_own_status(status: int) -> None:
    program = f"import sys\nfrom coronet_deploy import cli\nSTATUS = {status}\n{_PRINTS}\n"
    program += "sys.exit(cli.main(['inspect']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize(
    "line",
    ["devices --known >&-", "devices --known --json >&-", "devices --known 2>&- >/dev/null"],
)
def test_a_closed_stream_is_no_error(line: str) -> None:
    done = _shell(f"coronet-deploy {line}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["devices --known", "devices --known --json"])
def test_a_full_device_is_one_line(line: str) -> None:
    done = _shell(f"coronet-deploy {line} >/dev/full")
    assert done.returncode == 3
    assert done.stderr == (
        "coronet-deploy: error: cannot write to stdout: No space left on device\n"
    )


@pytest.mark.parametrize("line", ["--help", "--version", "bench --help"])
def test_help_on_a_full_device_is_one_line(line: str) -> None:
    done = _shell(f"coronet-deploy {line} >/dev/full")
    assert done.returncode == 3
    assert done.stderr == (
        "coronet-deploy: error: cannot write to stdout: No space left on device\n"
    )


@pytest.mark.parametrize("line", ["inspect lost.safetensors", "exprot", "bench --threads 0"])
def test_an_error_that_cannot_be_said_has_its_status(line: str) -> None:
    assert _shell(f"coronet-deploy {line} 2>/dev/full").returncode == 2


def test_a_misspelling_that_cannot_be_said_has_its_status_with_an_older_python() -> None:
    """Python 3.11.2, Debian 12's own, has no mercy with a stderr that is full."""
    program = "import argparse, sys\nfrom coronet_deploy import cli\n"
    program += "def tell(self, message, file=None):\n    (file or sys.stderr).write(message)\n"
    program += "argparse.ArgumentParser._print_message = tell\n"
    program += "sys.exit(cli.main(['bench', '--threads', '0']))"
    done = _shell(f'{sys.executable} -c "{program}" 2>/dev/full')
    assert done.returncode == 2


def test_an_interruption_that_cannot_be_said_has_its_status() -> None:
    program = "import sys\nfrom coronet_deploy import cli\ndef parser():\n"
    program += "    raise KeyboardInterrupt\ncli._parser = parser\nsys.exit(cli.main(['inspect']))"
    done = _shell(f'{sys.executable} -c "{program}" 2>/dev/full')
    assert done.returncode == 130


def test_what_cannot_be_read_is_not_called_stdout() -> None:
    done = _shell("coronet-deploy inspect /proc/self/mem")
    assert (done.returncode, done.stderr) == (
        2,
        "coronet-deploy: error: checkpoint /proc/self/mem cannot be read: input/output error\n",
    )


def test_an_error_of_a_file_without_a_name_is_not_called_stdout() -> None:
    setup = "from coronet_deploy.cli import inspect\n"
    setup += "def run(args):\n    raise OSError(5, 'Input/output error')\ninspect.run = run"
    done = _main(setup, "inspect")
    assert done.returncode == 3
    assert done.stderr == (
        "coronet-deploy: error: a file cannot be read or written: Input/output error "
        "(--debug shows which)\n"
    )


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the latter in the C locale
def test_an_encoding_without_the_characters_is_no_error(errors: str) -> None:
    ascii_only = f"sys.stdout.reconfigure(encoding='ascii', errors='{errors}')\nSTATUS = 0"
    done = _main(f"{ascii_only}\n{_PRINTS}", "inspect")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("?")


def test_what_stderr_is_told_comes_at_once() -> None:
    program = "import sys, time\nfrom coronet_deploy import cli\n"
    program += "from coronet_deploy.cli import inspect\n"
    program += "def run(args):\n    print('now', file=sys.stderr)\n    time.sleep(60)\n"
    program += "inspect.run = run\ncli.main(['inspect'])"
    line = [sys.executable, "-c", program]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "now\n"
        assert process.poll() is None
        process.kill()


def test_an_interruption_while_the_line_is_parsed_is_said() -> None:
    done = _main("def parser():\n    raise KeyboardInterrupt\ncli._parser = parser", "inspect")
    assert (done.returncode, done.stderr) == (130, "coronet-deploy: interrupted\n")


def test_an_error_that_is_not_of_stdout_is_not_hidden() -> None:
    setup = "def parser():\n    open('/none')\ncli._parser = parser"
    done = _main(setup, "inspect")
    assert done.returncode == 70
    assert "No such file or directory: '/none'" in done.stderr


def test_a_defect_of_ours_is_no_failed_gate() -> None:
    setup = "from coronet_deploy.cli import inspect\n"
    setup += "inspect.run = lambda args: [][0]"
    done = _main(setup, "inspect", "x.safetensors")
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("IndexError: list index out of range\n")


@pytest.mark.parametrize("taken", ["bytes(1 << 60)", "numpy.ones(1 << 50)", "torch.ones(1 << 50)"])
def test_too_little_memory_is_one_line_whatever_runs(taken: str) -> None:
    setup = "from coronet_deploy.cli import inspect\n"
    setup += f"import {taken.partition('.')[0]}\n" if "." in taken else ""
    setup += f"inspect.run = lambda args: {taken}"
    done = _main(setup, "inspect")
    assert done.returncode == 3
    assert done.stderr.startswith("coronet-deploy: error: not enough memory: ")
    assert "ulimit -v" in done.stderr
    assert done.stderr.count("\n") == 1
    debugged = _main(setup, "inspect", "--debug")
    assert debugged.returncode == 3
    assert debugged.stderr.startswith("Traceback (most recent call last):")


def test_an_error_that_is_debugged_has_its_own_status() -> None:
    setup = "from coronet_deploy.cli import inspect\nfrom coronet_deploy.errors import BadInput\n"
    setup += "def run(args):\n    raise BadInput('no such thing')\ninspect.run = run"
    done = _main(setup, "inspect", "x.safetensors", "--debug")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("\ncoronet-deploy: error: no such thing\n")


@pytest.mark.parametrize("error", ["BadInput('damaged')", "SystemError('no result')"])
@pytest.mark.parametrize("lost", [True, False])
def test_an_error_that_native_code_makes_of_an_interruption_is_one(lost: bool, error: str) -> None:
    setup = "import os, signal\nfrom coronet_deploy.cli import inspect\n"
    setup += "from coronet_deploy.errors import BadInput\n"
    setup += "def run(args):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
    # Behind the block, it does not have the interruption in its chain.
    setup += f"    except KeyboardInterrupt:\n        {'pass' if lost else f'raise {error}'}\n"
    setup += f"    raise {error}\ninspect.run = run"
    done = _main(setup, "inspect")
    if lost:
        assert (done.returncode, done.stderr) == (130, "coronet-deploy: interrupted\n")
    else:
        assert done.returncode == (2 if "Bad" in error else 70)
        assert error.split("'")[1] in done.stderr


@pytest.mark.parametrize("ignored", [True, False])
def test_a_closed_session_interrupts_unless_nohup_is_asked_for(ignored: bool) -> None:
    setup = "import os, signal\nfrom coronet_deploy.cli import inspect\n"
    # Whatever these tests were started under.
    setup += f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if ignored else 'SIG_DFL'})\n"
    setup += "inspect.run = lambda args: os.kill(os.getpid(), signal.SIGHUP) or 0"
    done = _main(setup, "inspect")
    expected = (0, "") if ignored else (130, "coronet-deploy: interrupted\n")
    assert (done.returncode, done.stderr) == expected
