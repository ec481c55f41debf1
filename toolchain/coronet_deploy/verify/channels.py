"""Pictures for networks that take or give other than three channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.images import Array

_COLOURS = 3
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def with_channels(pictures: Pictures, channels: int) -> Pictures:
    """Return (1, H, W, 3) pictures as (1, H, W, channels), each as `of_channels` does."""
    if channels == _COLOURS:
        return pictures
    return replace(pictures, values=tuple(of_channels(v, channels) for v in pictures.values))


def of_channels(values: Array, channels: int) -> Array:
    """Return a (1, H, W, 3) picture as (1, H, W, channels): as it is, grey, or repeated.

    One channel is the luma. Of more than three, each further set of three is the picture turned
    by one more half: what real pictures look like, and no channel a copy of another.
    """
    if channels == 1:
        grey: Array = (values @ _LUMA)[..., None].astype(np.float32)
        return grey
    turns = [(), (1, 2), (1,), (2,)]
    sets = [
        np.flip(np.roll(values, i // len(turns), 1), turns[i % len(turns)])
        for i in range(-(-channels // _COLOURS))
    ]
    return np.ascontiguousarray(np.concatenate(sets, axis=-1)[..., :channels])


def to_show(values: Array, height: int, width: int) -> Array:
    """Return (1, h, w, C) values as (1, height, width, 3) to look at: grey, or the first three.

    Another size is reached by repeating or leaving out lines.
    """
    channels = values.shape[-1]
    picked = values[..., [0, 0, 0]] if channels < _COLOURS else values[..., :_COLOURS]
    rows = np.arange(height) * values.shape[1] // height
    columns = np.arange(width) * values.shape[2] // width
    shown: Array = picked[:, rows][:, :, columns]
    return shown
