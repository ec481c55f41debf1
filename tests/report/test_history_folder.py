"""A folder as a history: nothing in it is passed over without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report.history import open_past


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
