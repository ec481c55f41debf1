"""Transposed convolutions as plain ones, one a phase of the output (sub-pixel convolution).

Output row y of a transposed convolution with stride s, padding p and kernel w reads input row i
through tap k where y + p = s * i + k. The rows y = s * j + a of one phase `a` therefore read
rows j + d through the taps k = a + p - s * d only, which is a convolution of stride 1; no tap
meets an inserted zero. The phases are then interleaved (Shi et al. 2016, arXiv 1609.07009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Conv2d,
    ConvTranspose2d,
    Padding,
    Reshape,
    Slice,
)
from coronet_deploy.export.passes.rewriting import Rewrite


@dataclass(frozen=True)
class _Phase:
    """The taps of one phase along one axis, in the order in which they meet the input.

    `taps[j]` is the kernel's index that reads input line i + `first` + j; `lines` of output.
    """

    taps: tuple[int, ...]
    first: int
    before: int
    after: int


def _phase(
    offset: int, *, stride: int, padding: int, kernel: int, size: int, lines: int
) -> _Phase:
    """Return the phase whose output lines are `offset`, `offset` + stride, ... (`lines` of them).

    `before` and `after` are the zeros (or, negative, the crop) that give the input of `size`
    lines exactly those that the phase reads.
    """
    ends = (offset + padding) // stride, -((kernel - 1 - offset - padding) // stride)
    shifts = range(ends[1], ends[0] + 1)
    taps = tuple(offset + padding - stride * d for d in shifts)
    if not taps:  # a kernel smaller than its stride leaves phases empty
        return _Phase((-1,), 0, 0, lines - size)
    return _Phase(taps, shifts[0], -shifts[0], lines - 1 + shifts[-1] - (size - 1))


class SubpixelConvolution(Rewrite):
    """Writes every transposed convolution as one convolution a phase, then interleaves them."""

    name: ClassVar[str] = "subpixel_convolution"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the interleaved phases."""
        op = node.op
        if not isinstance(op, ConvTranspose2d):
            return None
        x, weight, *bias = node.inputs
        kernel = edit.constants[weight]
        size = op.infer(edit.shapes[x], kernel.shape)[1:3]
        lines = tuple(-(-n // s) for n, s in zip(size, op.stride, strict=True))
        rows, columns = (
            [
                _phase(
                    offset,
                    stride=op.stride[axis],
                    padding=op.padding[axis],
                    kernel=kernel.shape[1 + axis],
                    size=edit.shapes[x][1 + axis],
                    lines=lines[axis],
                )
                for offset in range(op.stride[axis])
            ]
            for axis in (0, 1)
        )
        phases = [
            [_convolution(edit, op, x, kernel, bias, row, column) for column in columns]
            for row in rows
        ]
        y = interleave(edit, phases)
        whole = edit.shapes[y]
        if whole[1:3] == size:
            return y
        return edit.emit(Slice((0, 0, 0, 0), (1, *size, whole[3])), y)


def _convolution(
    edit: Edit,
    op: ConvTranspose2d,
    x: str,
    kernel: FloatArray,
    bias: list[str],
    row: _Phase,
    column: _Phase,
) -> str:
    picked = np.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0)))  # index -1 is a zero tap
    taps = picked[:, row.taps, :, :][:, :, column.taps, :]
    x = _cropped(edit, x, row, column)
    padding = Padding(*(max(n, 0) for n in (row.before, row.after, column.before, column.after)))
    conv = Conv2d(padding=padding, activation=op.activation)
    return edit.emit(conv, x, edit.constant(taps, "weight"), *bias)


def _cropped(edit: Edit, x: str, row: _Phase, column: _Phase) -> str:
    n, h, w, c = edit.shapes[x]
    top, bottom, left, right = (
        max(-lines, 0) for lines in (row.before, row.after, column.before, column.after)
    )
    if not any((top, bottom, left, right)):
        return x
    return edit.emit(Slice((0, top, left, 0), (n, h - top - bottom, w - left - right, c)), x)


def interleave(edit: Edit, phases: list[list[str]]) -> str:
    """Return (1, s*H, t*W, C) from s x t phases of (1, H, W, C): row s*y + a, column t*x + b.

    Concatenations and reshapes only: columns side by side as channels, then whole rows.
    """
    n, h, w, c = edit.shapes[phases[0][0]]
    down, across = len(phases), len(phases[0])
    rows = [edit.concat(columns, 3) for columns in phases]
    flat = [edit.emit(Reshape((n, h, 1, across * w * c)), row) for row in rows]
    return edit.emit(Reshape((n, down * h, across * w, c)), edit.concat(flat, 2))
