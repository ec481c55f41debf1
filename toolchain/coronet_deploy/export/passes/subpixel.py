"""Transposed convolutions as plain ones, one a phase of the output (sub-pixel convolution).

Output row y of a transposed convolution with stride s, padding p and kernel w reads input row i
through tap k where y + p = s * i + k. The rows y = s * j + a of one phase `a` therefore read
rows j + d through the taps k = a + p - s * d only, which is a convolution of stride 1; no tap
meets an inserted zero. The phases are then interleaved (Shi et al. 2016, arXiv 1609.07009).

Either each phase has a convolution of its own, or one convolution computes, from one window of the
input, a pixel of every phase. These are neighbours: a cell of the picture, which DepthToSpace makes
of all cells. One convolution fills a matrix kernel's registers better where channels are few, and
shares Winograd's input transform where they are many; but where phases differ in their taps it
multiplies zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Activation,
    Conv2d,
    ConvTranspose2d,
    DepthToSpace,
    Padding,
    Slice,
)
from coronet_deploy.export.passes.filling import interleave, rows_apart
from coronet_deploy.export.passes.minimal_filter import F22
from coronet_deploy.export.passes.rewriting import Rewrite, cropped
from coronet_deploy.export.passes.tiling import Tiling, choose_tiling

# Output channels that a matrix kernel computes at once, the least of the usual 8 and 16.
_LANES = 8
# One convolution may take this much more work: it is one operator, and copies less. In integers it
# must save some, for the phases then share what is rounded.
_WORTH, _WORTH_IN_INTEGERS = 1.07, 0.85
# Bytes of a filter's weights from which the filter with fewer may be as quick in more operators.
_LARGE = 16 << 20
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

    def in_turn(self) -> tuple[tuple[_Phase, ...], int]:
        """Return the phases in the order of their lines in the picture, and the first such line.

        Window t of `together` gives every phase one line. Those are neighbours in the picture, from
        line stride * t + `first` on, for a phase that begins a line later lies before the others.
        """
        stride, begin = len(self.phases), self.together().phases[0].first
        lines = [a - stride * (phase.first - begin) for a, phase in enumerate(self.phases)]
        order = sorted(range(stride), key=lines.__getitem__)
        return tuple(self.phases[a] for a in order), lines[order[0]]


class SubpixelConvolution(Rewrite):
    """Writes every transposed convolution as convolutions of its phases, then interleaves them."""

    name: ClassVar[str] = "subpixel_convolution"

    def __init__(
        self,
        *,
        winograd: bool,
        depth_to_space: bool = False,
        least_channels: float = 0,
        integer: bool = False,
    ) -> None:
        self._winograd = winograd  # whether that pass follows
        self._integer = integer  # whether convolutions are to compute in integers
        # Narrower ones, by the geometric mean of inputs and outputs, stay as they are.
        self._least_channels = least_channels
        # Whether it is the quickest way for phases apart too. For cells it is with XNNPACK as well,
        # in float.
        self._depth_to_space = depth_to_space

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
        size = op.infer(edit.shapes[x], kernel.shape)
        rows, columns = (
            _Axis.of(op, i, edit.shapes[x][1 + i], kernel.shape[1 + i], size[1 + i]) for i in (0, 1)
        )
        top = left = 0
        if op.stride == (1, 1):  # its only phase is the picture
            ((y,),) = _apart(edit, node.inputs, op.activation, rows, columns)
        elif self._pays_together(kernel, rows, columns):
            y, top, left = self._in_cells(edit, node.inputs, op.activation, rows, columns)
        else:
            phases = _apart(edit, node.inputs, op.activation, rows, columns)
            if self._depth_to_space:
                side_by_side = edit.concat([phase for row in phases for phase in row], 3)
                y = edit.emit(DepthToSpace(op.stride[0]), side_by_side)
            else:
                y = interleave(edit, [edit.concat(row, 3) for row in phases], size[3])
        return y if edit.shapes[y] == size else edit.emit(Slice((0, -top, -left, 0), size), y)

    def _pays_together(self, kernel: FloatArray, rows: _Axis, columns: _Axis) -> bool:
        height, width = rows.together(), columns.together()
        windows = [len(axis.phases[0].taps) for axis in (height, width)]
        phases = len(rows.phases) * len(columns.phases)
        taps = sum(len(a.taps) * len(b.taps) for a in rows.phases for b in columns.phases)
        whole = phases * windows[0] * windows[1]
        outputs = kernel.shape[0]
        if taps == whole and (cells := self._tiling(kernel, rows, columns)):
            lines = rows.lines, columns.lines
            apart = choose_tiling(windows[0], kernel.shape[3], outputs, *lines)
            if apart is None or apart.filter.taps != F22.taps:
                return True
            weights = 4 * cells.filter.products**2 * phases * kernel[..., 0, 0, :].size
            return weights < _LARGE or cells.work <= apart.work
        together = _filled(phases * outputs) / phases * whole * height.lines * width.lines
        worth = _WORTH_IN_INTEGERS if self._integer else _WORTH
        return together <= worth * _filled(outputs) * taps * rows.lines * columns.lines

    def _tiling(self, kernel: FloatArray, rows: _Axis, columns: _Axis) -> Tiling | None:
        """Return how Winograd cuts the output of one convolution, where it pays and follows."""
        height, width = rows.together(), columns.together()
        taps, across = (len(axis.phases[0].taps) for axis in (height, width))
        if not self._winograd or taps != across:
            return None
        outputs = len(rows.phases) * len(columns.phases) * kernel.shape[0]
        return choose_tiling(taps, kernel.shape[3], outputs, height.lines, width.lines)

    def _in_cells(
        self,
        edit: Edit,
        inputs: tuple[str, ...],
        activation: Activation,
        rows: _Axis,
        columns: _Axis,
    ) -> tuple[str, int, int]:
        """Return the picture from one convolution, and the line and column that it begins with.

        They are 0 or less. Where Winograd follows, the cells are whole tiles: what is over is cut
        off with the rest.
        """
        x, weight, *biases = inputs
        kernel = edit.constants[weight]
        height, width = rows.together(), columns.together()
        if tiling := self._tiling(kernel, rows, columns):
            height = replace(height, lines=tiling.rows)
            width = replace(width, lines=tiling.columns)
        (down, top), (across, left) = rows.in_turn(), columns.in_turn()
        window = [len(axis.phases[0].taps) for axis in (height, width)]
        kernels = [
            _picked(kernel, _filled_up(a.taps, window[0]), _filled_up(b.taps, window[1]))
            for a in down
            for b in across
        ]
        ends = *height.ends(height.phases[0]), *width.ends(width.phases[0])
        bias = [edit.constant(np.tile(edit.constants[b], len(kernels)), "bias") for b in biases]
        y = _convolution(edit, x, np.concatenate(kernels), bias, ends, activation)
        if len(down) == len(across) and (self._depth_to_space or not self._integer):
            return edit.emit(DepthToSpace(len(down)), y), top, left
        outputs = kernel.shape[0]
        return rows_apart(edit, y, len(down), len(across) * outputs, outputs), top, left


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


def _filled_up(taps: tuple[int, ...], length: int) -> tuple[int, ...]:
    return taps + (_NO_TAP,) * (length - len(taps))


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
    x, padding = cropped(edit, x, Padding(*ends))
    return edit.emit(
        Conv2d(padding=padding, activation=activation), x, edit.constant(weights, "weight"), *bias
    )
