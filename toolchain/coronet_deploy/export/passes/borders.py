"""Reflection padding before a network's last convolution, without a padded copy of the picture.

The mirrored lines are read by the border pixels of the result alone. Those are computed from
padded strips, and the rest from the picture as it is; what is joined are results, which have few
channels. The picture, which has many, is copied no more: at 256x256 and 64 channels that is a
write and a read of 17 MB an axis, for 2 % more products.
"""

from __future__ import annotations

import math
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Concat, Conv2d, Padding, ReflectPad, Slice
from coronet_deploy.export.passes.rewriting import Rewrite

_FEW = 4  # output channels
# Numbers in the picture from which a copy costs more than the strips: 24 channels of 256x256.
_LARGE = 1_500_000


class SplitBorders(Rewrite):
    """Computes a convolution of few outputs and stride 1 apart where it reads mirrored lines."""

    name: ClassVar[str] = "split_borders"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the five parts joined: above, left, middle, right, below."""
        op, padded = node.op, edit.producer(node.inputs[0])
        if (
            not isinstance(op, Conv2d)
            or op.padding
            or not op.steps_by_one
            or padded is None
            or not isinstance(padded.op, ReflectPad)
            or not edit.read_once(padded.output)
        ):
            return None
        x, around, rest = padded.inputs[0], padded.op.padding, node.inputs[1:]
        (_, height, width, channels), kernel = edit.shapes[x], edit.shapes[rest[0]]
        rows, columns = kernel[1] - 1, kernel[2] - 1
        fits = 2 * rows <= height and 2 * columns <= width
        if (
            kernel[0] > _FEW
            or not fits
            or (around.height, around.width) != (rows, columns)
            or min(around.top, around.bottom, around.left, around.right) < 1
            or math.prod(edit.shapes[x]) < _LARGE
        ):
            return None

        def part(first: tuple[int, int], size: tuple[int, int], padding: Padding) -> str:
            strip = edit.emit(Slice((0, *first, 0), (1, *size, channels)), x)
            return edit.emit(op, edit.emit(ReflectPad(padding), strip), *rest)

        left = part((0, 0), (height, columns), Padding(left=around.left))
        right = part((0, width - columns), (height, columns), Padding(right=around.right))
        sides = {"left": around.left, "right": around.right}
        above = part((0, 0), (rows, width), Padding(top=around.top, **sides))
        below = part((height - rows, 0), (rows, width), Padding(bottom=around.bottom, **sides))
        middle = edit.emit(Concat(2), left, edit.emit(op, x, *rest), right)
        return edit.emit(Concat(1), above, middle, below)
