"""Environments of the programs that artifacts are compared with: each is whole, or not there."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest
from peers import setup


def test_an_environment_that_pip_could_not_fill_is_not_taken_for_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "CACHE", tmp_path)
    monkeypatch.setattr(setup, "PEERS", {"mnn": [("a-package",)]})
    builder = venv.EnvBuilder(symlinks=True)  # without pip, which cannot install anything then
    monkeypatch.setattr(venv, "create", lambda folder, **_: builder.create(folder))
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    assert setup.main() == 3
    assert not setup.python_of("mnn").exists()


def test_a_peer_that_is_unknown_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    monkeypatch.setattr(setup, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(setup, "PEERS", {})
    monkeypatch.setattr(sys, "argv", ["setup.py", "../beside"])
    assert setup.main() == 3
    assert beside.exists()
    assert not (tmp_path / "cache").exists()
