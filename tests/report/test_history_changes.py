"""What ends a history: a change that matters, by the margin, and no smaller one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.report.sessions import change_points
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run
from support import Cli

QUIET = 0.0005
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def quiet(*levels: float, seed: int = 2) -> list[float]:
    """Return a session's median for each of `levels`, in ms, of a machine that varies by 0.05 %."""
    noise = np.random.default_rng(seed).normal(0, QUIET, len(levels))
    return [float(one) for one in np.asarray(levels) * np.exp(noise)]


@pytest.mark.parametrize("size", [0.998, 1.002, 1.011])
def test_a_change_far_below_the_margin_is_none(size: float) -> None:
    history = quiet(*[10.0] * 13, *[10.0 * size] * 8)
    assert change_points(history) == []
    # Whoever asks for every change has it.
    assert change_points(history, margin=0.0) == [13]
    assert change_points(history, margin=0.001) == [13]


def test_a_change_of_the_margin_is_one() -> None:
    assert change_points(quiet(*[10.0] * 13, *[10.25] * 8)) == [13]
    assert change_points(quiet(*[10.0] * 13, *[9.75] * 8)) == [13]


def test_small_changes_in_a_row_are_a_large_one() -> None:
    steps = [10.0 * 1.01 ** (day // 8) for day in range(48)]
    found = change_points(quiet(*steps))
    assert 0 < len(found) < 5
    edges = [0, *found, len(steps)]
    levels = [np.median(steps[start:end]) for start, end in itertools.pairwise(edges)]
    assert all(after / before > 1.0125 for before, after in itertools.pairwise(levels))


def test_a_quiet_machine_keeps_its_history_over_a_change_of_02_percent(
    cli: Cli, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    def session(day: int, level: float) -> Run:
        created = (FIRST + timedelta(days=day)).isoformat(timespec="seconds")
        return make_run({"a.onnx": level}, id=f"day{day:02}", created=created)

    for day, level in enumerate(quiet(*[10.0] * 13, *[10.02] * 8)):
        write_run(session(day, level), tmp_path / "runs")
    same = write_run(session(30, 10.02), tmp_path)
    done = cli("compare", "--history", tmp_path / "runs", same, "--json")
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    assert {(row["verdict"], row["sessions"][0]) for row in told["rows"]} == {("same", 21)}
    assert not any("changed on" in note for note in told["notes"])
    assert any("a change below 1.25 % is none" in note for note in told["notes"])
    slower = write_run(session(31, 10.6), tmp_path)
    done = cli("compare", "--history", tmp_path / "runs", slower, "--margin", "0")
    # With no margin it counts, and eight sessions since are too few.
    assert done.returncode == 5
    assert "8 earlier sessions since the change of 2026-01-14" in " ".join(done.stdout.split())
    assert cli("compare", "--history", tmp_path / "runs", slower).returncode == 1
