"""The least rewriting with which TFLite can express a generator: what a converter would write.

Not part of any lowering; it is what the lowering is compared with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import ConvTranspose2d, Padding, Slice, ZeroPad
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.clamps import SplitClamp
from coronet_deploy.export.passes.instance_norm import DecomposeInstanceNorm
from coronet_deploy.export.passes.permutations import UnrollPermutations
from coronet_deploy.export.passes.plain_operators import PlainOperators
from coronet_deploy.export.passes.rewriting import Pass, Rewrite
from coronet_deploy.export.passes.zero_padding import SplitZeroPadding


class CropTransposedConvolution(Rewrite):
    """Lets a transposed convolution without padding make a larger picture, and crops that."""

    name: ClassVar[str] = "crop_transposed_convolution"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the cropped value."""
        op = node.op
        if not isinstance(op, ConvTranspose2d) or (op.padding, op.output_padding) == (
            (0, 0),
            (0, 0),
        ):
            return None
        size = op.infer(*(edit.shapes[name] for name in node.inputs[:2]))
        whole = edit.emit(replace(op, padding=(0, 0), output_padding=(0, 0)), *node.inputs)
        missing = [max(size[1 + i] + op.padding[i] - edit.shapes[whole][1 + i], 0) for i in (0, 1)]
        if any(missing):
            whole = edit.emit(ZeroPad(Padding(bottom=missing[0], right=missing[1])), whole)
        return edit.emit(Slice((0, *op.padding, 0), size), whole)


MINIMAL: tuple[Pass, ...] = (
    SplitClamp(),
    FoldBatchNorm(),
    PlainOperators(),
    DecomposeInstanceNorm(),
    CropTransposedConvolution(),
    UnrollPermutations(),
    SplitZeroPadding(),
)
