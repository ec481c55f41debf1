"""Weighted sums over overlapping windows of lines, as depthwise convolutions that copy nothing.

Window t of an axis starts at line `stride * t - before`. What lies around the value is zeros, or
the value mirrored, as reflection padding of one line has it. Neither is joined to the value first:
zeros are a convolution's own padding, which XNNPACK's kernels skip, and of mirrored lines only the
first window and the last one know, each a small convolution with two taps on one line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coronet_deploy.export.graph import Edit
from coronet_deploy.export.operators import DepthwiseConv2d, Padding, Slice
from coronet_deploy.export.passes.minimal_filter import Matrix
from coronet_deploy.export.passes.zero_padding import same_lines

# XNNPACK has depthwise kernels of 3, 4, 9 and 25 taps. Up to 4, one more that is zero costs little;
# up to 9, less than a copy of the whole value, which no other window shares.
_FEW_TAPS, _MORE_TAPS = 4, 9


@dataclass(frozen=True)
class Windows:
    """`count` windows along `axis`, 1 for rows or 2 for columns, of a (1, H, W, C) value.

    Windows that reach over an end are computed apart where lines are mirrored, or if `apart`:
    XNNPACK takes no padding into a kernel whose stride is longer than its taps.
    """

    axis: int
    stride: int
    count: int
    before: int = 0
    mirrored: bool = False
    apart: bool = False

    def sums(self, edit: Edit, x: str, taps: Matrix, start: int, step: int) -> str:
        """Return, of each window, the sum of lines start, start + step, ... times `taps`.

        `taps` are (n,), or (n, C) if each channel has its own.
        """
        first, span = start - self.before, step * (len(taps) - 1) + 1
        size = edit.shapes[x][self.axis]
        if not self.mirrored and not self.apart:
            return self._inside(edit, x, taps, first, step, self.count)
        begins = [first + self.stride * i for i in range(self.count)]
        head = [begin for begin in begins if begin < 0]
        inner = [begin for begin in begins if 0 <= begin <= size - span]
        tail = begins[len(head) + len(inner) :]
        parts = [self._edge(edit, x, taps, begin, step) for begin in head]
        if inner:
            parts.append(self._inside(edit, x, taps, inner[0], step, len(inner)))
        parts += [self._edge(edit, x, taps, begin, step) for begin in tail]
        return edit.concat(parts, self.axis)

    def _inside(self, edit: Edit, x: str, taps: Matrix, first: int, step: int, count: int) -> str:
        """Return the sums of `count` windows whose first taps lie on line `first` and on."""
        size = edit.shapes[x][self.axis]
        if first > 0:
            finer = math.gcd(first, step)
            length = (first + step * (len(taps) - 1)) // finer + 1
            if length <= (_MORE_TAPS if self.mirrored or self.apart else _FEW_TAPS):
                dense = np.zeros((length, *taps.shape[1:]))
                dense[first // finer :: step // finer] = taps
                taps, step = dense, finer
            else:
                x = self._lines(edit, x, first, size - first)
                size -= first
            first = 0
        taps, step, first = _with_own_padding(taps, step, first, self.stride, count, size)
        over = first + self.stride * (count - 1) + step * (len(taps) - 1) + 1 - size
        return self._convolution(edit, x, taps, step, (-first, max(over, 0)))

    def _edge(self, edit: Edit, x: str, taps: Matrix, first: int, step: int) -> str:
        """Return the sum of one window, whose first tap lies on line `first`, over an end."""
        size = edit.shapes[x][self.axis]
        weights: dict[int, Matrix] = {}
        for i, tap in enumerate(taps):
            line = first + step * i
            if self.mirrored:
                line = min(abs(line), 2 * (size - 1) - abs(line))
            if 0 <= line < size:
                weights[line] = weights.get(line, 0) + tap
        weights = weights or {size - 1: np.zeros(taps.shape[1:])}
        begin, end = min(weights), max(weights) + 1
        step = step if len(weights) == len(range(begin, end, step)) else 1
        none = np.zeros(taps.shape[1:])
        kept = np.array([weights.get(line, none) for line in range(begin, end, step)])
        lines = self._lines(edit, x, begin, end - begin)
        return self._convolution(edit, lines, kept, step, (0, 0))

    def _convolution(
        self, edit: Edit, x: str, taps: Matrix, step: int, ends: tuple[int, int]
    ) -> str:
        rows, channels = self.axis == 1, edit.shapes[x][3]
        each = np.broadcast_to(taps.reshape(len(taps), -1), (len(taps), channels))
        op = DepthwiseConv2d(
            (self.stride, 1) if rows else (1, self.stride),
            Padding(*ends) if rows else Padding(0, 0, *ends),
            dilation=(step, 1) if rows else (1, step),
        )
        kernel = each[None, :, None] if rows else each[None, None]
        return edit.emit(op, x, edit.constant(kernel, "transform"))

    def _lines(self, edit: Edit, x: str, first: int, count: int) -> str:
        begin, size = [0, 0, 0, 0], list(edit.shapes[x])
        begin[self.axis], size[self.axis] = first, count
        return edit.emit(Slice(tuple(begin), tuple(size)), x)


def _with_own_padding(
    taps: Matrix, step: int, first: int, stride: int, count: int, size: int
) -> tuple[Matrix, int, int]:
    """Return taps, step and first line with zeros around the taps, so that TFLite pads by itself.

    Of an odd number of lines that SAME adds, the larger half comes last. Where windows reach over
    the ends otherwise, a tap of zero before or behind may make them; else all stays as it is.
    """
    if first == 0 and stride * (count - 1) + step * (len(taps) - 1) < size:
        return taps, step, first
    dense = np.zeros((step * (len(taps) - 1) + 1, *taps.shape[1:]))
    dense[::step] = taps
    for form, apart in ((taps, step), (dense, 1)):
        for more in range(_FEW_TAPS + 1 - len(form)):
            for ahead in range(more + 1):
                begin, span = first - apart * ahead, apart * (len(form) + more - 1) + 1
                before, after = same_lines(size, span, stride)
                ends = begin + stride * (count - 1) + span - size
                if -(-size // stride) == count and (-begin, max(ends, 0)) == (before, after):
                    around = [(ahead, more - ahead), *[(0, 0)] * (form.ndim - 1)]
                    return np.pad(form, around), apart, begin
    return taps, step, first
