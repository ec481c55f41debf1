"""InstanceNorm in operators that XNNPACK has, in the form it fuses best."""

from __future__ import annotations

from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import (
    Add,
    Concat,
    InstanceNorm,
    Mean,
    Mul,
    Reshape,
    Rsqrt,
    Sub,
)
from coronet_deploy.export.passes.rewriting import Rewrite

# Up to so many channels, and from so many pixels on, pixels are joined to rows of so many numbers.
_FEW_CHANNELS, _MANY_PIXELS, _ROW = 12, 1 << 14, 32


class DecomposeInstanceNorm(Rewrite):
    """d = x - mean(x); d * rsqrt(mean(d * d) + epsilon).

    The square feeds a mean, which XNNPACK fuses into one sweep ("mean squared"), and `d` serves
    twice. Each mean is taken in two stages, rows first: sums of W, then of H numbers lose 18 to
    28 dB less to float32 rounding than one sum of H * W.

    XNNPACK goes through a picture and a number a channel pixel by pixel, a call each. Where a pixel
    is a few channels, neighbours are read as one pixel of more, and the numbers are repeated.
    """

    name: ClassVar[str] = "decompose_instance_norm"

    def __init__(self, *, join_pixels: bool = False) -> None:
        self._join_pixels = join_pixels

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the normalised value."""
        if not isinstance(node.op, InstanceNorm):
            return None
        x, *affine = node.inputs
        shape = edit.shapes[x]
        _, height, width, channels = shape
        joined = _joined(height, width, channels) if self._join_pixels else 1
        if joined > 1:
            x = edit.emit(Reshape((1, height, width // joined, joined * channels)), x)
        centred = edit.emit(Sub(), x, _repeated(edit, _mean(edit, x, joined), joined))
        variance = _mean(edit, edit.emit(Mul(), centred, centred), joined)
        shifted = edit.emit(Add(), variance, edit.constant([node.op.epsilon], "epsilon"))
        factor = edit.emit(Rsqrt(), shifted)
        if affine:
            factor = edit.emit(Mul(), factor, affine[0])
        y = edit.emit(Mul(), centred, _repeated(edit, factor, joined))
        if joined > 1:
            y = edit.emit(Reshape(shape), y)
        return edit.emit(Add(), y, affine[1]) if affine else y


def _joined(height: int, width: int, channels: int) -> int:
    """Return how many pixels are read as one."""
    pixels = 1
    if channels <= _FEW_CHANNELS and height * width >= _MANY_PIXELS:
        while width % (2 * pixels) == 0 and 2 * pixels * channels <= _ROW:
            pixels *= 2
    return pixels


def _repeated(edit: Edit, value: str, times: int) -> str:
    """Return a number a channel, (1, 1, 1, C), `times` side by side; a power of two."""
    while times > 1:
        copies = min(times, 4)
        value = edit.emit(Concat(3), *[value] * copies)
        times //= copies
    return value


def _mean(edit: Edit, x: str, joined: int) -> str:
    mean = edit.emit(Mean((1,)), edit.emit(Mean((2,)), x))
    if joined == 1:
        return mean
    apart = Reshape((1, 1, joined, edit.shapes[x][3] // joined))
    return edit.emit(Mean((2,)), edit.emit(apart, mean))
