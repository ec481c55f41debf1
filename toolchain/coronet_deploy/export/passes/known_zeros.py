"""Convolutions of what is zero in known places, which need not be multiplied.

Zeros between pixels, by which a picture is enlarged before it is blurred, make a transposed
convolution of the plain one; channels of zeros beside others leave a smaller kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import (
    Activation,
    Concat,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    DepthwiseConv2d,
    Padding,
    Shape,
    ZeroPad,
)
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.several import together
from coronet_deploy.export.transposed import depthwise_transposed


@dataclass(frozen=True)
class _Part:
    """One of the values that were joined along their channels, the first of which is `first`."""

    value: str
    first: int
    channels: int


class SkipZeros(Rewrite):
    """Rewrites convolutions of pixels or channels that a depthwise one without weights makes."""

    name: ClassVar[str] = "skip_zeros"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution of the rest."""
        op = node.op
        if not isinstance(op, Conv2d | DepthwiseConv2d):
            return None
        maker = edit.producer(node.inputs[0])
        if isinstance(op, Conv2d) and maker is not None and maker.op == Concat(3):
            return _of_some_channels(edit, op, *node.inputs)
        around = op.padding
        if maker is not None and isinstance(maker.op, ZeroPad):
            around = together(around, maker.op.padding)
            maker = edit.producer(maker.inputs[0])
        if maker is None or not isinstance(maker.op, DepthToSpace):
            return None
        if (op.stride, op.dilation, op.activation) != ((1, 1), (1, 1), Activation.NONE):
            return None
        return _of_some_pixels(edit, node, maker.inputs[0], maker.op.block, around)


def _of_some_channels(edit: Edit, op: Conv2d, x: str, weight: str, *bias: str) -> str | None:
    """Return a convolution of those channels that may be other than zero, if there are others."""
    parts, kernel = _parts(edit, x), edit.constants[weight]
    rest = [part for part in parts if not _is_nothing(edit, part.value)]
    if not 0 < len(rest) < len(parts):
        return None
    kept = [kernel[..., part.first : part.first + part.channels] for part in rest]
    smaller = edit.constant(np.concatenate(kept, axis=3), "weight")
    return edit.emit(op, edit.concat([part.value for part in rest], 3), smaller, *bias)


def _of_some_pixels(edit: Edit, node: Node, source: str, block: int, around: Padding) -> str | None:
    """Return the transposed convolution of the pixels that zeros were put between, if they were.

    `source` has these, and zeros, as channels of blocks; `around` are zeros around the picture.
    """
    _, weight, *bias = node.inputs
    rest = [part for part in _parts(edit, source) if not _is_nothing(edit, part.value)]
    if len(rest) != 1 or rest[0].channels * block**2 != edit.shapes[source][3]:
        return None
    place, within = divmod(rest[0].first, rest[0].channels)
    x, kernel = rest[0].value, edit.constants[weight]
    op = _transposed(edit.shapes[x], kernel.shape, around, block, divmod(place, block))
    if within or op is None:
        return None
    mirrored = kernel[:, ::-1, ::-1]
    if isinstance(node.op, DepthwiseConv2d):
        return depthwise_transposed(edit, op, x, mirrored, bias)
    return edit.emit(op, x, edit.constant(mirrored, "weight"), *bias)


def _parts(edit: Edit, value: str, first: int = 0) -> list[_Part]:
    """Return what a tree of concatenations of channels joins."""
    maker = edit.producer(value)
    if maker is None or maker.op != Concat(3):
        return [_Part(value, first, edit.shapes[value][3])]
    parts = list[_Part]()
    for name in maker.inputs:
        parts += _parts(edit, name, first)
        first += edit.shapes[name][3]
    return parts


def _is_nothing(edit: Edit, value: str) -> bool:
    """Return whether a value is a convolution without a weight that is not zero."""
    maker = edit.producer(value)
    if maker is None or not isinstance(maker.op, DepthwiseConv2d):
        return False
    return not any(edit.constants[name].any() for name in maker.inputs[1:])


def _transposed(
    small: Shape, kernel: Shape, around: Padding, block: int, place: tuple[int, int]
) -> ConvTranspose2d | None:
    """Return the transposed convolution of the pixels that stand at `place` of each block.

    `around` are the zeros around the picture with those between. Output line o of the plain one
    reads through tap t what is line o + t - top there, which is block * i + place for pixel i; the
    transposed one reads it where o + padding = block * i + k, for k the mirrored tap. None if it
    would crop unlike what torch's does.
    """
    op = ConvTranspose2d((block, block))
    plain = ConvTranspose2d.infer(op, small, (1, *kernel[1:3], small[3]))
    padding, more = [], []
    for axis, (before, after) in enumerate(
        ((around.top, around.bottom), (around.left, around.right))
    ):
        taps = kernel[1 + axis]
        padding.append(taps - 1 - before - place[axis])
        lines = small[1 + axis] * block + before + after - taps + 1
        more.append(lines - (plain[1 + axis] - 2 * padding[axis]))
    if min(padding) < 0 or not all(0 <= lines < block for lines in more):
        return None
    return replace(op, padding=(padding[0], padding[1]), output_padding=(more[0], more[1]))
