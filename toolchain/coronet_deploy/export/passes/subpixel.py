"""Transposed convolutions as plain ones, one a phase of the output (sub-pixel convolution).

Output row y of a transposed convolution with stride s, padding p and kernel w reads input row i
through tap k where y + p = s * i + k. The rows y = s * j + a of one phase `a` therefore read
rows j + d through the taps k = a + p - s * d only, which is a convolution of stride 1; no tap
meets an inserted zero. The phases are then interleaved (Shi et al. 2016, arXiv 1609.07009).

Either each phase has a convolution of its own, or one convolution computes all phases side by side
as channels and each phase is a shifted block of its output. The second fills a matrix kernel's
registers better where channels are few, and shares Winograd's input transform where they are many;
but where phases differ in their taps it multiplies zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Activation,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Padding,
    Reshape,
    Slice,
)
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.passes.winograd import choose_tiling

# Output channels that a matrix kernel computes at once, the least of the usual 8 and 16.
_LANES = 8
# One convolution must save this share of the work, for its blocks are copied once more.
_WORTH = 0.85
_NO_TAP = -1  # stands for a tap of zeros


@dataclass(frozen=True)
class _Phase:
    """`taps[j]` is the kernel's index that reads input line i + `first` + j for output line i."""

    taps: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class _Axis:
    """The phases along one axis: `size` lines come in, each phase gives `lines`."""

    size: int
    lines: int
    phases: tuple[_Phase, ...]

    @classmethod
    def of(cls, op: ConvTranspose2d, axis: int, size: int, kernel: int, outputs: int) -> _Axis:
        """Return the phases of `op` along axis 0 (rows) or 1 (columns)."""
        stride, padding = op.stride[axis], op.padding[axis]

        def phase(offset: int) -> _Phase:
            last = (offset + padding) // stride
            first = -((kernel - 1 - offset - padding) // stride)
            taps = tuple(offset + padding - stride * d for d in range(first, last + 1))
            # A kernel smaller than its stride leaves phases empty.
            return _Phase(taps, first) if taps else _Phase((_NO_TAP,), 0)

        return cls(size, -(-outputs // stride), tuple(phase(a) for a in range(stride)))

    def ends(self, phase: _Phase) -> tuple[int, int]:
        """Return the zeros before and after the input that `phase` needs; negative: a crop."""
        return -phase.first, self.lines + phase.first + len(phase.taps) - 1 - self.size

    def together(self) -> _Axis:
        """Return one phase whose windows, moved line by line, are those of all phases."""
        first = min(phase.first for phase in self.phases)
        spread = max(phase.first for phase in self.phases) - first
        taps = max(len(phase.taps) for phase in self.phases)
        return _Axis(self.size, self.lines + spread, (_Phase((_NO_TAP,) * taps, first),))

    def padded_taps(self, phase: _Phase, length: int) -> tuple[int, ...]:
        """Return the taps of `phase` with zeros behind, `length` in all."""
        return phase.taps + (_NO_TAP,) * (length - len(phase.taps))


class SubpixelConvolution(Rewrite):
    """Writes every transposed convolution as convolutions of its phases, then interleaves them."""

    name: ClassVar[str] = "subpixel_convolution"

    def __init__(
        self, *, winograd: bool, depth_to_space: bool = False, least_channels: float = 0
    ) -> None:
        self._winograd = winograd  # whether that pass follows
        # Narrower ones, by the geometric mean of inputs and outputs, stay as they are.
        self._least_channels = least_channels
        self._depth_to_space = depth_to_space  # whether the runtime is quick at interleaving

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the interleaved phases."""
        op = node.op
        if not isinstance(op, ConvTranspose2d):
            return None
        if self._depth_to_space and op.stride[0] != op.stride[1]:
            return None  # DepthToSpace has one block size for both
        x, weight = node.inputs[:2]
        kernel = edit.constants[weight]
        if math.sqrt(kernel.shape[0] * kernel.shape[3]) < self._least_channels:
            return None
        size = op.infer(edit.shapes[x], kernel.shape)[1:3]
        rows, columns = (
            _Axis.of(op, i, edit.shapes[x][1 + i], kernel.shape[1 + i], size[i]) for i in (0, 1)
        )
        together = self._pays_together(kernel, rows, columns)
        if self._depth_to_space:
            y = _to_space(edit, node.inputs, op, rows, columns, together=together)
        else:
            phases = _together if together else _apart
            y = interleave(edit, phases(edit, node.inputs, op.activation, rows, columns))
        whole = edit.shapes[y]
        if whole[1:3] == size:
            return y
        return edit.emit(Slice((0, 0, 0, 0), (1, *size, whole[3])), y)

    def _pays_together(self, kernel: FloatArray, rows: _Axis, columns: _Axis) -> bool:
        outputs, inputs = kernel.shape[0], kernel.shape[3]
        frame = rows.together(), columns.together()
        windows = [len(axis.phases[0].taps) for axis in frame]
        phases = len(rows.phases) * len(columns.phases)
        taps = sum(len(a.taps) * len(b.taps) for a in rows.phases for b in columns.phases)
        whole = phases * windows[0] * windows[1]
        if self._winograd and taps == whole and windows[0] == windows[1]:
            height, width = (axis.lines for axis in frame)
            if choose_tiling(windows[0], inputs, phases * outputs, height, width):
                return True
        together = _filled(phases * outputs) / phases * whole
        return together <= _WORTH * _filled(outputs) * taps


def _filled(channels: int) -> int:
    return -(-channels // _LANES) * _LANES


def _apart(
    edit: Edit, inputs: tuple[str, ...], activation: Activation, rows: _Axis, columns: _Axis
) -> list[list[str]]:
    """Return the phases, each from a convolution of its own."""
    x, weight, *bias = inputs

    def phase(row: _Phase, column: _Phase) -> str:
        weights = _picked(edit.constants[weight], row.taps, column.taps)
        ends = *rows.ends(row), *columns.ends(column)
        return _convolution(edit, x, weights, bias, ends, activation)

    return [[phase(row, column) for column in columns.phases] for row in rows.phases]


def _to_space(
    edit: Edit,
    inputs: tuple[str, ...],
    op: ConvTranspose2d,
    rows: _Axis,
    columns: _Axis,
    *,
    together: bool,
) -> str:
    """Return the whole picture, interleaved by one DepthToSpace."""
    firsts = {phase.first for axis in (rows, columns) for phase in axis.phases}
    if together and len(firsts) == 1:
        # No phase is moved: side by side as channels is what DepthToSpace reads.
        side_by_side = _one_convolution(edit, inputs, op.activation, rows, columns)
    else:
        phases = _together if together else _apart
        blocks = phases(edit, inputs, op.activation, rows, columns)
        side_by_side = edit.concat([block for row in blocks for block in row], 3)
    return edit.emit(DepthToSpace(op.stride[0]), side_by_side)


def _together(
    edit: Edit, inputs: tuple[str, ...], activation: Activation, rows: _Axis, columns: _Axis
) -> list[list[str]]:
    """Return the phases, as shifted blocks of one convolution."""
    (row,), (column,) = rows.together().phases, columns.together().phases
    y = _one_convolution(edit, inputs, activation, rows, columns)
    channels = edit.shapes[inputs[1]][0]

    def block(a: int, b: int) -> str:
        channel = (a * len(columns.phases) + b) * channels
        top, left = rows.phases[a].first - row.first, columns.phases[b].first - column.first
        size = 1, rows.lines, columns.lines, channels
        return edit.emit(Slice((0, top, left, channel), size), y)

    return [[block(a, b) for b in range(len(columns.phases))] for a in range(len(rows.phases))]


def _one_convolution(
    edit: Edit, inputs: tuple[str, ...], activation: Activation, rows: _Axis, columns: _Axis
) -> str:
    """Return all phases side by side as channels, rows of phases first."""
    x, weight, *biases = inputs
    (row,), (column,) = rows.together().phases, columns.together().phases
    kernels = [
        _picked(
            edit.constants[weight],
            rows.padded_taps(a, len(row.taps)),
            columns.padded_taps(b, len(column.taps)),
        )
        for a in rows.phases
        for b in columns.phases
    ]
    ends = *rows.together().ends(row), *columns.together().ends(column)
    bias = [edit.constant(np.tile(edit.constants[b], len(kernels)), "bias") for b in biases]
    return _convolution(edit, x, np.concatenate(kernels), bias, ends, activation)


def _picked(kernel: FloatArray, rows: tuple[int, ...], columns: tuple[int, ...]) -> FloatArray:
    with_zeros = np.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0)))
    picked: FloatArray = with_zeros[:, rows, :, :][:, :, columns, :]
    return picked


def _convolution(
    edit: Edit,
    x: str,
    weights: FloatArray,
    bias: list[str],
    ends: tuple[int, int, int, int],
    activation: Activation,
) -> str:
    """Emit a convolution of stride 1 with zeros, or a crop, at top, bottom, left and right."""
    top, bottom, left, right = (max(-lines, 0) for lines in ends)
    if any((top, bottom, left, right)):
        n, h, w, c = edit.shapes[x]
        size = n, h - top - bottom, w - left - right, c
        x = edit.emit(Slice((0, top, left, 0), size), x)
    padding = Padding(*(max(lines, 0) for lines in ends))
    return edit.emit(
        Conv2d(padding=padding, activation=activation), x, edit.constant(weights, "weight"), *bias
    )


def interleave(edit: Edit, phases: list[list[str]]) -> str:
    """Return (1, s*H, t*W, C) from s x t phases of (1, H, W, C): row s*y + a, column t*x + b.

    Concatenations and reshapes only: columns side by side as channels, then whole rows.
    """
    n, h, w, c = edit.shapes[phases[0][0]]
    down, across = len(phases), len(phases[0])
    rows = [edit.concat(columns, 3) for columns in phases]
    flat = [edit.emit(Reshape((n, h, 1, across * w * c)), row) for row in rows]
    return edit.emit(Reshape((n, down * h, across * w, c)), edit.concat(flat, 2))
