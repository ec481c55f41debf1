"""Running sums along an axis, torch.cumsum."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.operators import Padding
from coronet_deploy.export.several import lines

_NCHW_TO_NHWC = (0, 3, 1, 2)
_ROWS, _CHANNEL = 1, 3


def cumsum(t: Translation, *, self: fx.Node, dim: int, **_: Any) -> str:  # noqa: ANN401 - dtype: all is float32
    """Return sums of channels by a matrix; of lines by doubling how many each one sums."""
    to, x = t.builder, t.value(self)
    axis = _NCHW_TO_NHWC[dim % 4]
    if not axis:
        raise Refused("sums over a batch; one picture at a time is drawn")
    whole = to.shapes[x][axis]
    if axis == _CHANNEL:
        return to.emit(ops.Conv2d(), x, to.constant(np.tri(whole)[:, None, None, :], "sums"))
    reach = 1
    while reach < whole:
        before = Padding(top=reach) if axis == _ROWS else Padding(left=reach)
        earlier = to.emit(ops.ZeroPad(before), lines(to, x, axis, 0, whole - reach))
        x = to.emit(ops.Add(), x, earlier)
        reach *= 2
    return x
