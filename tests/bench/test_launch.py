"""Whatever becomes of a worker, a launch comes of it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from coronet_deploy.bench.launch import Labels, launch
from coronet_deploy.vocabulary import Launch, Target

LABELS = Labels("x.onnx", "a" * 64, Target("host", "cpu", 1), 3)


def through(code: str, *, deadline_s: float = 20) -> Launch:
    """Return the launch whose worker is a Python program."""
    return launch(LABELS, (), deadline_s=deadline_s, worker=(sys.executable, "-c", code))


def test_a_good_answer_keeps_every_sample() -> None:
    answer = {"samples_ms": [1.5, 2, 3.25], "load_ms": 9.0, "tools": {"numpy": "2"}}
    result = through(f"print({json.dumps(json.dumps(answer))})")
    assert result.error is None
    assert result.samples_ms == (1.5, 2.0, 3.25)
    assert (result.artifact, result.order, result.load_ms) == ("x.onnx", 3, 9.0)
    assert result.details["tools"] == {"numpy": "2"}


def test_a_killed_worker_is_named_by_its_signal() -> None:
    result = through("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert result.samples_ms == ()
    assert result.error == "the worker was killed by SIGSEGV"
    assert result.details["failure"] == "crashed"
    assert "out of memory" in (through("import os; os.kill(os.getpid(), 9)").error or "")


def test_a_worker_that_raises_tells_its_last_line() -> None:
    result = through("raise RuntimeError('no luck today')")
    assert result.error == "the worker ended with status 1: RuntimeError: no luck today"


def test_a_hanging_worker_and_its_children_are_stopped_at_the_deadline(tmp_path: Path) -> None:
    note = tmp_path / "child"
    # A shell, for it starts in milliseconds even where Python takes seconds.
    hangs = f"sleep 100 & echo $! > '{note}.new'; mv '{note}.new' '{note}'; sleep 100"
    result = launch(LABELS, (), deadline_s=5, worker=("sh", "-c", hangs))
    assert result.error == "no answer after 5 s: stopped"
    assert result.details["failure"] == "deadline"
    child = int(note.read_text())
    for _ in range(1200):
        if not _alive(child):
            break
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("", "JSON"),
        ("INFO: hello", "JSON"),
        ('{"samples_ms": []}', "samples_ms"),
        ('{"samples_ms": [1.0, -2.0]}', "samples_ms.1"),
        ('{"samples_ms": [1.0, NaN]}', "samples_ms.1"),
        ('{"samples_ms": ["1.0"]}', "samples_ms.0"),
        ('{"sample_ms": [1.0]}', "sample"),
        ("\x00\xff" * 5, "JSON"),
    ],
)
def test_garbage_is_an_error_that_says_where(printed: str, told: str) -> None:
    result = through(f"import sys; sys.stdout.buffer.write({printed.encode('latin-1')!r})")
    assert result.samples_ms == ()
    assert result.details["failure"] == "garbage"
    assert told in (result.error or "")


def test_a_worker_that_cannot_start_is_a_failed_launch() -> None:
    result = launch(LABELS, (), deadline_s=5, worker=("/no/such/python",))
    assert result.error == "cannot start /no/such/python: No such file or directory"


def test_a_worker_leaves_no_process_behind() -> None:
    before = _children()
    through("pass")
    assert _children() == before


def _children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {child for task in tasks.iterdir() for child in (task / "children").read_text().split()}
