"""A picture to look at: input | torch | artifact | difference x 10, the worst pictures first."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from coronet_deploy.images import Array, Pixels, to_pixels
from coronet_deploy.verify.parity import psnr_db

GAIN = 10
ROWS = 4
_GAP = 4
_HEADER = 16


def grid_png(
    inputs: Sequence[Array], references: Sequence[Array], outputs: Sequence[Array]
) -> bytes:
    """Return a PNG with a row for each of the (at most) `ROWS` pictures of lowest PSNR.

    Pictures are (1, H, W, 3) real values in [-1, 1]. Mid-grey in the last column is no
    difference; a channel lighter by 1/255 shows as 10/255 lighter.
    """
    from PIL import Image, ImageDraw

    worst = sorted(range(len(inputs)), key=lambda i: psnr_db(references[i], outputs[i]))[:ROWS]
    rows = [_row(inputs[i], references[i], outputs[i]) for i in worst]
    body = np.concatenate(rows)
    page = Image.new("RGB", (body.shape[1], body.shape[0] + _HEADER), "white")
    page.paste(Image.fromarray(body), (0, _HEADER))
    draw = ImageDraw.Draw(page)
    step = inputs[0].shape[2] + _GAP
    for column, title in enumerate(("input", "torch", "artifact", f"difference x {GAIN}")):
        draw.text((column * step + 2, 2), title, fill="black")
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _row(picture: Array, reference: Array, output: Array) -> Pixels:
    difference = (np.nan_to_num(output) - reference) * np.float32(GAIN)
    tiles = [to_pixels(np.nan_to_num(tile)[0]) for tile in (picture, reference, output, difference)]
    height = tiles[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    row = [part for tile in tiles for part in (tile, gap)][:-1]
    line = np.concatenate(row, axis=1)
    return np.concatenate([line, np.full((_GAP, line.shape[1], 3), 255, np.uint8)])
