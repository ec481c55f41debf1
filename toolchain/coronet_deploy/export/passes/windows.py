"""Weighted sums over overlapping windows of lines, as depthwise convolutions that copy nothing.

Window t of an axis starts at line `stride * t - before`. What lies around the value is zeros, or
the value mirrored, as reflection padding of one line has it. Neither is joined to the value first:
zeros are a convolution's own padding, which XNNPACK's kernels skip, and of mirrored lines only the
first window and the last one know, each a small convolution with two taps on one line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from coronet_deploy.export.graph import Edit
from coronet_deploy.export.operators import DepthwiseConv2d, Padding, Slice
from coronet_deploy.export.passes.minimal_filter import Matrix

# XNNPACK has depthwise kernels of 3, 4, 9 and 25 taps: up to 4, one more that is zero costs little.
_FEW_TAPS = 4


@dataclass(frozen=True)
class Windows:
    """`count` windows along `axis`, 1 for rows or 2 for columns, of a (1, H, W, C) value."""

    axis: int
    stride: int
    count: int
    before: int = 0
    mirrored: bool = False

    def sums(self, edit: Edit, x: str, taps: Matrix, start: int, apart: int) -> str:
        """Return, of each window, the sum of lines start, start + apart, ... times `taps`."""
        first, span = start - self.before, apart * (len(taps) - 1) + 1
        size = edit.shapes[x][self.axis]
        if not self.mirrored:
            return self._padded(edit, x, taps, first, apart, self.count)
        parts, inner = [], range(self.count)
        if first < 0:
            parts.append(self._mirrored(edit, x, taps, first, apart))
            inner = inner[1:]
        last = first + self.stride * (self.count - 1)
        reaches_over = last + span > size
        inner = inner[:-1] if reaches_over else inner
        if inner:
            begin = first + self.stride * inner[0]
            parts.append(self._padded(edit, x, taps, begin, apart, len(inner)))
        if reaches_over:
            parts.append(self._mirrored(edit, x, taps, last, apart))
        return edit.concat(parts, self.axis)

    def _padded(self, edit: Edit, x: str, taps: Matrix, first: int, apart: int, count: int) -> str:
        """Return the sums of `count` windows whose first taps lie on line `first` and on."""
        size = edit.shapes[x][self.axis]
        if first > 0:
            dense = np.zeros((len(taps) - 1) * apart + 1)
            dense[::apart] = taps
            if first + len(dense) <= _FEW_TAPS or self.mirrored:
                taps, apart = np.concatenate([np.zeros(first), dense]), 1
            else:
                x = self._lines(edit, x, first, size - first)
                size -= first
            first = 0
        over = first + self.stride * (count - 1) + apart * (len(taps) - 1) + 1 - size
        ends = -first, max(over, 0)
        return self._convolution(edit, x, taps, apart, ends)

    def _mirrored(self, edit: Edit, x: str, taps: Matrix, first: int, apart: int) -> str:
        """Return the sum of the one window whose first tap lies on line `first`."""
        size = edit.shapes[x][self.axis]
        weights: Counter[int] = Counter()
        for i, tap in enumerate(taps):
            line = abs(first + apart * i)
            weights[min(line, 2 * (size - 1) - line)] += tap
        begin, end = min(weights), max(weights) + 1
        dense = np.array([weights[line] for line in range(begin, end)], np.float64)
        lines = self._lines(edit, x, begin, end - begin)
        step = apart if len(weights) == len(range(begin, end, apart)) else 1
        return self._convolution(edit, lines, dense[::step], step, (0, 0))

    def _convolution(
        self, edit: Edit, x: str, taps: Matrix, apart: int, ends: tuple[int, int]
    ) -> str:
        rows = self.axis == 1
        kernel = np.repeat(
            taps.reshape((1, -1, 1, 1) if rows else (1, 1, -1, 1)), edit.shapes[x][3], axis=3
        )
        op = DepthwiseConv2d(
            (self.stride, 1) if rows else (1, self.stride),
            Padding(*ends) if rows else Padding(0, 0, *ends),
            dilation=(apart, 1) if rows else (1, apart),
        )
        return edit.emit(op, x, edit.constant(kernel, "transform"))

    def _lines(self, edit: Edit, x: str, first: int, count: int) -> str:
        begin, size = [0, 0, 0, 0], list(edit.shapes[x])
        begin[self.axis], size[self.axis] = first, count
        return edit.emit(Slice(tuple(begin), tuple(size)), x)
