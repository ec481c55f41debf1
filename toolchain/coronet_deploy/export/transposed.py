"""Transposed convolutions of each channel by itself, as blurs that enlarge a picture are.

No runtime has a quick kernel for them. Output rows `stride * j + a` read the input through every
`stride`-th tap alone, so each such phase is a depthwise convolution, and DepthToSpace puts the
phases side by side (see `passes.subpixel`, which does so for those over all channels).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import Builder, FloatArray
from coronet_deploy.export.operators import Padding


@dataclass(frozen=True)
class _Phase:
    """Output line `stride * j` + a reads input lines j + `first` and on, through `taps`."""

    taps: tuple[int, ...]
    first: int

    @classmethod
    def of(cls, offset: int, taps: int, stride: int) -> _Phase:
        """Return that of lines whose `offset` is a, with the padding before the picture added."""
        read = [k for k in reversed(range(taps)) if (offset - k) % stride == 0]
        return cls(tuple(read), (offset - read[0]) // stride if read else 0)


def depthwise_transposed(
    to: Builder, op: ops.ConvTranspose2d, x: str, kernel: FloatArray, bias: list[str]
) -> str:
    """Return `op` of each channel by its own kernels, 1HWO, of one stride along both axes."""
    shape, stride = to.shapes[x], op.stride[0]
    channels, made = shape[3], kernel.shape[3]
    n, *size, _ = op.infer(shape, (made, *kernel.shape[1:3], channels))
    lines = [-(-outputs // stride) for outputs in size]
    # A tap of zeros, for phases that read nothing.
    kernel = np.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0)))
    phases = []
    for offsets in itertools.product(range(stride), repeat=2):
        ends, taps = [], []
        for axis, offset in enumerate(offsets):
            phase = _Phase.of(offset + op.padding[axis], kernel.shape[1 + axis] - 1, stride)
            taps.append(phase.taps or (-1,))
            after = lines[axis] + phase.first + len(taps[axis]) - 1 - shape[1 + axis]
            ends.append((-phase.first, after))
        picked = kernel[:, taps[0]][:, :, taps[1]]
        part = _cropped(to, x, ends)
        around = Padding(*(max(end, 0) for axis in ends for end in axis))
        depthwise = ops.DepthwiseConv2d(padding=around, multiplier=made // channels)
        phases.append(to.emit(depthwise, part, to.constant(picked, "phase"), *bias))
    y = to.concat(phases, 3)
    y = y if stride == 1 else to.emit(ops.DepthToSpace(stride), y)
    whole = (n, *size, made)
    return y if to.shapes[y] == whole else to.emit(ops.Slice((0, 0, 0, 0), whole), y)


def _cropped(to: Builder, x: str, ends: list[tuple[int, int]]) -> str:
    """Return `x` without the lines by which an end is negative."""
    (top, bottom), (left, right) = ([max(-end, 0) for end in axis] for axis in ends)
    n, height, width, channels = to.shapes[x]
    size = (n, height - top - bottom, width - left - right, channels)
    return x if size == to.shapes[x] else to.emit(ops.Slice((0, top, left, 0), size), x)
