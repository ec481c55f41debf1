"""Pictures as cameras and editors leave them: what they note of themselves may be broken."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.errors import BadInput
from coronet_deploy.images import open_rgb, size_of

_TURNED = (0x0112, 3, 1, b"\x06\0\0\0")  # orientation 6: the left in the file belongs on top


def _exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return EXIF of these tags: number, type, count and the four bytes of the value."""
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4)


_NOTES = {
    "a width in letters": (_exif((0x0100, 2, 4, b"odd\0"), _TURNED), True),
    "a resolution in letters": (_exif(_TURNED, (0x011A, 2, 4, b"odd\0")), True),
    "an orientation in letters": (_exif((0x0112, 2, 4, b"odd\0")), False),
    "cut short": (_exif(_TURNED)[:-10], False),
    "out of bounds": (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
    "no table": (b"Exif\0\0what?", False),
}


def _jpeg(exif: bytes) -> bytes:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 250
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(("exif", "turned"), _NOTES.values(), ids=list(_NOTES))
def test_a_picture_of_broken_notes_is_read(exif: bytes, turned: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(exif))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pixels = np.asarray(open_rgb(path))
    assert not told
    assert pixels.shape == ((16, 8, 3) if turned else (8, 16, 3))
    # The light half is on top, or on the left as it is in the file.
    assert pixels[2, 2].min() > 200
    assert (pixels[12, 2] if turned else pixels[2, 12]).max() < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    from PIL.ImageOps import exif_transpose

    path = tmp_path / "a.png"
    rng = np.random.default_rng(orientation)
    picture = Image.fromarray(rng.integers(0, 256, (3, 5, 3)).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    with Image.open(path) as again:
        expected = np.asarray(exif_transpose(again))
    assert np.array_equal(np.asarray(open_rgb(path)), expected)
    assert size_of(path) == expected.shape[1::-1]


def test_a_picture_whose_pixels_end_early_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(_NOTES["a width in letters"][0])[:-100])
    with pytest.raises(BadInput, match="is not a readable picture"):
        open_rgb(path)
