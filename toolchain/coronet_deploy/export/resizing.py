"""The operators that draw a picture in another size (see `operators`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coronet_deploy.export.operators import Operator, Shape


@dataclass(frozen=True)
class ResizeBilinear(Operator):
    """Means of the four nearest pixels, in a picture of `size` rows and columns.

    With `align_corners` the centres of corner pixels stay where they are, else the corners.
    """

    kind: ClassVar[str] = "resize_bilinear"
    size: tuple[int, int]
    align_corners: bool

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', C)."""
        n, _, _, channels = shapes[0]
        return (n, *self.size, channels)


@dataclass(frozen=True)
class ResizeNearest(Operator):
    """Copies of pixels: of each row and column that is made, which one it is a copy of."""

    kind: ClassVar[str] = "resize_nearest"
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', C)."""
        n, height, width, channels = shapes[0]
        if max(self.rows) >= height or max(self.columns) >= width:
            raise ValueError(f"{self.kind}: {shapes[0]} has no such rows and columns")
        return n, len(self.rows), len(self.columns), channels
