"""Pictures as arrays: RGB in [-1, 1], read from and written to files."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.errors import BadInput
from coronet_deploy.storage import is_folder, readable

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

# What sets a picture of each EXIF orientation upright, as Pillow's `Transpose` numbers it.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_QUARTERS = {2, 4, 5, 6}  # of these turns: height becomes width
_ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_TAIL = 16  # bytes that hold an ending
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".gif", ".avif", ".jp2", ".tga"}
)
"""What a picture's name ends in. One of these that Pillow cannot read is refused by its name."""

_STRANGE = frozenset({".heic", ".heif", ".hif", ".jxl"})
"""Endings of pictures that Pillow does not read, unless they are others than their names say."""


def open_rgb(path: Path) -> Image:
    """Return the picture at `path` as RGB of 8 bits, upright.

    A camera's note of how it was held is followed, if it can be read. Greyscale and palette
    pictures are converted, 16 bits are scaled down, and what is transparent shows white.

    Raises:
        BadInput: the file is missing, is not a picture that can be read whole, or is one of more
            pixels than an honest one has.

    """
    with _opened(path) as picture:
        picture.load()
        return _as_rgb(_upright(picture))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """Yield the picture file at `path`, not decoded yet (see `open_rgb` for the errors)."""
    from PIL import Image as PillowImage

    warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of broken notes
    try:
        with PillowImage.open(path) as picture:
            yield picture
    except (
        OSError,
        EOFError,
        SyntaxError,
        ValueError,
        RuntimeError,  # of AVIF and DDS, whatever a file's name says
        PillowImage.DecompressionBombError,
        PillowImage.DecompressionBombWarning,
    ) as error:
        raise BadInput(f"{path} is not a readable picture: {error}") from error


def require_whole(path: Path) -> None:
    """Let a file through that begins and ends as a picture does; only an odd one is decoded.

    Raises:
        BadInput: see `open_rgb`.

    """
    with _opened(path) as picture:
        kind = picture.format
    if not _ends_well(path, kind):
        open_rgb(path)


def require_pair(path: Path) -> None:
    """Let a file through that begins and ends as a pair side by side; only an odd one is decoded.

    Raises:
        BadInput: see `open_pair`.

    """
    require_whole(path)
    with _opened(path) as picture:
        width, height = picture.size
    if not _is_pair(width, height):  # unless a camera's note turns it
        open_pair(path)


def _ends_well(path: Path, kind: str | None) -> bool:
    """Return whether a file of Pillow's format `kind` has an end; False where that is not known."""
    with path.open("rb") as file:
        head = file.read(8)
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - _TAIL, 0))
        tail = file.read()
    if kind in _ENDINGS:
        return tail.endswith(_ENDINGS[kind])
    if kind == "WEBP":
        return length >= int.from_bytes(head[4:8], "little") + 8
    return kind == "BMP" and length >= int.from_bytes(head[2:6], "little")


def size_of(path: Path) -> tuple[int, int]:
    """Return (width, height) of the picture at `path`, upright; it is not decoded.

    Raises:
        BadInput: see `open_rgb`.

    """
    with _opened(path) as picture:
        width, height = picture.size
        lies = _turn_of(picture) in _QUARTERS
    return (height, width) if lies else (width, height)


def _upright(picture: Image) -> Image:
    """Return a picture turned as its camera was held; as it is, where that cannot be read."""
    from PIL.Image import Transpose

    turn = _turn_of(picture)
    return picture if turn is None else picture.transpose(Transpose(turn))


