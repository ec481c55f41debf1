"""Winograd's minimal filtering for convolutions of 3x3 and 2x2 taps, as operators of the graph.

Along both axes, F(4x4, 3x3) needs 36 products instead of 144 and F(3x3, 2x2) 16 instead of 36;
along the width alone, F(4, 3) needs 6 instead of 12. See `minimal_filter` for the algebra.

In operators: rows of B^T are depthwise convolutions with constant kernels, whose stride is the
number of outputs; each product is a convolution with weights G w, computed here in float64; A^T is
sums and differences; results side by side are pixels. Beside a runtime's own convolution that
pays from some 20 channels on. The weights grow: by 4 in two dimensions, by 2 along the width.
"""

from __future__ import annotations

import math
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
from coronet_deploy.export.passes.minimal_filter import F32, F43, Matrix, MinimalFilter
from coronet_deploy.export.passes.rewriting import Rewrite
from coronet_deploy.export.passes.windows import Windows


@dataclass(frozen=True)
class Widths:
    """From how many channels each filter pays: the geometric mean of a layer's inputs and outputs.

    Below, the transforms cost more than they save; measured on one and two threads. In two
    dimensions a layer is nearly 200 small operations, at each of which threads wait for each other.
    """

    square_3: float
    line_3: float
    square_2: float


XNNPACK = Widths(square_3=56, line_3=20, square_2=64)
ONNX_RUNTIME = Widths(square_3=150, line_3=math.inf, square_2=math.inf)
# With fewer tiles in two dimensions, reading the larger weights takes what the products save.
_FEWEST_TILES = 24


@dataclass(frozen=True)
class Tiling:
    """How a convolution's output is cut: by which filter, along both axes or the width alone.

    `rows` and `columns` are the output's size, padded to whole tiles.
    """

    filter: MinimalFilter
    square: bool
    rows: int
    columns: int


def choose_tiling(
    taps: int, inputs: int, outputs: int, height: int, width: int, widths: Widths = XNNPACK
) -> Tiling | None:
    """Return how a convolution of taps x taps to (height, width, outputs) pays best, if it does.

    Pixels that only fill the last tiles are counted against the saving.
    """
    channels, pixels = math.sqrt(inputs * outputs), height * width
    if taps == F43.taps:
        rows, columns = (_whole(n, F43.outputs) for n in (height, width))
        square, line = rows * columns / 4, height * columns / 2
        wide = channels >= widths.square_3 and rows * columns >= _FEWEST_TILES * 16
        if wide and square <= min(line, pixels / 2):
            return Tiling(F43, square=True, rows=rows, columns=columns)
        if channels >= widths.line_3 and line <= pixels * 0.75:
            return Tiling(F43, square=False, rows=height, columns=columns)
    if taps == F32.taps and channels >= widths.square_2:
        rows, columns = (_whole(n, F32.outputs) for n in (height, width))
        if rows * columns >= _FEWEST_TILES * 9 and rows * columns * 4 / 9 <= pixels * 0.6:
            return Tiling(F32, square=True, rows=rows, columns=columns)
    return None


