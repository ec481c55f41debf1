"""From numbers in any order whose places are sums of digits' to a value that has them so.

A view, a permutation and a reshape take axes apart and put them together anew; each axis of what
comes of it counts through digits, each of which steps through the value by a number of its own. So
windows of a picture, heads of attention and matrices turned are one `Permute` of the value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.permuting import Permute, PickChannels

_RANK = 4
_NHWC = (0, 2, 3, 1)  # where an axis of NHWC is found in NCHW
_Digit = tuple[int, int]  # its step, and how many there are


def permuted(to: Builder, value: str, index: Tensor) -> str | None:
    """Return the value that has the numbers of `value` at `index`, (N, C, H, W), if one has.

    It may have a part of them: channels, lines and columns next to each other, or any channels.
    """
    found = cut(to, value, index) or some_channels(to, value, index)
    if found is None:
        return None
    value, index = found
    axes = _digits_of(index)
    if axes is None:
        return None
    _, height, width, channels = to.shapes[value]
    bounds = [width, height * width, channels * height * width]
    split = [[part for digit in axis for part in _split(digit, bounds)] for axis in axes]
    digits = sorted(digit for axis in split for digit in axis)
    step = 1
    for digit in digits:
        if digit[0] != step:
            return None
        step *= digit[1]
    if step != math.prod(to.shapes[value]):
        return None
    return _emitted(to, value, split, [1, *bounds])


def tiled(to: Builder, value: str, index: Tensor) -> str | None:
    """Return what is `permuted` and then repeated along axes, if `index` (1, C, H, W) is such."""
    times = [1] * _RANK
    for axis in range(1, _RANK):
        whole = index.shape[axis]
        for length in range(1, whole):
            if whole % length == 0 and _repeats(index, axis, length):
                times[axis], index = whole // length, index.narrow(axis, 0, length)
                break
    found = permuted(to, value, index)
    if found is None:
        return None
    for axis, count in enumerate(times):
        found = to.concat([found] * count, _NHWC.index(axis)) if count > 1 else found
    return found


def _repeats(index: Tensor, axis: int, length: int) -> bool:
    """Return whether numbers come again after so many along an axis."""
    whole = index.shape[axis]
    first, again = (index.narrow(axis, start, whole - length) for start in (0, length))
    return torch.equal(first[0, 0, 0, :1], again[0, 0, 0, :1]) and torch.equal(first, again)


def cut(to: Builder, value: str, index: Tensor) -> tuple[str, Tensor] | None:
    """Return the part of `value` that `index` has all of, and where its numbers stand there."""
    n, height, width, channels = to.shapes[value]
    if index.numel() == n * height * width * channels:
        return value, index
    pixels, first, last = height * width, int(index.min()), int(index.max()) + 1
    if n == 1 and last - first == index.numel() and not (first % pixels or last % pixels):
        some = 1, height, width, (last - first) // pixels
        return _block(to, value, (0, 0, 0, first // pixels), some), index - first
    sizes = n, channels, height, width
    places = torch.unravel_index(index, sizes)
    starts = [int(place.min()) for place in places]
    size = [int(place.max()) + 1 - start for place, start in zip(places, starts, strict=True)]
    if math.prod(size) != index.numel():
        return None
    begin, block = (tuple(of[axis] for axis in _NHWC) for of in (starts, size))
    inside = torch.zeros_like(index)
    for place, start, count in zip(places, starts, size, strict=True):
        inside = inside * count + (place - start)
    return _block(to, value, begin, block), inside


def some_channels(to: Builder, value: str, index: Tensor) -> tuple[str, Tensor] | None:
    """Return those channels of `value` of which `index` has all, and where its numbers stand there.

    As parts of each of several heads are.
    """
    n, height, width, _ = to.shapes[value]
    of, within = (index // (height * width)).contiguous(), index % (height * width)
    channels = torch.unique(of)
    if n > 1 or len(channels) * height * width != index.numel():
        return None
    some = to.emit(PickChannels(tuple(channels.tolist())), value)
    return some, torch.searchsorted(channels, of) * (height * width) + within


def _block(to: Builder, value: str, begin: ops.Shape, size: ops.Shape) -> str:
    """Return a part of `value`: what it was joined of, if that is one of these."""
    maker = to.producer(value)
    if maker is not None and isinstance(maker.op, ops.Concat):
        axis, first = maker.op.axis, 0
        for part in maker.inputs:
            reach = to.shapes[part][axis]
            if first <= begin[axis] and begin[axis] + size[axis] <= first + reach:
                within = tuple(b - first * (a == axis) for a, b in enumerate(begin))
                return _block(to, part, within, size)
            first += reach
    if size == to.shapes[value]:
        return value
    return to.emit(ops.Slice(begin, size), value)


def _digits_of(index: Tensor) -> list[list[_Digit]] | None:
    """Return the digits of each axis, the slowest first, if places are the sum of all axes'."""
    lines = [
        index[tuple(slice(None) if a == axis else slice(0, 1) for a in range(_RANK))]
        for axis in range(_RANK)
    ]
    if not torch.equal(index, lines[0] + lines[1] + lines[2] + lines[3]) or int(
        lines[0].flatten()[0]
    ):
        return None
    digits = [_digits(line.flatten()) for line in lines]
    return None if None in digits else digits  # type: ignore[return-value]


def _digits(line: Tensor) -> list[_Digit] | None:
    found: list[_Digit] = []
    while len(line) > 1:
        step = int(line[1])
        as_if = torch.arange(len(line)) * step
        unlike = (line != as_if).nonzero()
        count = int(unlike[0]) if len(unlike) else len(line)
        if step <= 0 or len(line) % count:
            return None
        rows = line.reshape(-1, count)
        if not torch.equal(rows, rows[:, :1] + as_if[:count]):
            return None
        found.insert(0, (step, count))
        line = rows[:, 0]
    return found


def _split(digit: _Digit, bounds: list[int]) -> list[_Digit]:
    """Return a digit as those of single axes, the slowest first, where it goes over several."""
    step, count = digit
    parts = []
    for bound in bounds:
        if step < bound < step * count and not (bound % step or step * count % bound):
            parts.append((step, bound // step))
            step, count = bound, step * count // bound
    return [*reversed([*parts, (step, count)])]


def _emitted(to: Builder, value: str, axes: list[list[_Digit]], begins: list[int]) -> str | None:
    """Return the value whose axes, NCHW, are of `axes`' digits; an axis of `value` has its own."""
    # Of W, H, C and N, which is where an axis begins among the steps.
    owners = [
        sorted(d for axis in axes for d in axis if lo <= d[0] and (hi is None or d[0] < hi))[::-1]
        for lo, hi in zip(begins, [*begins[1:], None], strict=True)
    ]
    width, height, channels, n = owners
    lying = [n, height, width, channels]
    if [math.prod(d[1] for d in axis) for axis in lying] != list(to.shapes[value]):
        return None
    number = {digit: i for i, digit in enumerate(d for axis in lying for d in axis)}
    factors = tuple(tuple(d[1] for d in axis) for axis in lying)
    order = tuple(tuple(number[d] for d in axes[axis]) for axis in _NHWC)
    op = Permute(factors, order)
    shape = op.infer(to.shapes[value])
    if len(op.transposed(range(_RANK))[1]) <= 1:
        return value if shape == to.shapes[value] else to.emit(ops.Reshape(shape), value)
    return to.emit(op, value)
