"""A convolution behind an enlarged picture as a transposed one of the picture as it was.

Each pixel of the picture stands b x b times in the enlarged one, so that taps which fall on the
same pixel can be added up beforehand: of k taps along an axis (k + b - 2) // b + 1 are left at
most, four of nine products where k = 3 and b = 2.

Enlarging is a transposed convolution with a kernel of ones, b wide, and stride b; two linear maps
in turn are one, whose kernel is that of the convolution, mirrored, convolved with the ones.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Concat,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Padding,
    ReflectPad,
)
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.several import enlarged, replicated


class MergeUpsampling(Rewrite):
    """Writes convolutions of stride 1 that read an enlarged picture as transposed ones."""

    name: ClassVar[str] = "merge_upsampling"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the convolution's value, of the picture before it was enlarged."""
        op = node.op
        if not isinstance(op, Conv2d) or not op.steps_by_one:
            return None
        x, weight, *bias = node.inputs
        added, mirrored = op.padding, Padding()
        maker = edit.producer(x)
        if maker is not None and isinstance(maker.op, ReflectPad) and not added:
            added = mirrored = maker.op.padding
            maker = edit.producer(maker.inputs[0])
        found = _enlarged(edit, maker)
        if found is None:
            return None
        small, block = found
        kernel = edit.constants[weight]
        if kernel.shape[1:3] == (1, 1) and not added:
            return enlarged(edit, edit.emit(op, small, weight, *bias), block)
        padding = _cropped(kernel, added, block if mirrored else 0)
        if padding is None:
            return None
        if mirrored:
            # What a mirror shows of the outermost pixel, enlarged, is that pixel again.
            small = replicated(edit, small, Padding(1, 1, 1, 1))
        merged = edit.constant(_merged(kernel, block), "weight")
        transposed = ConvTranspose2d((block, block), padding, activation=op.activation)
        return edit.emit(transposed, small, merged, *bias)


def _cropped(kernel: FloatArray, added: Padding, mirror: int) -> tuple[int, int] | None:
    """Return the transposed convolution's padding, if it has one that crops alike at both ends.

    `added` was put around the enlarged picture: zeros, or mirrored lines, fewer than `mirror`,
    the width of a pixel, by which the small picture then is wider at both ends.
    """
    if added.top != added.bottom or added.left != added.right:
        return None
    if mirror and max(added.top, added.left) >= mirror:
        return None
    rows, columns = kernel.shape[1:3]
    padding = rows - 1 - added.top + mirror, columns - 1 - added.left + mirror
    return padding if min(padding) >= 0 else None


def _enlarged(edit: Edit, maker: Node | None) -> tuple[str, int] | None:
    """Return what was enlarged to what `maker` makes, and how many times, if it was."""
    if maker is None or not isinstance(maker.op, DepthToSpace):
        return None
    copies = _copies(edit, maker.inputs[0])
    if len(copies) != maker.op.block**2 or len(set(copies)) > 1:
        return None
    return copies[0], maker.op.block


def _copies(edit: Edit, value: str) -> list[str]:
    """Return what a tree of concatenations of channels joins."""
    maker = edit.producer(value)
    if maker is None or maker.op != Concat(3):
        return [value]
    return [copy for name in maker.inputs for copy in _copies(edit, name)]


def _merged(kernel: FloatArray, block: int) -> FloatArray:
    """Return the OHWI kernel of the transposed convolution."""
    flipped = kernel[:, ::-1, ::-1].astype(np.float64)
    for axis in (1, 2):
        size = list(flipped.shape)
        size[axis] += block - 1
        spread = np.zeros(size)
        for place in range(block):
            here = [slice(None)] * 4
            here[axis] = slice(place, place + flipped.shape[axis])
            spread[tuple(here)] += flipped
        flipped = spread
    merged: FloatArray = flipped.astype(np.float32)
    return merged
