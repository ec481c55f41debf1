"""The operator that takes the largest number of each window (see `operators`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from coronet_deploy.export.operators import Operator, Padding, Shape


@dataclass(frozen=True)
class MaxPool2d(Operator):
    """The largest number of each channel in windows of `kernel`, `stride` apart, none cut off.

    What windows reach in `padding` is smaller than any number.
    """

    kind: ClassVar[str] = "max_pool2d"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = field(default_factory=Padding)

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', C)."""
        n, *size, channels = shapes[0]
        around = size[0] + self.padding.height, size[1] + self.padding.width
        height, width = (
            (whole - k) // step + 1
            for whole, k, step in zip(around, self.kernel, self.stride, strict=True)
        )
        if height < 1 or width < 1:
            raise ValueError(f"{self.kind}: input {shapes[0]} is smaller than {self.kernel}")
        return n, height, width, channels
