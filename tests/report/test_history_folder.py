"""A folder as a history: nothing in it is passed over without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report import history
from coronet_deploy.report.history import open_past
from coronet_deploy.report.outlook import judge_by_history
from coronet_deploy.report.regression import Bounds
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
