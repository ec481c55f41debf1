"""Where an ONNX file has the axes of a graph's values."""

from __future__ import annotations

from coronet_deploy.export.operators import Shape

TO_NCHW = (0, 2, 3, 1)
"""Where an NHWC axis is found in NCHW."""


def nchw(shape: Shape) -> list[int]:
    """Return an NHWC shape as NCHW."""
    return [shape[0], shape[3], shape[1], shape[2]]
