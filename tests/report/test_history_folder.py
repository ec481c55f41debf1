"""A folder as a history: nothing in it is passed over without a word."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report import history
from coronet_deploy.report.history import open_past
from coronet_deploy.report.outlook import judge_by_history
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.results.entries import row_entries
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run


def unlistable(folder: Path) -> None:
    """Make folders below `folder` whose path is too long to be listed, whoever asks."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_folder_in_it_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with open_past(str(tmp_path / "runs")):
        pass
    unlistable(tmp_path / "runs")
    with (
        pytest.raises(BadInput, match=r"--history .*cannot be listed: File name too long"),
        open_past(str(tmp_path / "runs")),
    ):
        pass


def test_a_run_of_many_rows_is_summed_up_once(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run({f"{number}.onnx": 10.0 for number in range(8)}, id="now")
    earlier = replace(run, id="earlier", created="2026-01-01T00:00:00+00:00")
    write_run(earlier, tmp_path)
    counted: list[str] = []

    def counting(one: Run) -> object:
        counted.append(one.id)
        return row_entries(one)

    monkeypatch.setattr(history, "row_entries", counting)
    with open_past(str(tmp_path)) as past:
        comparison = judge_by_history([run], past, Bounds())
    assert len(comparison.rows) == 16
    assert counted == ["now"]


def test_sessions_that_are_there_and_do_not_count_are_told(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    now = make_run({"a.onnx": 10.0}, id="now", created="2026-01-09T00:00:00+00:00")
    busy = {**now.conditions, "cores_allowed": 2, "before": {"load_1min": 9.0}}
    idle = {**busy, "before": {"load_1min": 0.1}}
    now = replace(now, conditions=idle)
    for day in range(9, 12):  # a clock that was set back, as of a board without a battery
        write_run(replace(now, id=f"d{day}", created=f"2026-01-{day:02}T00:00:00Z"), tmp_path)
    with (
        pytest.raises(BadInput, match="no earlier session of it; 3 sessions are dated no earlier"),
        open_past(str(tmp_path)) as past,
    ):
        judge_by_history([now], past, Bounds())
    for day in range(1, 3):
        one = replace(now, id=f"d{day}", created=f"2026-01-{day:02}T00:00:00Z", conditions=busy)
        write_run(one, tmp_path)
    told = "no earlier session of it that counts; 2 earlier sessions were spoilt; 3 sessions are"
    with pytest.raises(BadInput, match=told), open_past(str(tmp_path)) as past:
        judge_by_history([now], past, Bounds())
    # With the candidate's own file among them, the history begins with it.
    write_run(now, tmp_path)
    with open_past(str(tmp_path)) as past:
        comparison = judge_by_history([now], past, Bounds())
    assert "0 earlier sessions, 10 are needed; 3 sessions are" in comparison.rows[0].reason
    assert any("2 earlier sessions were spoilt and do not" in note for note in comparison.notes)


def test_two_runs_of_one_id_are_not_chosen_from(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run()
    write_run(run, tmp_path / "a")
    write_run(run, tmp_path / "b")
    with open_past(str(tmp_path)):
        pass
    write_run(replace(run, launches=run.launches[1:]), tmp_path / "c")
    told = rf"c/{run.id}.json and .*a/{run.id}.json differ, and are of one id"
    with pytest.raises(BadInput, match=told), open_past(str(tmp_path)):
        pass


def test_one_odd_session_that_hides_a_change_is_named(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    def session(day: int, level: float) -> Run:
        created = f"2026-01-{day:02}T00:00:00Z"
        return make_run({"a.onnx": level}, id=f"day{day:02}", created=created)

    levels = np.random.default_rng(3).normal(10.0, 0.1, 12)
    for day, level in enumerate(levels, 1):
        write_run(session(day, float(level)), tmp_path)
    odd = write_run(session(13, 100.0), tmp_path)
    now = session(28, 11.0)
    with open_past(str(tmp_path)) as past:
        rows = judge_by_history([now], past, Bounds()).rows
    assert {row.verdict for row in rows} == {Verdict.INCONCLUSIVE}
    assert re.search(
        r"%, most of it by run day13 \([0-9.]+ times their median\): artif", rows[0].reason
    )
    odd.unlink()
    with open_past(str(tmp_path)) as past:
        rows = judge_by_history([now], past, Bounds()).rows
    assert {row.verdict for row in rows} == {Verdict.SLOWER}
