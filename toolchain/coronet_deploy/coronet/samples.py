"""Grids of sample pictures, for eyes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from coronet_deploy.images import to_pixels
from coronet_deploy.storage import atomic_path


def save_samples(path: Path, columns: list[Tensor], gap: int = 4) -> None:
    """Write a PNG: one row a picture, one column for each of `columns`, (N, 3, H, W) in [-1, 1]."""
    from PIL import Image

    cells = [to_pixels(column.permute(0, 2, 3, 1).numpy()) for column in columns]
    count, height, width, _ = cells[0].shape
    shape = (count * (height + gap) - gap, len(cells) * (width + gap) - gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for j, column in enumerate(cells):
        for i, cell in enumerate(column):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = cell
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
