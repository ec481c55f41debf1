"""Calibration pictures: what an INT8 artifact is fitted to, its ranges and its float layers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.errors import BadInput
from coronet_deploy.images import Array, list_pictures, read_picture

DEFAULT_COUNT = 12
_SEED = 0


@dataclass(frozen=True)
class Pictures:
    """Named pictures at one size, each (1, H, W, C) float32 real values in [-1, 1]."""

    names: tuple[str, ...]
    values: tuple[Array, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise BadInput("no picture was given")

    def __len__(self) -> int:
        return len(self.values)


def read_pictures(paths: Sequence[Path], height: int, width: int) -> Pictures:
    """Return pictures resized to `height` x `width`.

    Raises:
        BadInput: there is none, or one of them cannot be read (names it).

    """
    values = tuple(read_picture(path, height, width)[None] for path in paths)
    return Pictures(tuple(path.name for path in paths), values)


def read_folder(folder: Path, height: int, width: int) -> Pictures:
    """Return all pictures directly in `folder`, by name (see `read_pictures`)."""
    return read_pictures(list_pictures(folder), height, width)


def choose(pictures: Pictures, count: int = DEFAULT_COUNT) -> Pictures:
    """Return at most `count` of `pictures`, the same ones each time, in their order.

    The choice is by seed and not the first ones, because file names often follow the content.

    Raises:
        BadInput: `count` is not positive.

    """
    if count < 1:
        raise BadInput(f"{count} calibration pictures: at least 1")
    total = len(pictures)
    # A fixed seed, so that the same pictures give the same bytes.
    picked = sorted(random.Random(_SEED).sample(range(total), min(count, total)))  # noqa: S311 - no secret
    return Pictures(
        tuple(pictures.names[i] for i in picked), tuple(pictures.values[i] for i in picked)
    )


def hold_out(pictures: Pictures, count: int = DEFAULT_COUNT) -> Pictures:
    """Return at most two thirds of `pictures` to calibrate on.

    A comparison on all of them is then fair: its figure is that of the worst picture. Of a single
    picture this is the picture itself.
    """
    total = len(pictures)
    return choose(pictures, max(1, min(count, total - (total + 2) // 3)))


def with_flips(pictures: Pictures, count: int = DEFAULT_COUNT) -> Pictures:
    """Return `pictures`, and where they are fewer than `count` their mirror images too.

    Calibrated on two pictures and their mirror images, a U-Net lost 3 to 11 dB less on pictures
    it was not calibrated on than calibrated on the two alone.
    """
    names, values = list(pictures.names), list(pictures.values)
    for how, axes in (("left-right", 2), ("up-down", 1), ("both ways", (1, 2))):
        for name, value in zip(pictures.names, pictures.values, strict=True):
            if len(values) < count:
                names.append(f"{name}, flipped {how}")
                values.append(np.ascontiguousarray(np.flip(value, axes)))
    return Pictures(tuple(names), tuple(values))
