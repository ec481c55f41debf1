"""Operators over groups of channels (see `operators`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coronet_deploy.export.operators import Conv2d, Elementwise, Operator, Shape


@dataclass(frozen=True)
class GroupedConv2d(Operator):
    """Convolutions, each as `each` is, of groups of channels: (x, weight OHWI[, bias (O,)]).

    A weight has as many inputs as a group has channels; the outputs of a group lie together.
    """

    kind: ClassVar[str] = "grouped_conv2d"
    each: Conv2d
    groups: int

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', O)."""
        x, weight = shapes[:2]
        if x[3] != weight[3] * self.groups or weight[0] % self.groups:
            raise ValueError(f"{self.kind}: input {x} does not fit {self.groups} of {weight}")
        return self.each.infer((*x[:3], weight[3]), weight)


@dataclass(frozen=True)
class GroupNorm(Elementwise):
    """Subtracts each group's mean, divides by sqrt(its variance + epsilon).

    Inputs: x[, scale (C,), shift (C,)]; the variance is the biased one.
    """

    kind: ClassVar[str] = "group_norm"
    groups: int
    epsilon: float = 1e-5
