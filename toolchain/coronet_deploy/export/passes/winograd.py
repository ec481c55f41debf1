"""Winograd's minimal filtering for 3x3 convolutions, as operators of the graph.

Four outputs of a 3-tap filter cost six multiplications instead of twelve: y = A^T [(G w) * (B^T x)]
(Lavin & Gray 2016, arXiv 1509.09308). Along both axes, F(4x4, 3x3), 36 products replace 144; along
the width alone, F(4, 3), 6 replace 12.

In operators: rows of B^T are depthwise convolutions of stride 4 with constant kernels; each product
is a convolution with weights G w, computed here in float64; A^T is sums and differences; four
results side by side are four pixels. On one core that beats a runtime's own 3x3 convolution from
some 20 channels on; the weights grow by 36/9 or 18/9.

The polynomials are interpolated at 0, a, -a, b, -b and infinity. With a = 5/8 and b = 3/2 rounding
errors, of float16 weights above all, are 6 dB below those of the customary 1 and 2 (Barabasz et
al. 2018, arXiv 1803.10986, explain why), and every coefficient of A and B is exact in float16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from coronet_deploy.export.graph import Edit, FloatArray, Node
from coronet_deploy.export.operators import (
    Activation,
    Add,
    Conv2d,
    DepthwiseConv2d,
    Mul,
    Padding,
    Reshape,
    Slice,
    Sub,
    ZeroPad,
)
from coronet_deploy.export.passes.rewriting import Rewrite

_OUTPUTS = 4  # per application of the filter
_PRODUCTS = 6
_TAPS = 3

_A, _B = 5 / 8, 3 / 2
_AA, _BB = _A * _A, _B * _B

_INPUT = np.array(  # B^T
    [
        [_AA * _BB, 0, -_AA - _BB, 0, 1, 0],
        [0, -_A * _BB, -_BB, _A, 1, 0],
        [0, _A * _BB, -_BB, -_A, 1, 0],
        [0, -_B * _AA, -_AA, _B, 1, 0],
        [0, _B * _AA, -_AA, -_B, 1, 0],
        [0, _AA * _BB, 0, -_AA - _BB, 0, 1],
    ]
)
_KERNEL = np.array(  # G
    [
        [1 / (_AA * _BB), 0, 0],
        *([p / (2 * _AA * (_AA - _BB)) for p in (1, a, _AA)] for a in (_A, -_A)),
        *([p / (2 * _BB * (_BB - _AA)) for p in (1, b, _BB)] for b in (_B, -_B)),
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(  # A^T
    [
        [1, 1, 1, 1, 1, 0],
        [0, _A, -_A, _B, -_B, 0],
        [0, _AA, _AA, _BB, _BB, 0],
        [0, _A * _AA, -_A * _AA, _B * _BB, -_B * _BB, 1],
    ]
)
# How much of a bias each product carries, so that every output gets it once: A^T of it is ones.
_BIAS = np.linalg.pinv(_OUTPUT) @ np.ones(_OUTPUTS)

# Below these geometric means of input and output channels the transforms cost more than they
# save; measured on one layer at 64 x 64, beside XNNPACK's 3x3 convolution.
_CHANNELS_1D = 20
_CHANNELS_2D = 44


@dataclass(frozen=True)
class Tiling:
    """How a convolution's output is cut: two-dimensional or along the width, padded to fours."""

    square: bool
    rows: int
    columns: int


