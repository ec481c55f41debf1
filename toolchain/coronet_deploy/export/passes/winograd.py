"""Winograd's minimal filtering for convolutions as operators of the graph.

Along both axes, F(4x4, 3x3) needs 36 products instead of 144, F(3x3, 2x2) 16 instead of 36 and
F(2x2, 2x2) 9 instead of 16, of half as many weights; down the height alone, F(4, 3) needs 6 instead
of 12. See `minimal_filter` for the algebra, `tiling` for which is chosen. A convolution of 4x4 taps
and stride 2 is one of 2x2 taps over the four phases of its input.

In operators: rows of B^T are depthwise convolutions with constant kernels, whose stride is the
number of outputs; each product is a convolution with weights G w, computed here in float64; A^T is
sums and differences; results side by side are pixels. Beside a runtime's own convolution that
pays from some 20 channels on. The weights grow: by 4 in two dimensions, by 2 in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Activation,
    Add,
    Concat,
    Conv2d,
    DepthToSpace,
    Mul,
    Padding,
    ReflectPad,
    Relu,
    Reshape,
    Slice,
    Sub,
)
from coronet_deploy.export.passes.minimal_filter import (
    F32,
    F43,
    F43_HALF,
    Matrix,
    MinimalFilter,
)
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.passes.tiling import (
    XNNPACK,
    Tiling,
    Widths,
    choose_phase_tiling,
    choose_tiling,
)
from coronet_deploy.export.passes.windows import Windows


class Winograd(Rewrite):
    """Replaces square convolutions that are wide enough (see `choose_tiling`)."""

    name: ClassVar[str] = "winograd"

    def __init__(
        self, widths: Widths = XNNPACK, *, depth_to_space: bool = False, half: bool = False
    ) -> None:
        self._widths = widths
        self._depth_to_space = depth_to_space  # whether the runtime is quick at interleaving
        self._f43 = F43_HALF if half else F43  # whether weights or sums may be float16

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the same convolution by fewer products."""
        op = node.op
        if not isinstance(op, Conv2d):
            return None
        if op.stride == (2, 2) and op.dilation == (1, 1):
            return self._of_stride_2(edit, node, op)
        if not op.steps_by_one:
            return None
        x, weight, *biases = node.inputs
        kernel = edit.constants[weight]
        outputs, taps, across, inputs = kernel.shape
        _, height, width, _ = op.infer(edit.shapes[x], kernel.shape)
        if taps != across:
            return None
        tiling = choose_tiling(taps, inputs, outputs, height, width, self._widths, self._f43)
        if tiling is None:
            return None
        x, padding, mirrored = _without_mirrors(edit, x, op.padding, tiling)
        bias = edit.constants[biases[0]] if biases else None
        layer = _Layer(edit, tiling, kernel, bias, op.activation, self._depth_to_space)
        emit = layer.square if tiling.square else layer.line
        y = emit(x, padding, mirrored=mirrored)
        if (tiling.rows, tiling.columns) != (height, width):
            y = edit.emit(Slice((0, 0, 0, 0), (1, height, width, outputs)), y)
        return y

    def _of_stride_2(self, edit: Edit, node: Node, op: Conv2d) -> str | None:
        """Return a convolution of 4x4 taps as one of 2x2 over the phases of its input."""
        x, weight, *biases = node.inputs
        kernel = edit.constants[weight]
        outputs, taps, across, inputs = kernel.shape
        _, height, width, _ = op.infer(edit.shapes[x], kernel.shape)
        if taps != across or taps != 2 * F32.taps or edit.shapes[x][2] % 2:
            return None
        tiling = choose_phase_tiling(inputs, outputs, height, width, self._widths)
        if tiling is None:
            return None
        bias = edit.constants[biases[0]] if biases else None
        layer = _Layer(edit, tiling, kernel, bias, op.activation, self._depth_to_space)
        y = layer.of_stride_2(x, op.padding)
        if (tiling.rows, tiling.columns) != (height, width):
            y = edit.emit(Slice((0, 0, 0, 0), (1, height, width, outputs)), y)
        return y


