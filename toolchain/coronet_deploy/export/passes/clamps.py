"""TFLite clamps to two ranges by one operator, to any other by a maximum and a minimum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from coronet_deploy.export.arithmetic import Clamp, Maximum
from coronet_deploy.export.graph import Edit, Node
from coronet_deploy.export.operators import Minimum, Relu
from coronet_deploy.export.passes.rewriting import Rewrite

TFLITE_CLAMPS: Mapping[tuple[float, float], str] = {
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
}
"""TFLite's operators by the ends that they clamp to; XNNPACK fuses them into a convolution.

Its RELU_0_TO_1 XNNPACK does not take.
"""


class SplitClamp(Rewrite):
    """Rewrites clamps to which TFLite has no operator."""

    name: ClassVar[str] = "split_clamp"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the smaller of the upper end and the larger of the lower one."""
        op = node.op
        if not isinstance(op, Clamp) or (op.low, op.high) in TFLITE_CLAMPS:
            return None
        (x,) = node.inputs
        if not op.low:
            x = edit.emit(Relu(), x)  # which a convolution may take up
        elif math.isfinite(op.low):
            x = edit.emit(Maximum(), x, edit.constant([op.low]))
        return edit.emit(Minimum(), x, edit.constant([op.high])) if math.isfinite(op.high) else x
