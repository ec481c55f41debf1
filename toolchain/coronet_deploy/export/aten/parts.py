"""Operators of torch that take tensors apart, and put them together, along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.resized import picked
from coronet_deploy.export.aten.settled import reordered
from coronet_deploy.export.aten.translation import Refused, Translation

_NCHW_TO_NHWC = (0, 3, 1, 2)  # where an NCHW axis is found in NHWC
_RANK, _CHANNEL = 4, 3
_MOST_CONCATENATED = 5  # by which XNNPACK takes a concatenation


def _axis(t: Translation, tensor: fx.Node, dim: int) -> int:
    """Return the axis of a value, NHWC, that torch's `dim` of `tensor` is."""
    shape = tuple(tensor.meta["val"].shape)
    _, height, width, channels = t.builder.shapes[t.value(tensor)]
    missing = _RANK - len(shape)
    if height * width > 1 or (1,) * missing + shape == (1, channels, 1, 1):
        return _NCHW_TO_NHWC[dim % len(shape) + missing]
    # A number a channel, in any shape; one number stands where (1, C) has its channels.
    place = shape.index(channels) if channels > 1 else len(shape) - 1
    return _CHANNEL if dim % len(shape) == place else 0


def cat(t: Translation, *, tensors: list[fx.Node], dim: int) -> str:
    """Return tensors joined; learnt ones are spread as far as they reach."""
    first = next(tensor for tensor in tensors if t.is_picture(tensor))
    axis = _axis(t, first, dim)
    if not axis and len(tensors) > 1:
        raise Refused("makes a batch; one picture at a time is drawn")
    values = [t.value(x) if t.is_picture(x) else _constant(t, x, first) for x in tensors]
    if len(values) == 1:  # as a dense block begins; XNNPACK takes no concatenation of one
        return values[0]
    if len(values) > _MOST_CONCATENATED:
        return t.builder.concat(values, axis)
    return t.builder.emit(ops.Concat(axis), *values)


def _constant(t: Translation, tensor: fx.Node, beside: fx.Node) -> str:
    """Return a learnt tensor in the shape in which it stands beside a value."""
    array = t.array(tensor)
    _, height, width, _ = t.builder.shapes[t.value(beside)]
    if array.ndim < _RANK and height * width == 1:
        array = array.reshape(1, -1, 1, 1)
    whole = array.reshape((1,) * (_RANK - array.ndim) + array.shape)
    return t.builder.constant(whole.transpose(0, 2, 3, 1), "beside")


def chunk(t: Translation, *, self: fx.Node, chunks: int, dim: int) -> list[str]:
    """Return so many parts, the last of which may be smaller."""
    whole = t.builder.shapes[t.value(self)][_axis(t, self, dim)]
    return split(t, self=self, split_size=-(-whole // chunks), dim=dim)


def split(t: Translation, *, self: fx.Node, dim: int, split_size: int | list[int]) -> list[str]:
    """Return parts of one size, the last of which may be smaller, or of those given."""
    whole = t.builder.shapes[t.value(self)][_axis(t, self, dim)]
    sizes = split_size
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [
        cut(t, self=self, dim=dim, start=start, end=start + size, step=1)
        for start, size in zip(starts, sizes, strict=True)
    ]


def split_with_sizes(
    t: Translation, *, self: fx.Node, split_sizes: list[int], dim: int
) -> list[str]:
    """Return parts of the sizes given."""
    return split(t, self=self, split_size=split_sizes, dim=dim)


def cut(
    t: Translation,
    *,
    self: fx.Node,
    dim: int,
    start: int | None,
    end: int | None,
    step: int,
) -> str:
    """Return x[start:end:step] along an axis."""
    x = t.value(self)
    shape, axis = t.builder.shapes[x], _axis(t, self, dim)
    first, last, stride = slice(start, end, step).indices(shape[axis])
    begin, size = [0] * _RANK, list(shape)
    begin[axis], size[axis] = first, last - first
    if stride != 1:
        if axis in {0, _CHANNEL}:
            return reordered(t.builder, x, list(range(shape[3]))[start:end:step])
        apart = [1] * _RANK
        apart[axis], size[axis] = stride, -(-(last - first) // stride)
        return picked(t.builder, x, *((v[1], v[2]) for v in (begin, apart, size)))
    if tuple(size) == shape:
        return x
    return t.builder.emit(ops.Slice(tuple(begin), tuple(size)), x)


def select(t: Translation, *, self: fx.Node, dim: int, index: int) -> str:
    """Return x[index] along an axis, which stays with size 1."""
    whole = t.builder.shapes[t.value(self)][_axis(t, self, dim)]
    place = index % whole
    return cut(t, self=self, dim=dim, start=place, end=place + 1, step=1)


def unbind(t: Translation, *, self: fx.Node, dim: int) -> list[str]:
    """Return each of the parts of size 1."""
    return split(t, self=self, split_size=1, dim=dim)


def repeat(t: Translation, *, self: fx.Node, repeats: list[int]) -> str:
    """Return the tensor so many times along each axis."""
    to, x = t.builder, t.value(self)
    rank = len(self.meta["val"].shape)
    if len(repeats) != rank:
        raise Refused(f"makes {len(repeats)} dimensions of {rank}")
    for dim, times in enumerate(repeats):
        axis = _axis(t, self, dim)
        if times == 1:
            continue
        if not axis:
            raise Refused("makes a batch; one picture at a time is drawn")
        shape = to.shapes[x]
        if shape[axis] > 1:
            x = to.concat([x] * times, axis)
            continue
        spread = [1] * _RANK
        spread[axis] = times
        x = to.emit(ops.Mul(), x, to.constant(np.ones(spread), "ones"))
    return x


def tile(t: Translation, *, self: fx.Node, dims: list[int]) -> str:
    """Return the tensor so many times along its last axes."""
    rank = len(self.meta["val"].shape)
    return repeat(t, self=self, repeats=[1] * (rank - len(dims)) + dims)


def glu(t: Translation, *, self: fx.Node, dim: int) -> Any:  # noqa: ANN401 - a name
    """Return one half of the channels by the sigmoid of the other."""
    half, gate = chunk(t, self=self, chunks=2, dim=dim)
    return t.builder.emit(ops.Mul(), half, t.builder.emit(ops.Sigmoid(), gate))