def _turn_of(picture: Image) -> int | None:
    """Return how a picture must be turned to stand upright, if its camera noted that."""
    from PIL.ExifTags import Base

    try:
        # Not `exif_transpose`, which writes all other notes again and fails where one is odd.
        orientation: object = picture.getexif().get(Base.Orientation)
    except Exception:  # noqa: BLE001 - whatever Pillow raises over a broken note
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _as_rgb(picture: Image) -> Image:
    """Return a picture as RGB of 8 bits; see `open_rgb`. Raises ValueError of what has no range."""
    from PIL import Image as PillowImage

    if picture.mode == "F":  # whose black and white nobody tells
        raise ValueError("its pixels are floating-point numbers")
    if picture.mode.startswith("I"):  # 16 bits of grey; converting would clip them to 255
        grey = np.asarray(picture).astype(np.float64) / 257
        return PillowImage.fromarray(np.rint(grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = PillowImage.new("RGBA", picture.size, "white")
        return PillowImage.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def from_pixels(pixels: Pixels) -> Array:
    """Return (..., H, W, 3) uint8 pixels as float32 in [-1, 1], same layout."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_pixels(values: Array) -> Pixels:
    """Return real values in [-1, 1] as uint8 pixels, rounded and clipped, same layout."""
    scaled = np.rint((values.astype(np.float64) + 1) * 127.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def open_pair(path: Path) -> tuple[Image, Image]:
    """Return the left and the right half of a picture that is a pair side by side, as RGB.

    Raises:
        BadInput: the file is no picture, or too narrow to be two of one size: a square one is
            taken for one picture.

    """
    picture = open_rgb(path)
    width, height = picture.size
    if not _is_pair(width, height):
        raise BadInput(f"{path} is {width}x{height}: not two pictures of one size side by side")
    half = width // 2
    return picture.crop((0, 0, half, height)), picture.crop((half, 0, width, height))


def _is_pair(width: int, height: int) -> bool:
    return width % 2 == 0 and width > height


def at_size(picture: Image, height: int, width: int) -> Pixels:
    """Return an RGB picture as (height, width, 3) pixels, resized bicubically if it must be."""
    if picture.size != (width, height):
        from PIL.Image import Resampling

        picture = picture.resize((width, height), Resampling.BICUBIC)
    return np.asarray(picture)


def read_picture(path: Path, height: int, width: int) -> Array:
    """Return the picture at `path` as (height, width, 3) float32 in [-1, 1], resized bicubically.

    Raises:
        BadInput: see `open_rgb`.

    """
    return from_pixels(at_size(open_rgb(path), height, width))


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files directly in `folder`, by name; hidden ones are left out.

    A Mac leaves such beside each picture on other file systems: "._1.jpg", which is none.

    Raises:
        BadInput: it is not a folder that can be read, holds no picture, or one that is a link to
            nothing or of a kind that is not read.

    """
    if not is_folder(folder):
        raise BadInput(f"{folder} is not a folder of pictures")
    with readable(f"folder {folder}"):
        named = sorted(p for p in folder.iterdir() if is_named_so(p))
        found = [path for path in named if path.is_file()]
        lost = [path for path in named if path.is_symlink() and not path.exists()]
    if lost:
        raise BadInput(
            f"{lost[0]} is a link to {lost[0].readlink()}, which is not there",
            hint=f"{len(lost)} of {len(named)} in {folder} are: bring back what they lead to, "
            "or remove them",
        )
    if strange := [path for path in found if _is_strange(path)]:
        raise BadInput(
            f"{strange[0]} is a picture of a kind that is not read",
            hint=f"{len(strange)} of {len(found)} in {folder} are: convert them to PNG or JPEG, "
            "or move them away",
        )
    if not found:
        deeper = folder_with_pictures(folder)
        hint = f"those in its folder {deeper} are not looked at: move them up" if deeper else None
        suffixes = ", ".join(sorted(SUFFIXES))
        raise BadInput(f"{folder} holds no picture", hint=hint or f"one of {suffixes}")
    return found


def matched_pictures(a: Path, b: Path) -> list[tuple[Path, Path]]:
    """Return the pictures of two folders that have the same names, up to the suffix, by name.

    Raises:
        BadInput: one has none of its name in the other folder, or two are called alike; and see
            `list_pictures`.

    """
    lefts, rights = _by_stem(a), _by_stem(b)
    if odd := sorted(lefts.keys() ^ rights.keys()):
        there, absent = (lefts, b) if odd[0] in lefts else (rights, a)
        raise BadInput(
            f"{there[odd[0]]} has no picture of the same name in {absent}",
            hint=f"{len(lefts)} and {len(rights)} pictures must be pairs",
        )
    return [(path, rights[stem]) for stem, path in lefts.items()]


def unlike_pairs(pairs: Sequence[tuple[Path, Path]]) -> str | None:
    """Return in a clause how many pairs are not of one shape, with an example; None if all are.

    Scaled to one height they differ by more than a pixel: each is resized by itself, and what they
    show may no longer lie in the same place.

    Raises:
        BadInput: a file is no picture; names it.

    """
    unlike = []
    for one, other in pairs:
        (width, height), (wide, high) = size_of(one), size_of(other)
        if abs(width * high - wide * height) > max(width, height, wide, high):
            unlike.append(f"{one} is {width}x{height} and {other} {wide}x{high}")
    if not unlike:
        return None
    return (
        f"{len(unlike)} of {len(pairs)} pairs are of unlike shapes, such as {unlike[0]}: each "
        "picture is resized by itself"
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in list_pictures(folder):
        if other := named.get(path.stem):
            raise BadInput(f"{other} and {path.name} have one name: which is the pair's?")
        named[path.stem] = path
    return named


def is_named_so(path: Path) -> bool:
    """Tell of a file whether it is a picture by its name, be it of a kind that is not read."""
    return path.suffix.lower() in SUFFIXES | _STRANGE and not path.name.startswith(".")


def has_pictures(folder: Path) -> bool:
    """Tell of a folder whether a picture by its name is directly in it.

    Raises:
        BadInput: it cannot be read.

    """
    with readable(f"folder {folder}"):
        return any(map(is_named_so, folder.iterdir()))


def _is_strange(path: Path) -> bool:
    """Tell of a picture whether it is of a kind that is not read."""
    if path.suffix.lower() in _STRANGE:
        try:
            with _opened(path):
                return False
        except BadInput:
            return True
    return False


def folder_with_pictures(folder: Path) -> str | None:
    """Return the name of the first folder in `folder` that holds pictures, if one does."""
    for inner in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):  # a file, or closed to us
            if any(map(is_named_so, inner.iterdir())):
                return inner.name
    return None
