"""How a tensor's real numbers are stored in integers: real = scale * (stored - zero_point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.graph import FloatArray
from coronet_deploy.ranges import QMAX, Range

FLOAT_BITS = 32
"""Stands for a value that is not stored in integers."""

_TIE = 1 / 1024
_MOST_BIAS = 2**30
_LEAST_SCALE = 1e-9  # what is smaller than this all over is nothing beside a picture


def nearest(steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the nearest whole numbers, the lower one of two that are as near.

    "As near" leaves room for float32's rounding: the real values of pixels lie half-way between
    the steps of `PIXELS_8`, and all must go the same way.
    """
    lower: npt.NDArray[np.float64] = np.floor(steps + (0.5 - _TIE))
    return lower


@dataclass(frozen=True)
class Format:
    """Signed integers of 8 or 16 bits; those of 16 have 0 in the middle, as TFLite wants them."""

    bits: int
    scale: np.float32
    zero_point: int = 0

    @property
    def least(self) -> int:
        """The smallest integer stored."""
        return -(1 << (self.bits - 1))

    @property
    def most(self) -> int:
        """The largest integer stored."""
        return (1 << (self.bits - 1)) - 1

    @property
    def dtype(self) -> str:
        """Name of numpy's type for the integers."""
        return f"int{self.bits}"

    @property
    def unsigned(self) -> tuple[str, int]:
        """Type and zero point of the same numbers stored without a sign."""
        return f"uint{self.bits}", self.zero_point - self.least

    @classmethod
    def of(cls, r: Range, bits: int) -> Format:
        """Return the format that holds the range `r`."""
        if bits == 8:  # noqa: PLR2004 - the one width whose zero point moves
            if r.scale < _LEAST_SCALE:
                return cls(bits, np.float32(_LEAST_SCALE), 0)
            return cls(bits, r.scale, r.zero_point)
        largest = max(-r.low, r.high) / ((1 << (bits - 1)) - 1)
        return cls(bits, np.float32(max(largest, _LEAST_SCALE)))

    def store(self, values: FloatArray) -> npt.NDArray[Any]:
        """Return real values in the stored integers, the nearest ones."""
        steps = nearest(values.astype(np.float64) / float(self.scale)) + self.zero_point
        return np.clip(steps, self.least, self.most).astype(self.dtype)


PIXELS_8 = Format(8, np.float32(1 / 127.5))
"""A picture that comes in: int8 of a pixel is the pixel less 128, which is what to feed.

Its real values are then half a step too dark everywhere, for real 0 lies between two pixels; the
first convolutions make up for that in their biases (see `pixels`).
"""

PICTURE_8 = Format(8, np.float32(1 / 127))
"""A picture in [-1, 1], with -1, 0 and 1 among what can be stored."""

TANH_8 = Format(8, np.float32(1 / 128))
TANH_16 = Format(16, np.float32(1 / 32768))
SIGMOID_8 = Format(8, np.float32(1 / 256), -128)
SIGMOID_16 = TANH_16
"""What TFLite's integer kernels give, whatever goes in."""


def channel_scales(weight: FloatArray, bias: FloatArray, source: Format) -> FloatArray:
    """Return the int8 scale of each output channel of OHWI weights, (O,).

    The largest magnitude is 127, unless the bias would then not fit 32 bits.
    """
    largest = np.abs(weight).max(axis=(1, 2, 3)) / QMAX
    for_bias = np.abs(bias) / (float(source.scale) * _MOST_BIAS)
    scales = np.maximum(largest, for_bias).astype(np.float32)
    return np.where(scales > 0, scales, np.float32(1.0))