def _whole(lines: int, tile: int) -> int:
    return -(-lines // tile) * tile


class Winograd(Rewrite):
    """Replaces square convolutions of stride 1 that are wide enough (see `choose_tiling`)."""

    name: ClassVar[str] = "winograd"

    def __init__(self, widths: Widths = XNNPACK, *, depth_to_space: bool = False) -> None:
        self._widths = widths
        self._depth_to_space = depth_to_space  # whether the runtime is quick at interleaving

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the same convolution by fewer products."""
        op = node.op
        if not isinstance(op, Conv2d) or op.stride != (1, 1):
            return None
        x, weight, *biases = node.inputs
        kernel = edit.constants[weight]
        outputs, taps, across, inputs = kernel.shape
        _, height, width, _ = op.infer(edit.shapes[x], kernel.shape)
        if taps != across:
            return None
        tiling = choose_tiling(taps, inputs, outputs, height, width, self._widths)
        if tiling is None:
            return None
        x, padding, mirrored = _without_mirrors(edit, x, op.padding, tiling)
        bias = edit.constants[biases[0]] if biases else None
        layer = _Layer(edit, tiling, kernel, bias, op.activation, self._depth_to_space)
        draw = layer.square if tiling.square else layer.line
        y = draw(x, padding, mirrored=mirrored)
        if (tiling.rows, tiling.columns) != (height, width):
            y = edit.emit(Slice((0, 0, 0, 0), (1, height, width, outputs)), y)
        return y


def _without_mirrors(
    edit: Edit, x: str, padding: Padding, tiling: Tiling
) -> tuple[str, Padding, bool]:
    """Return what is convolved, its padding, and whether that is the value mirrored.

    The reflection padding before a convolution is taken into it where tiles are whole, so that
    only the first tile and the last one of an axis read mirrored lines.
    """
    maker = edit.producer(x)
    if padding or not tiling.square or maker is None or not isinstance(maker.op, ReflectPad):
        return x, padding, False
    source, tile, around = maker.inputs[0], tiling.filter.outputs, maker.op.padding
    _, height, width, _ = edit.shapes[source]
    whole = (height, width) == (tiling.rows, tiling.columns) and min(height, width) > tile
    if whole and around == Padding(1, 1, 1, 1) and tiling.filter.taps == F43.taps:
        return source, around, True
    return x, padding, False


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
        """Filter along the width: each product a convolution of `taps` rows and one column."""
        g, shares = self.filter.kernel_matrix, self.filter.bias_shares
        weights = np.tensordot(g, self.kernel.astype(np.float64), (1, 2))  # (p, o, y, i)
        columns = self._windows(2, padding.left, mirrored=mirrored)
        above = Padding(padding.top, padding.bottom)
        products = [
            self._product(v, weights[p][:, :, None], shares[p], above)
            for p, v in enumerate(self._input_transform(x, columns))
        ]
        y = self.edit.concat(self._output_transform(products, self.activation), 3)
        whole = (1, self.tiling.rows, self.tiling.columns, self.kernel.shape[0])
        return self.edit.emit(Reshape(whole), y)

    def square(self, x: str, padding: Padding, *, mirrored: bool) -> str:
        """Filter along both axes: each product a convolution of one pixel."""
        g, shares = self.filter.kernel_matrix, self.filter.bias_shares
        rows_done = np.tensordot(g, self.kernel.astype(np.float64), (1, 1))  # (p, o, x, i)
        weights = np.tensordot(g, rows_done, (1, 2))  # (q, p, o, i)
        rows = self._windows(1, padding.top, mirrored=mirrored)
        columns = self._windows(2, padding.left, mirrored=mirrored)
        # Each line of products is summed at once, while it is still in the cache.
        by_line = [
            self._output_transform(
                [
                    self._product(v, weights[q, p][:, None, None], shares[p] * shares[q])
                    for q, v in enumerate(self._input_transform(line, columns))
                ],
                Activation.NONE,
            )
            for p, line in enumerate(self._input_transform(x, rows))
        ]
        outputs, tile = self.kernel.shape[0], self.filter.outputs
        # Pixels side by side are a line of the tile; down the tile, whole lines are summed.
        across = [self.edit.concat(line, 3) for line in by_line]
        lines = self._output_transform(across, self.activation)
        if self.depth_to_space:
            return self.edit.emit(DepthToSpace(tile), self.edit.emit(Concat(3), *lines))
        height, width = self.tiling.rows, self.tiling.columns
        flat = [self.edit.emit(Reshape((1, rows.count, 1, width * outputs)), y) for y in lines]
        whole = Reshape((1, height, width, outputs))
        return self.edit.emit(whole, self.edit.concat(flat, 2))

    def _windows(self, axis: int, before: int, *, mirrored: bool) -> Windows:
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
        """Return B^T x along an axis of overlapping windows: `products` values a tile.

        A row's taps lie two apart at 0 and infinity, and next to each other between; they start
        at the window's first line in the first row only, at its second in the others.
        """
        end = self.filter.products - 1
        first, *middle, last = self.filter.input_matrix
        yield windows.sums(self.edit, x, first[0:end:2], 0, 2)
        for taps in middle:
            yield windows.sums(self.edit, x, taps[1:end], 1, 1)
        yield windows.sums(self.edit, x, last[1 : end + 1 : 2], 1, 2)

    def _output_transform(self, m: list[str], activation: Activation) -> list[str]:
        """Return A^T m; a pair of points +-a contributes its sum or its difference.

        Even powers of a pair are equal and odd ones opposite, so output k of the pair is
        a^k (m+ + m-) or a^k (m+ - m-).
        """
        edit, pairs = self.edit, range(len(self.filter.pairs))
        sums = [edit.emit(Add(), m[2 * i + 1], m[2 * i + 2]) for i in pairs]
        differences = [edit.emit(Sub(), m[2 * i + 1], m[2 * i + 2]) for i in pairs]

        def output(k: int) -> str:
            terms = [
                self._times(value, self.filter.pairs[i] ** k)
                for i, value in enumerate(differences if k % 2 else sums)
            ]
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