@dataclass(frozen=True)
class _Phase:
    """Every second line of an axis, from line `offset` on; a kernel's taps on it.

    Output line y reads phase lines y + `first` and on, through the kernel's lines `taps`.
    """

    offset: int
    first: int
    taps: slice

    @classmethod
    def both(cls, padding: int) -> tuple[_Phase, _Phase]:
        """Return the phases of a convolution of stride 2, with `padding` lines before."""

        def phase(offset: int) -> _Phase:
            tap = (offset + padding) % 2
            return cls(offset, (tap - padding - offset) // 2, slice(tap, None, 2))

        return phase(0), phase(1)


def _without_mirrors(
    edit: Edit, x: str, padding: Padding, tiling: Tiling
) -> tuple[str, Padding, bool]:
    """Return what is convolved, its padding, and whether that is the value mirrored.

    The reflection padding before a convolution is taken into it where tiles are whole, so that
    only the first tile and the last one of an axis read mirrored lines. Down the height alone,
    rows are read whole and stay padded at their ends.
    """
    maker = edit.producer(x)
    if padding or maker is None or not isinstance(maker.op, ReflectPad):
        return x, padding, False
    source, tile, around = maker.inputs[0], tiling.filter.outputs, maker.op.padding
    _, height, width, _ = edit.shapes[source]
    whole = (height, width) == (tiling.rows, tiling.columns) and min(height, width) > tile
    if not whole or around != Padding(1, 1, 1, 1) or tiling.filter.taps != F43.taps:
        return x, padding, False
    if tiling.square:
        return source, around, True
    return edit.emit(ReflectPad(Padding(left=1, right=1)), source), Padding(1, 1), True


def _of_each(
    row: tuple[Matrix, int, int], shifts: list[int], channels: int
) -> tuple[Matrix, int, int]:
    """Return a row of B^T for phases that lie side by side as channels, each shifted by lines."""
    taps, start, apart = row
    begin, end = min(shifts), max(shifts) + apart * (len(taps) - 1) + 1
    dense = np.zeros((end - begin, len(shifts), channels))
    for phase, shift in enumerate(shifts):
        dense[shift - begin :: apart, phase][: len(taps)] = taps[:, None]
    return dense.reshape(len(dense), -1), start + begin, 1


@dataclass(frozen=True)
class _Layer:
    """Emits one convolution; `kernel` is OHWI."""

    edit: Edit
    tiling: Tiling
    kernel: FloatArray
    bias: FloatArray | None
    activation: Activation
    depth_to_space: bool

    @property
    def filter(self) -> MinimalFilter:
        """The filter along an axis."""
        return self.tiling.filter

    def line(self, x: str, padding: Padding, *, mirrored: bool) -> str:
        """Filter down the height: each product a convolution of one row and `taps` columns.

        So whole rows are joined, which are quicker to copy than pixels side by side.
        """
        g, shares = self.filter.kernel_matrix, self.filter.bias_shares
        weights = np.tensordot(g, self.kernel.astype(np.float64), (1, 1))  # (p, o, x, i)
        rows = self._windows(1, padding.top, mirrored=mirrored)
        beside = Padding(left=padding.left, right=padding.right)
        products = [
            self._product(v, weights[p][:, None], shares[p], beside)
            for p, v in enumerate(self._input_transform(x, rows))
        ]
        y = self.edit.concat(self._output_transform(products, self.activation), 2)
        whole = (1, self.tiling.rows, self.tiling.columns, self.kernel.shape[0])
        return self.edit.emit(Reshape(whole), y)

    def square(self, x: str, padding: Padding, *, mirrored: bool) -> str:
        """Filter along both axes: each product a convolution of one pixel."""
        rows = self._windows(1, padding.top, mirrored=mirrored)
        columns = self._windows(2, padding.left, mirrored=mirrored)
        lines = self._input_transform(x, rows)
        return self._tiles((self._input_transform(line, columns) for line in lines), self.kernel)

    def of_stride_2(self, x: str, padding: Padding) -> str:
        """Filter every second line and the ones between, whose products are summed as channels.

        Rows of a phase are read where they lie, by a larger stride. Columns side by side are read
        as channels of one pixel: of half as many, in the same memory.
        """
        above, left = _Phase.both(padding.top), _Phase.both(padding.left)
        tile, step = self.filter.outputs, 2 * self.filter.outputs
        kernel = np.concatenate(
            [self.kernel[:, a.taps][:, :, b.taps] for a in above for b in left], axis=3
        )
        rows = [
            Windows(1, step, self.tiling.rows // tile, -(2 * a.first + a.offset), apart=True)
            for a in above
        ]
        first = min(b.first for b in left)
        columns = Windows(2, tile, self.tiling.columns // tile, -first)
        _, _, width, channels = self.edit.shapes[x]

        def line(taps: Matrix, start: int, apart: int) -> Iterator[str]:
            sums = [phase.sums(self.edit, x, taps, 2 * start, 2 * apart) for phase in rows]
            pairs = Reshape((1, rows[0].count, width // 2, 2 * channels))
            paired = [self.edit.emit(pairs, value) for value in sums]
            for across in self._sums():
                side_by_side = _of_each(across, [b.first - first for b in left], channels)
                yield self.edit.emit(
                    Concat(3), *(columns.sums(self.edit, v, *side_by_side) for v in paired)
                )

        return self._tiles((line(*down) for down in self._sums()), kernel)

    def _tiles(self, lines: Iterator[Iterator[str]], kernel: FloatArray) -> str:
        """Return the picture whose transformed inputs are given, line by line of the tile."""
        g, shares = self.filter.kernel_matrix, self.filter.bias_shares
        rows_done = np.tensordot(g, kernel.astype(np.float64), (1, 1))  # (p, o, x, i)
        weights = np.tensordot(g, rows_done, (1, 2))  # (q, p, o, i)
        # Each line of products is summed at once, while it is still in the cache.
        by_line = [
            self._output_transform(
                [
                    self._product(v, weights[q, p][:, None, None], shares[p] * shares[q])
                    for q, v in enumerate(line)
                ],
                Activation.NONE,
            )
            for p, line in enumerate(lines)
        ]
        outputs, tile = kernel.shape[0], self.filter.outputs
        # Pixels side by side are a line of the tile; down the tile, whole lines are summed.
        across = [self.edit.concat(line, 3) for line in by_line]
        summed = self._output_transform(across, self.activation)
        if self.depth_to_space:
            return self.edit.emit(DepthToSpace(tile), self.edit.emit(Concat(3), *summed))
        whole = (1, self.tiling.rows, self.tiling.columns, outputs)
        return self.edit.emit(Reshape(whole), self.edit.concat(summed, 2))

    def _windows(self, axis: int, before: int, *, mirrored: bool = False) -> Windows:
        tile, size = self.filter.outputs, (self.tiling.rows, self.tiling.columns)[axis - 1]
        return Windows(axis, tile, size // tile, before, mirrored)

    def _product(
        self, x: str, weights: Matrix, share: float, padding: Padding | None = None
    ) -> str:
        constants = [self.edit.constant(weights, "weight")]
        if self.bias is not None:
            constants.append(self.edit.constant(self.bias.astype(np.float64) * share, "bias"))
        return self.edit.emit(Conv2d(padding=padding or Padding()), x, *constants)

    def _input_transform(self, x: str, windows: Windows) -> Iterator[str]:
        """Return B^T x along an axis of overlapping windows: `products` values a tile."""
        for taps, start, apart in self._sums():
            yield windows.sums(self.edit, x, taps, start, apart)

    def _sums(self) -> Iterator[tuple[Matrix, int, int]]:
        """Return the rows of B^T: their taps, the first one's line, and how far they are apart.

        With points in pairs, two lines apart at 0 and infinity, next to each other between.
        """
        for row in self.filter.input_matrix:
            lines = np.flatnonzero(row)
            first, apart = int(lines[0]), int(np.gcd.reduce(np.diff(lines))) or 1
            yield row[first : lines[-1] + 1 : apart], first, apart

    def _output_transform(self, m: list[str], activation: Activation) -> list[str]:
        """Return A^T m; a pair of points +-a contributes its sum or its difference.

        Even powers of a pair are equal and odd ones opposite, so output k of the pair is
        a^k (m+ + m-) or a^k (m+ - m-). A point 1 alone contributes to every output.
        """
        edit, pairs = self.edit, range(len(self.filter.pairs))
        sums = [edit.emit(Add(), m[2 * i + 1], m[2 * i + 2]) for i in pairs]
        differences = [edit.emit(Sub(), m[2 * i + 1], m[2 * i + 2]) for i in pairs]

        def output(k: int) -> str:
            terms = [
                self._times(value, self.filter.pairs[i] ** k)
                for i, value in enumerate(differences if k % 2 else sums)
            ]
            terms += [m[-2]] * self.filter.odd
            terms += [m[0]] * (k == 0) + [m[-1]] * (k == self.filter.outputs - 1)
            total = terms[0]
            for term in terms[1:-1]:
                total = edit.emit(Add(), total, term)
            if len(terms) > 1:
                return edit.emit(Add(activation), total, terms[-1])
            relu = activation is Activation.RELU
            return edit.emit(Relu(), total) if relu else total

        return [output(k) for k in range(self.filter.outputs)]

    def _times(self, value: str, factor: float) -> str:
        if factor == 1:
            return value
        return self.edit.emit(Mul(), value, self.edit.constant([factor], "factor"))
