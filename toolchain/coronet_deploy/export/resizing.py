"""The operator that draws a picture in another size (see `operators`)."""

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
