"""Calibration folders: of many pictures only those that are used are read."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy import images
from coronet_deploy.cli import export
from coronet_deploy.errors import BadInput
from coronet_deploy.export import calibrate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(20):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i:02}.png")
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each picture as it is opened."""
    names: list[str] = []
    real = images.open_rgb

    def noted(path: Path) -> Image.Image:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(images, "open_rgb", noted)
    return names


def _calibration(folder: Path, dtype: str, count: int | None = 6) -> calibrate.Pictures:
    given = {"calibration": folder, "pictures": None, "dtype": dtype, "calibration_count": count}
    shown = calibrate.Pictures(("shown",), (np.zeros((1, 8, 8, 3), np.float32),))
    return export._calibration(argparse.Namespace(**given), shown, (8, 8))


@pytest.mark.parametrize("dtype", ["int8", "int8-full", "int16x8", "a16w8", "fp16", "all"])
@pytest.mark.parametrize("count", [1, 6, None, 50])
def test_the_same_pictures_are_chosen_and_no_other_is_read(
    folder: Path, opened: list[str], dtype: str, count: int | None
) -> None:
    expected = calibrate.choose(calibrate.read_folder(folder, 8, 8), count or 12)
    opened.clear()
    chosen = _calibration(folder, dtype, count)
    assert chosen.names == tuple(opened) == expected.names
    for one, other in zip(chosen.values, expected.values, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", ["fp32", "int8-dynamic", "int8-weights"])
def test_where_nothing_looks_at_them_none_is_read(
    folder: Path, opened: list[str], dtype: str
) -> None:
    assert _calibration(folder, dtype).names == ("shown",)
    assert opened == []


def test_a_chosen_one_that_cannot_be_read_is_named(folder: Path) -> None:
    names = _calibration(folder, "int8").names
    (folder / names[-1]).write_bytes(b"no picture")
    with pytest.raises(BadInput, match=f"{names[-1]} is not a readable picture"):
        _calibration(folder, "int8")