def choose_tiling(inputs: int, outputs: int, height: int, width: int) -> Tiling | None:
    """Return how a 3x3 convolution to (height, width, outputs) pays best; None to leave it.

    Pixels that only fill the last fours are counted against the saving.
    """
    channels = math.sqrt(inputs * outputs)
    rows, columns = (-(-n // _OUTPUTS) * _OUTPUTS for n in (height, width))
    if channels < _CHANNELS_1D:
        return None
    square, line = rows * columns / 4, height * columns / 2
    if channels >= _CHANNELS_2D and square <= min(line, height * width / 2):
        return Tiling(square=True, rows=rows, columns=columns)
    if line <= height * width * 0.75:
        return Tiling(square=False, rows=height, columns=columns)
    return None


class Winograd(Rewrite):
    """Replaces 3x3 convolutions of stride 1 that are wide enough (see `choose_tiling`)."""

    name: ClassVar[str] = "winograd"

    def visit(self, edit: Edit, node: Node) -> str | None:
        """Return the same convolution by fewer products."""
        op = node.op
        if not isinstance(op, Conv2d) or op.stride != (1, 1):
            return None
        x, weight, *biases = node.inputs
        kernel = edit.constants[weight]
        if kernel.shape[1:3] != (_TAPS, _TAPS):
            return None
        _, height, width, outputs = op.infer(edit.shapes[x], kernel.shape)
        tiling = choose_tiling(kernel.shape[3], outputs, height, width)
        if tiling is None:
            return None
        spare = Padding(bottom=tiling.rows - height, right=tiling.columns - width)
        padding = replace(
            op.padding,
            bottom=op.padding.bottom + spare.bottom,
            right=op.padding.right + spare.right,
        )
        if padding:
            x = edit.emit(ZeroPad(padding), x)
        bias = edit.constants[biases[0]] if biases else None
        filtered = _square if tiling.square else _line
        y = filtered(edit, x, kernel, bias, op.activation)
        if spare:
            y = edit.emit(Slice((0, 0, 0, 0), (1, height, width, outputs)), y)
        return y


def _line(
    edit: Edit, x: str, kernel: FloatArray, bias: FloatArray | None, activation: Activation
) -> str:
    """F(4, 3) along the width: six convolutions of three rows and one column."""
    weights = np.einsum("pk,oyki->poyi", _KERNEL, kernel.astype(np.float64))
    products = [
        _convolution(edit, v, weights[p][:, :, None], bias, _BIAS[p])
        for p, v in enumerate(_input_transform(edit, x, axis=2))
    ]
    _, height, columns, outputs = edit.shapes[products[0]]
    y = edit.concat(_output_transform(edit, products, activation), 3)
    return edit.emit(Reshape((1, height, _OUTPUTS * columns, outputs)), y)


def _square(
    edit: Edit, x: str, kernel: FloatArray, bias: FloatArray | None, activation: Activation
) -> str:
    """F(4x4, 3x3): thirty-six convolutions of one pixel, one a product."""
    weights = np.einsum("py,qk,oyki->pqoi", _KERNEL, _KERNEL, kernel.astype(np.float64))
    products = [
        [
            _convolution(edit, v, weights[p, q][:, None, None], bias, _BIAS[p] * _BIAS[q])
            for q, v in enumerate(_input_transform(edit, line, axis=2))
        ]
        for p, line in enumerate(_input_transform(edit, x, axis=1))
    ]
    _, rows, columns, outputs = edit.shapes[products[0][0]]
    # Down the columns first: by_column[q][a] holds output row a of each tile.
    by_column = [
        _output_transform(edit, [line[q] for line in products], Activation.NONE)
        for q in range(_PRODUCTS)
    ]
    lines = []
    for a in range(_OUTPUTS):
        pixels = _output_transform(edit, [phases[a] for phases in by_column], activation)
        flat = Reshape((1, rows, 1, _OUTPUTS * columns * outputs))
        lines.append(edit.emit(flat, edit.concat(pixels, 3)))
    whole = Reshape((1, _OUTPUTS * rows, _OUTPUTS * columns, outputs))
    return edit.emit(whole, edit.concat(lines, 2))


def _convolution(
    edit: Edit,
    x: str,
    weights: npt.NDArray[np.float64],
    bias: FloatArray | None,
    share: float,
) -> str:
    constants = [edit.constant(weights, "weight")]
    if bias is not None:
        constants.append(edit.constant(bias.astype(np.float64) * share, "bias"))
    return edit.emit(Conv2d(), x, *constants)


def _input_transform(edit: Edit, x: str, *, axis: int) -> list[str]:
    """Return B^T x along an axis of overlapping sixes: six values of a quarter of the lines.

    No row of B^T has more than four taps: the first and the last have three, two apart, the others
    four in a row. Kernels of three and of four taps are the fastest that XNNPACK has, so the input
    is cut once by a line, to let four of them and the last start where their taps do.
    """
    shape = edit.shapes[x]
    begin, size = [0, 0, 0, 0], list(shape)
    begin[axis], size[axis] = 1, shape[axis] - 1
    shifted = edit.emit(Slice(tuple(begin), tuple(size)), x)

    def row(source: str, taps: npt.NDArray[np.float64], apart: int) -> str:
        lengths = (1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1)
        stride, dilation = (((n, 1) if axis == 1 else (1, n)) for n in (_OUTPUTS, apart))
        kernel = np.repeat(taps.reshape(lengths), shape[3], axis=3)
        weight = edit.constant(kernel, "transform")
        return edit.emit(DepthwiseConv2d(stride, dilation=dilation), source, weight)

    first, *middle, last = _INPUT
    return [
        row(x, first[0:5:2], 2),
        *(row(shifted, taps[1:5], 1) for taps in middle),
        row(shifted, last[1:6:2], 2),
    ]


def _output_transform(edit: Edit, m: list[str], activation: Activation) -> list[str]:
    """Return A^T m; the pairs of points +-a and +-b share a sum and a difference each."""
    p, q = edit.emit(Add(), m[1], m[2]), edit.emit(Sub(), m[1], m[2])
    r, t = edit.emit(Add(), m[3], m[4]), edit.emit(Sub(), m[3], m[4])

    def mixed(x: str, y: str, row: int, last: Activation) -> str:
        """Return what points +a and +b contribute to output `row`."""
        left, right = (edit.constant([_OUTPUT[row, i]], "factor") for i in (1, 3))
        return edit.emit(Add(last), edit.emit(Mul(), x, left), edit.emit(Mul(), y, right))

    inner = Activation.NONE
    return [
        edit.emit(Add(activation), edit.emit(Add(), p, r), m[0]),
        mixed(q, t, 1, activation),
        mixed(p, r, 2, activation),
        edit.emit(Add(activation), mixed(q, t, 3, inner), m[5]),
    ]
