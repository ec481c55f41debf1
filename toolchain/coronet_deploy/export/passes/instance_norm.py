"""InstanceNorm in operators that XNNPACK has, in the form it fuses best."""

from __future__ import annotations

from dataclasses import replace
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
    twice. Each mean is taken in two stages, lines first: sums of W, then of H numbers lose 18 to
    28 dB less to float32 rounding than one sum of H * W.

    XNNPACK goes through a picture and a number a channel pixel by pixel, a call each. Where a pixel
    is a few channels, neighbours are read as one pixel of more, and the numbers are repeated.

    It also copies what a reshape makes if two operators read it. A convolution that computes
    neighbours as channels, or lines side by side, is therefore normalised as it lays them down.
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
        joined = 1
        if self._join_pixels:
            x, joined = _with_joined_pixels(edit, x)
        centred = edit.emit(Sub(), x, _repeated(edit, _mean(edit, x, joined), joined))
        variance = _mean(edit, edit.emit(Mul(), centred, centred), joined)
        shifted = edit.emit(Add(), variance, edit.constant([node.op.epsilon], "epsilon"))
        factor = edit.emit(Rsqrt(), shifted)
        if affine:
            factor = edit.emit(Mul(), factor, affine[0])
        y = edit.emit(Mul(), centred, _repeated(edit, factor, joined))
        if edit.shapes[y] != shape:
            y = edit.emit(Reshape(shape), y)
        return edit.emit(Add(), y, affine[1]) if affine else y


def _with_joined_pixels(edit: Edit, x: str) -> tuple[str, int]:
    """Return `x` in the shape in which it is normalised, and how many pixels are one there."""
    _, height, width, channels = edit.shapes[x]
    wanted = 1
    if channels <= _FEW_CHANNELS and height * width >= _MANY_PIXELS:
        while width % (2 * wanted) == 0 and 2 * wanted * channels <= _ROW:
            wanted *= 2
    joined = 1
    if (made := _made_as_channels(edit, x)) is not None:
        _, lines, across, more = edit.shapes[made.output]
        least = max(wanted * channels // more, 1)
        if more in {channels, 2 * channels, 4 * channels} and across % least == 0:
            # Under the name of the pixels, which stands for a layer.
            x = edit.amend(replace(made, output=x), made.op, *made.inputs)
            height, width, joined = lines, across, more // channels
    if joined < wanted:
        across = width * joined // wanted
        x = edit.emit(Reshape((1, height, across, wanted * channels)), x)
    return x, max(joined, wanted)


def _made_as_channels(edit: Edit, x: str) -> Node | None:
    """Return what makes `x` in another shape, if nothing else reads that."""
    maker = edit.producer(x)
    if maker is None or not isinstance(maker.op, Reshape) or not edit.read_once(x):
        return None
    source = maker.inputs[0]
    return edit.producer(source) if edit.read_once(source) else None


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
