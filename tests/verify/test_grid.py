"""The picture grid."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.cli._pictures import write_grid
from coronet_deploy.images import Array
from coronet_deploy.verify.grid import ROWS, grid_png


def _page(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_columns_are_input_torch_artifact_and_ten_times_the_difference() -> None:
    x = np.full((1, 20, 30, 3), -1, np.float32)
    reference = np.full((1, 20, 30, 3), 0, np.float32)
    output = reference + np.float32(0.05)
    page = _page(grid_png([x], [reference], [output]))
    top = page.shape[0] - 4 - 20  # a gap stands below the row
    colours = [int(page[top + 10, column * 34 + 15, 0]) for column in range(4)]
    # 0 is pixel 127.5, which rounds to even; 10 * 0.05 above it is pixel 191.25.
    assert colours == [0, 128, 134, 191]


def test_the_worst_pictures_come_first_and_no_more_than_fit(rng: np.random.Generator) -> None:
    references: list[Array] = [np.zeros((1, 8, 8, 3), np.float32) for _ in range(ROWS + 2)]
    errors = rng.permutation(ROWS + 2) / 20
    outputs = [r + np.float32(e) for r, e in zip(references, errors, strict=True)]
    page = _page(grid_png(references, references, outputs))
    assert page.shape[0] == 16 + ROWS * (8 + 4)
    shown = [int(page[16 + row * 12 + 4, 2 * 12 + 4, 0]) for row in range(ROWS)]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == round((errors.max() + 1) * 127.5)


def test_black_and_white_are_the_ends_of_what_a_network_draws() -> None:
    x = np.full((1, 20, 30, 3), -1, np.float32)
    reference = np.full((1, 20, 30, 3), 0.5, np.float32)
    page = _page(grid_png([x], [reference], [reference + np.float32(0.025)], (0.0, 1.0)))
    top = page.shape[0] - 4 - 20
    assert [int(page[top + 10, column * 34 + 15, 0]) for column in range(4)] == [0, 128, 134, 191]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("g", "PNG"),
        ("g.PNG", "PNG"),
        ("g.jpg", "JPEG"),
        ("g.JPEG", "JPEG"),
        ("g.bmp", "BMP"),
        ("g.tif", "TIFF"),
    ],
)
def test_a_grid_is_what_its_name_ends_in(
    name: str, form: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    x, reference = rng.uniform(-1, 1, (2, 1, 16, 16, 3)).astype(np.float32)
    png = grid_png([x], [reference], [reference])
    write_grid(tmp_path / name, png)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == form
    page = _page((tmp_path / name).read_bytes())
    assert np.abs(page.astype(int) - _page(png)).mean() < (4 if form == "JPEG" else 0.1)
