"""Benchmarks' turns: real processes, one inference each, whoever fails left out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import turns

# Writes its name into a log at every inference, and fails at the one it is told to.
_PROGRAM = """
import sys, time
sys.path.insert(0, {peers!r})
from launch import serve

name, fails_at = sys.argv[1], int(sys.argv[2])
count = 0

def invoke():
    global count
    count += 1
    if count == fails_at:
        sys.exit("no memory left")
    with open({log!r}, "a") as log:
        log.write(name)
    time.sleep(0.002)

serve(invoke, last=lambda: {{"psnr_db": 42.0}})
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    peers = Path(turns.__file__).parent / "peers"
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM.format(peers=str(peers), log=str(tmp_path / "log")))
    return path


def _command(program: Path, name: str, fails_at: int = 0) -> list[str]:
    return [sys.executable, str(program), name, str(fails_at)]


def test_they_infer_forwards_then_backwards_and_one_at_a_time(program: Path) -> None:
    told = turns.play({name: _command(program, name) for name in "AB"}, warmup=2, samples=3)
    # The warm-up of each, then turns of two inferences, the second of which is timed.
    assert (program.parent / "log").read_text() == "AABB" + "AABB" + "BBAA" + "AABB"
    for name in "AB":
        player = told[name]
        assert isinstance(player, turns.Played)
        assert player.median_ms >= 2  # it sleeps as long
        assert player.last["psnr_db"] == 42
        assert player.last["peak_mb"] > 1


def test_who_fails_says_why_and_the_others_go_on(program: Path) -> None:
    commands = {
        "A": _command(program, "A"),
        "B": _command(program, "B", fails_at=4),
        "C": [str(program.parent / "not-there")],
    }
    told = turns.play(commands, warmup=1, samples=3)
    assert told["B"] == "no memory left"
    assert told["C"] == "not installed: No such file or directory"
    assert isinstance(told["A"], turns.Played)
    assert (program.parent / "log").read_text().count("A") == 1 + 2 * 3
