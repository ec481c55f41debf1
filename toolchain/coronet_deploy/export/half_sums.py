"""Sums of products in float16, number by number, in the order of XNNPACK's kernels.

They add in float16 where a CPU computes in it (ARMv8.2, AVX512-FP16), a convolution's products tap
by tap and within a tap channel by channel, beginning at the bias; a depthwise one's column by
column. Means are in float32 there as well. torch rounds each sum twice, to float32 first, so that
one in a hundred results is the neighbour of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.export import operators as ops
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.interpret import Kernels
from coronet_deploy.export.products import MatMul

_TOGETHER = 1 << 16  # sums at a time: these stay in a core's cache


def _taps(
    op: ops.Conv2d | ops.DepthwiseConv2d, x: Tensor, weight: Tensor, *, by_column: bool = False
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each tap's row and column, and what it reads: (H', W', C) of float16."""
    p, (_, rows, columns, _) = op.padding, weight.shape
    padded = F.pad(x[0].half(), (0, 0, p.left, p.right, p.top, p.bottom))
    _, height, width, _ = op.infer(tuple(x.shape), tuple(weight.shape))
    (down, across), (apart, aside) = op.stride, op.dilation
    places = [(r, c) for r in range(rows) for c in range(columns)]
    for r, c in sorted(places, key=lambda place: place[::-1]) if by_column else places:
        lines = slice(r * apart, r * apart + (height - 1) * down + 1, down)
        yield r, c, padded[lines, c * aside : c * aside + (width - 1) * across + 1 : across]


def _conv2d(op: ops.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    outputs, (_, height, width, _) = len(weight), op.infer(tuple(x.shape), tuple(weight.shape))
    pixels = height * width
    first = torch.zeros(outputs) if bias is None else bias
    sums = first.half()[:, None].repeat(1, pixels)
    if pixels < outputs:  # what torch goes along is the longer axis
        sums = sums.T.contiguous().T
    factors = weight.half().permute(1, 2, 3, 0).contiguous()  # one output beside the other
    band = max(_TOGETHER // outputs, 1)
    read = [
        (factors[r, c], values.permute(2, 0, 1).reshape(-1, pixels))
        for r, c, values in _taps(op, x, weight)
    ]
    for place in range(0, pixels, band):
        some = sums[:, place : place + band]
        for factor, values in read:
            for channel, numbers in zip(factor, values[:, place : place + band], strict=True):
                some.addcmul_(channel[:, None], numbers)
    return sums.T.reshape(1, height, width, outputs).float()


def _depthwise(
    op: ops.DepthwiseConv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape = op.infer(tuple(x.shape), tuple(weight.shape))
    sums = torch.zeros(shape, dtype=torch.float16)
    if bias is not None:
        sums += bias.half()
    for r, c, values in _taps(op, x, weight, by_column=True):
        sums.addcmul_(values.repeat_interleave(op.multiplier, 2), weight[0, r, c].half())
    return sums.float()


def _grouped_conv2d(
    op: GroupedConv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    biases = [None] * op.groups if bias is None else bias.chunk(op.groups)
    parts = zip(x.chunk(op.groups, 3), weight.chunk(op.groups), biases, strict=True)
    return torch.cat([_conv2d(op.each, *part) for part in parts], 3)


def _conv_transpose2d(
    op: ops.ConvTranspose2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return the convolution of the picture with zeros between its pixels, which add nothing."""
    (_, rows, columns, _), (down, across), (_, height, width, channels) = (
        weight.shape,
        op.stride,
        x.shape,
    )
    apart = x.new_zeros(1, (height - 1) * down + 1, (width - 1) * across + 1, channels)
    apart[:, ::down, ::across] = x
    top, left = rows - 1 - op.padding[0], columns - 1 - op.padding[1]
    bottom, right = top + op.output_padding[0], left + op.output_padding[1]
    around = F.pad(apart, (0, 0, left, right, top, bottom))
    return _conv2d(ops.Conv2d(), around, weight.flip(1, 2), bias)


def _matmul(op: MatMul, a: Tensor, b: Tensor) -> Tensor:
    left, right = a.half(), (b.transpose(2, 3) if op.turned else b).half()
    sums = torch.zeros(op.infer(tuple(a.shape), tuple(b.shape)), dtype=torch.float16)
    for place in range(left.shape[3]):
        sums.addcmul_(left[..., place, None], right[..., place, None, :])
    return sums.float()


KERNELS: Kernels = {
    ops.Conv2d: _conv2d,
    ops.DepthwiseConv2d: _depthwise,
    GroupedConv2d: _grouped_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    MatMul: _matmul,
}
"""What stands for `interpret`'s kernels of operators that add up products, in float32 as those."""
