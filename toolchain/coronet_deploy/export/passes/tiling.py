"""How a convolution is cut into tiles for Winograd's minimal filtering, where that pays.

By how many channels, how many tiles and how many weights: below, the transforms cost more than the
products they save, or reading the weights does. All of it was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coronet_deploy.export.passes.minimal_filter import F22, F32, F43, MinimalFilter


@dataclass(frozen=True)
class Widths:
    """From how many channels each filter pays: the geometric mean of a layer's inputs and outputs.

    Of stride 2, all four phases of the inputs count; where F(2x2, 2x2) is the better filter, whose
    tiles are few or small, it pays from `small_stride_2` on.

    Below, the transforms cost more than they save; measured on one and two threads. In two
    dimensions a layer is nearly 200 small operations, at each of which threads wait for each other:
    at 64 channels, one dimension takes 1.06 of the time on one thread and 0.87 on two.
    """

    square_3: float
    line_3: float
    square_2: float
    stride_2: float
    small_stride_2: float


XNNPACK = Widths(square_3=62, line_3=20, square_2=64, stride_2=150, small_stride_2=250)
ONNX_RUNTIME = Widths(150, *4 * [math.inf])
_ANY_WIDTH = Widths(*5 * [0])
# With fewer tiles in two dimensions, reading the larger weights takes what the products save;
# of stride 2, where the weights are four times as many beforehand, sooner.
_FEWEST_TILES, _FEWEST_TILES_OF_STRIDE_2 = 24, 64
# Pixels that a matrix kernel computes at once; as many as it computes while it reads the weights.
_ROW, _ROWS_TO_READ = 6, 11


@dataclass(frozen=True)
class Tiling:
    """How a convolution's output is cut: by which filter, along both axes or the height alone.

    `rows` and `columns` are the output's size, padded to whole tiles.
    """

    filter: MinimalFilter
    square: bool
    rows: int
    columns: int

    @classmethod
    def of(cls, square: MinimalFilter, height: int, width: int) -> Tiling:
        """Return whole tiles along both axes."""
        rows, columns = (_whole(lines, square.outputs) for lines in (height, width))
        return cls(square, square=True, rows=rows, columns=columns)

    @property
    def count(self) -> int:
        """Tiles in two dimensions."""
        return self.rows * self.columns // self.filter.outputs**2

    @property
    def products(self) -> int:
        """Products of an input and an output channel in two dimensions."""
        return self.filter.products**2 * self.count

    @property
    def work(self) -> int:
        """How long they take: matrices of whole rows, whose weights are read from memory first."""
        return self.filter.products**2 * (_whole(self.count, _ROW) + _ROWS_TO_READ)


def choose_tiling(
    taps: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    widths: Widths = XNNPACK,
    f43: MinimalFilter = F43,
    fewest: int = _FEWEST_TILES,
) -> Tiling | None:
    """Return how a convolution of taps x taps to (height, width, outputs) pays best, if it does.

    Pixels that only fill the last tiles are counted against the saving, and tiles in two dimensions
    are `fewest` or more. Three taps are filtered by `f43`.
    """
    channels, pixels = math.sqrt(inputs * outputs), height * width
    if taps == f43.taps:
        tiling = Tiling.of(f43, height, width)
        rows, columns = tiling.rows, tiling.columns
        square, line = rows * columns / 4, rows * width / 2
        wide = channels >= widths.square_3 and tiling.count >= fewest
        if wide and square <= min(line, pixels / 2):
            return tiling
        if channels >= widths.line_3 and line <= pixels * 0.75:
            return Tiling(f43, square=False, rows=rows, columns=width)
    if taps == F32.taps and channels >= widths.square_2:
        tilings = [Tiling.of(two, height, width) for two in (F32, F22)]
        paying = [
            tiling
            for tiling in tilings
            if tiling.count >= fewest and tiling.products <= 4 * pixels * 0.6
        ]
        return min(paying, key=lambda tiling: tiling.work, default=None)
    return None


def choose_phase_tiling(
    inputs: int, outputs: int, height: int, width: int, widths: Widths
) -> Tiling | None:
    """Return how a convolution of 4x4 taps and stride 2 pays best by its phases, if it does."""
    channels, fewest = (4 * inputs, outputs), _FEWEST_TILES_OF_STRIDE_2
    tiling = choose_tiling(F32.taps, *channels, height, width, _ANY_WIDTH, fewest=fewest)
    if tiling is None:
        return None
    least = widths.small_stride_2 if tiling.filter is F22 else widths.stride_2
    return tiling if math.sqrt(math.prod(channels)) >= least else None


def _whole(lines: int, tile: int) -> int:
    return -(-lines // tile) * tile
