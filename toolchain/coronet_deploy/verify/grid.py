"""Pictures to look at, in titled columns, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from coronet_deploy.export.outputs import PICTURE, ValueRange
from coronet_deploy.images import Array, Pixels, to_pixels
from coronet_deploy.verify.channels import to_show
from coronet_deploy.verify.parity import psnr_db

GAIN = 10
ROWS = 4
_GAP = 4
_HEADER = 16
_LOSING_LITTLE: Mapping[str, Mapping[str, int]] = {"JPEG": {"quality": 95, "subsampling": 0}}


def grid_png(
    inputs: Sequence[Array],
    references: Sequence[Array],
    outputs: Sequence[Array],
    value_range: ValueRange = PICTURE,
) -> bytes:
    """Return a PNG of at most `ROWS` pictures, those of lowest PSNR, the worst first.

    Its columns are input, torch, artifact and ten times the difference. Pictures are
    (1, H, W, C) real values in [-1, 1], those drawn in `value_range`; of other than three channels
    the first is shown in grey, or the first three. Mid-grey in the last column is no difference; a
    channel lighter by 1/255 shows as 10/255 lighter.
    """
    references, outputs = ([_as_picture(v, value_range) for v in s] for s in (references, outputs))
    worst = sorted(range(len(inputs)), key=lambda i: psnr_db(references[i], outputs[i]))[:ROWS]
    rows = [_tiles(inputs[i], references[i], outputs[i]) for i in worst]
    return sheet_png(("input", "torch", "artifact", f"difference x {GAIN}"), rows)


def _as_picture(values: Array, value_range: ValueRange) -> Array:
    """Return values of a range as those of a picture, black to white."""
    if value_range == PICTURE:
        return values
    low, high = value_range
    picture: Array = (values - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
    return picture


def sheet_png(titles: Sequence[str], rows: Sequence[Sequence[Pixels]]) -> bytes:
    """Return a PNG of titled columns: `rows` of (H, W, 3) pixels, all of one size."""
    from PIL import Image, ImageDraw

    body = np.concatenate([_line(row) for row in rows])
    page = Image.new("RGB", (body.shape[1], body.shape[0] + _HEADER), "white")
    page.paste(Image.fromarray(body), (0, _HEADER))
    draw = ImageDraw.Draw(page)
    step = rows[0][0].shape[1] + _GAP
    for column, title in enumerate(titles):
        draw.text((column * step + 2, 2), title, fill="black")
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def in_form(png: bytes, form: str) -> bytes:
    """Return a PNG of RGB pixels as a picture of another form, as Pillow calls it."""
    from PIL import Image

    if form == "PNG":
        return png
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as page:
        page.save(file, form, **_LOSING_LITTLE.get(form, {}))
    return file.getvalue()


def _tiles(picture: Array, reference: Array, output: Array) -> list[Pixels]:
    difference = (np.nan_to_num(output) - reference) * np.float32(GAIN)
    size = reference.shape[1], reference.shape[2]
    tiles = (picture, reference, output, difference)
    return [to_pixels(to_show(np.nan_to_num(tile), *size)[0]) for tile in tiles]


def _line(tiles: Sequence[Pixels]) -> Pixels:
    gap = np.full((tiles[0].shape[0], _GAP, 3), 255, np.uint8)
    line = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    return np.concatenate([line, np.full((_GAP, line.shape[1], 3), 255, np.uint8)])
