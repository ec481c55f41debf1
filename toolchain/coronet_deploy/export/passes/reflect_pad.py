"""Reflection padding as slices and concatenations, which XNNPACK takes; it leaves MIRROR_PAD."""

from __future__ import annotations

from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Concat, ReflectPad
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.several import line


class UnrollReflectPad(Rewrite):
    """Joins the mirrored lines, the picture, the mirrored lines; rows first, then columns.

    A mirrored border is one line a slice. The picture itself stands in a concatenation of three,
    so that it is copied once an axis, however wide the border.
    """

    name: ClassVar[str] = "unroll_reflect_pad"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the padded value."""
        if not isinstance(node.op, ReflectPad):
            return None
        p, x = node.op.padding, node.inputs[0]
        x = _mirrored(edit, x, 1, p.top, p.bottom)
        return _mirrored(edit, x, 2, p.left, p.right)


def _mirrored(edit: Edit, x: str, axis: int, before: int, after: int) -> str:
    length = edit.shapes[x][axis]
    head = [line(edit, x, axis, i) for i in range(before, 0, -1)]
    tail = [line(edit, x, axis, length - 1 - i) for i in range(1, after + 1)]
    parts = [edit.concat(side, axis) for side in (head, [x], tail) if side]
    return edit.emit(Concat(axis), *parts) if len(parts) > 1 else x
