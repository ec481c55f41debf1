"""Pictures in another size in an ONNX file (see `onnx`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.export.graph import Node
from coronet_deploy.export.onnx_axes import nchw
from coronet_deploy.export.resizing import ResizeBilinear, ResizeNearest

if TYPE_CHECKING:
    from coronet_deploy.export.onnx import Writer

_Places = tuple[int, ...]

_CONVENTIONS = {0.0: ("asymmetric", "floor"), 0.5: ("half_pixel", "round_prefer_ceil")}
"""How ONNX calls it when line i is a copy of floor((i + shift) / scale), by the shift."""


def resize_bilinear(writer: Writer, op: ResizeBilinear, node: Node) -> None:
    """Blend neighbours."""
    sizes = writer.integers(nchw(writer.graph.shapes[node.output]))
    corners = "align_corners" if op.align_corners else "half_pixel"
    inputs = [node.inputs[0], "", "", sizes]
    writer.node("Resize", inputs, node, mode="linear", coordinate_transformation_mode=corners)


def resize_nearest(writer: Writer, op: ResizeNearest, node: Node) -> None:
    """Copy lines by a Resize, and those of an axis that no scale makes by a Gather.

    ONNX Runtime gathers in three times the time that it resizes in. A picture of the same size it
    does not resize at all, whatever the scale.
    """
    (x,), name = node.inputs, node.output
    sizes = nchw(writer.graph.shapes[x])
    axes = {
        axis: (count, places)
        for axis, count, places in ((2, sizes[2], op.rows), (3, sizes[3], op.columns))
        if places != tuple(range(count))
    }
    shift, scales = _best_scales(axes)
    if all(axes[axis][0] == len(axes[axis][1]) for axis in scales):
        scales = {}
    gathered = [axis for axis in axes if axis not in scales]
    if scales:
        for axis in scales:
            sizes[axis] = len(axes[axis][1])
        if all(scale == _of_sizes(*axes[axis]) for axis, scale in scales.items()):
            size = ["", writer.integers(sizes)]
        else:
            size = [writer.exactly([1.0, 1.0, scales.get(2, 1.0), scales.get(3, 1.0)])]
        convention, rounding = _CONVENTIONS[shift]
        x = writer.inner(
            "Resize",
            [x, "", *size],
            f"{name}/resized" if gathered else name,
            mode="nearest",
            coordinate_transformation_mode=convention,
            nearest_mode=rounding,
        )
    for axis in reversed(gathered):  # columns while there are fewer rows
        made = name if axis == gathered[0] else f"{name}/columns"
        x = writer.inner("Gather", [x, writer.integers(list(axes[axis][1]))], made, axis=axis)


def _best_scales(axes: Mapping[int, tuple[int, _Places]]) -> tuple[float, dict[int, float]]:
    """Return the shift by which most axes have a scale, and these."""
    found = {
        shift: {
            axis: scale
            for axis, (count, places) in axes.items()
            if (scale := _scale(count, places, shift)) is not None
        }
        for shift in _CONVENTIONS
    }
    shift = max(found, key=lambda shift: len(found[shift]))
    return shift, found[shift]


def _scale(count: int, places: _Places, shift: float) -> float | None:
    """Return the scale by which `places` are copied of `count` lines; None if there is none.

    ONNX Runtime divides by it in float32, where torch multiplies by its reciprocal: between two
    lines both come to the same, but on the border of one they may not.
    """
    made, wanted = np.arange(len(places), dtype=np.float32), np.array(places)
    for scale in _tried(count, places, shift):
        source = (made + np.float32(shift)) / scale - np.float32(shift)
        copied = np.clip(np.floor(source.astype(np.float64) + shift), 0, count - 1)
        if int(np.float32(count) * scale) == len(places) and (copied == wanted).all():
            return float(scale)
    return None


def _tried(count: int, places: _Places, shift: float) -> Iterator[np.float32]:
    """Yield the scale that the sizes make, and the one that is farthest from copying others."""
    yield np.float32(_of_sizes(count, places))
    made, wanted = np.arange(len(places)) + shift, np.array(places)
    above = (made / (wanted + 1))[wanted < count - 1]  # behind the last line there is none
    most = (made[wanted > 0] / wanted[wanted > 0]).tolist()
    low = max([len(places) / count, *above.tolist()])
    high = min([(len(places) + 1) / count, *most])
    if low < high:
        yield np.float32((low + high) / 2)


def _of_sizes(count: int, places: _Places) -> float:
    """Return the scale that ONNX Runtime takes if it is told the size."""
    return float(np.float32(len(places)) / np.float32(count))
