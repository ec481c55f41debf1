"""Permutations as a transpose of the parts of axes, for which TFLite has no operator of its own."""

from __future__ import annotations

from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Reshape
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.permuting import Permute, Transpose

_NHWC = (0, 1, 2, 3)


class UnrollPermutations(Rewrite):
    """Brings the numbers into the shape of the parts, transposes these, and takes them together."""

    name: ClassVar[str] = "unroll_permutations"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the permuted value."""
        if not isinstance(node.op, Permute):
            return None
        (x,), made = node.inputs, node.op.infer(edit.shapes[node.inputs[0]])
        shape, order = node.op.transposed(_NHWC)
        apart = edit.emit(Reshape(tuple(shape)), x)
        return edit.emit(Reshape(made), edit.emit(Transpose(tuple(order)), apart))
