"""Channels of zeros that let a kernel of XNNPACK compute whole registers.

Up to 8 outputs it computes by one kernel, from 16 on by another of twice the width; 9 to 15 by the
first, twice, which takes 1.2 times as long as the second (AVX2). Where the outputs are rows of
pixels that are taken apart anyway, zeros behind each row are left behind there.
"""

from __future__ import annotations

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray
from coronet_deploy.export.operators import Reshape, Slice

_UNFILLED = range(9, 16)
_LANES = 16


def idle_channels(channels: int, rows: int) -> int:
    """Return how many zeros are to follow each of `rows` rows of pixels, `channels` in all."""
    return (_LANES - channels) // rows if channels in _UNFILLED and _LANES % rows == 0 else 0


def filled(values: FloatArray, rows: int, idle: int) -> FloatArray:
    """Return `values` (rows * n, ...) with `idle` zeros behind each n."""
    by_row = values.reshape(rows, -1, *values.shape[1:])
    around = [(0, 0), (0, idle), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(by_row, around).reshape(-1, *values.shape[1:])


def rows_apart(edit: Edit, y: str, rows: int, used: int, channels: int) -> str:
    """Return (1, rows * H, W', channels) of `y` (1, H, W, n): `rows` rows of pixels as channels.

    Of each n / rows channels the first `used` are pixels side by side.
    """
    _, height, width, every = edit.shapes[y]
    part = every // rows
    lines = [
        edit.emit(Slice((0, 0, 0, i * part), (1, height, width, used)), y) for i in range(rows)
    ]
    return interleave(edit, lines, channels)


def interleave(edit: Edit, rows: list[str], channels: int) -> str:
    """Return (1, s*H, t*W, C) from s values (1, H, W, t*C): row s*y + a is row y of the one at a.

    What lies side by side as channels are neighbours already; whole rows are concatenated.
    """
    n, h, w, c = edit.shapes[rows[0]]
    whole = n, len(rows) * h, w * c // channels, channels
    return edit.emit(Reshape(whole), edit.concat(rows, 2))
