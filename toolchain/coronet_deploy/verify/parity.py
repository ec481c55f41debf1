"""How alike two sets of pictures are: PSNR, SSIM and the largest difference.

Pictures are (N, H, W, C) or (H, W, C) float32 real values, in [-1, 1] where no other `value_range`
is given. Everything here is pure arithmetic on arrays, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.export.outputs import PICTURE, ValueRange
from coronet_deploy.export.schemes import BOUNDS_DB
from coronet_deploy.images import Array
from coronet_deploy.vocabulary import DType, Parity

CAP_DB = 200.0
"""PSNR of equal pictures, which is infinite, and the most any PSNR is said to be: JSON has no
infinity, and float32 pictures cannot differ by as little as 200 dB without being equal."""

DEFAULT_BOUNDS_DB: Mapping[DType, float] = BOUNDS_DB
"""The gate, by number type: an artifact's worst picture must reach this PSNR."""

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03

_Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def psnr_db(reference: Array, other: Array, value_range: ValueRange = PICTURE) -> float:
    """Return 10 log10(peak-to-peak² / mean squared error) in dB, at most `CAP_DB`.

    It is minus infinity where a value is not finite.
    """
    difference = reference.astype(np.float64) - other.astype(np.float64)
    error = float(np.mean(np.square(difference)))
    if not math.isfinite(error):
        return -math.inf
    if error == 0:
        return CAP_DB
    return min(CAP_DB, float(10 * np.log10((value_range[1] - value_range[0]) ** 2 / error)))


def ssim(reference: Array, other: Array, value_range: ValueRange = PICTURE) -> float:
    """Return the mean structural similarity of two (..., H, W, 3) pictures, 1 if equal.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity" (2004): an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03,
    windows wholly inside the picture, averaged over places and the three colours. Black is 0, as
    there: its luminance term compares means by their ratio. A picture smaller than the window has
    a window of its own size.
    """
    low, high = value_range
    x, y = reference.astype(np.float64) - low, other.astype(np.float64) - low
    c1, c2 = (_K1 * (high - low)) ** 2, (_K2 * (high - low)) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float(np.mean(luminance * structure))


def _blur(values: _Float64) -> _Float64:
    """Return the Gaussian-weighted means of all windows inside (..., H, W, C) values."""
    for axis in (-3, -2):
        taps = min(_WINDOW, values.shape[axis])
        place = np.arange(taps) - (taps - 1) / 2
        weights = np.exp(-np.square(place) / (2 * _SIGMA**2))
        windows: _Float64 = np.lib.stride_tricks.sliding_window_view(values, taps, axis=axis)
        values = windows @ (weights / weights.sum())
    return values


def compare(
    what: str,
    references: Sequence[Array],
    outputs: Sequence[Array],
    bound_db: float,
    value_range: ValueRange = PICTURE,
) -> Parity:
    """Return how `outputs` stand beside torch's `references`, picture by picture.

    `what` names the artifact in errors. The PSNR and the SSIM are those of the worst picture.

    Raises:
        BadInput: there is no picture.
        GateFailed: an output holds NaN or infinity, which no figure can describe.

    """
    if not references:
        raise BadInput(f"{what}: no picture to compare")
    for place, output in enumerate(outputs, 1):
        if bad := int(output.size - np.count_nonzero(np.isfinite(output))):
            raise GateFailed(f"{what}: picture {place} has {bad} values that are not finite")
    pairs = list(zip(references, outputs, strict=True))
    return Parity(
        psnr_db=min(psnr_db(r, o, value_range) for r, o in pairs),
        max_abs=max(_largest(r, o) for r, o in pairs),
        ssim=min(ssim(r, o, value_range) for r, o in pairs),
        pictures=len(pairs),
        bound_db=bound_db,
    )


def _largest(reference: Array, other: Array) -> float:
    difference: np.ndarray[Any, np.dtype[np.float64]]
    difference = reference.astype(np.float64) - other.astype(np.float64)
    return float(np.max(np.abs(difference)))
