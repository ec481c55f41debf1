"""Operators of torch on lines of numbers, (1, C, L), and on planes one by one, (C, 1, H, W).

A line is a picture's pixels one after the other, or a number a channel beside each other, as
efficient channel attention has it (Wang et al. 2020, arXiv 1910.03151).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten import folded, means, pooled
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.spans import as_moved, checked, nchw
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.vectors import reduced
from coronet_deploy.export.graph import Builder, FloatArray
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Padding

_RANK = 3  # of lines


def conv1d(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
    groups: int,
) -> str | Moved:
    """Return the convolution of one line; that of one tap, of the pixels as they lie."""
    held, kernel = as_moved(t, input), t.array(weight)[:, :, None, :].transpose(0, 2, 3, 1)
    shift = None if bias is None else t.array(bias)
    to, taps = t.builder, kernel.shape[2]
    spare = (taps - 1) * dilation[0] if padding == "same" else 0
    before = spare // 2 if isinstance(padding, str) else padding[0]
    after = spare - before if isinstance(padding, str) else padding[0]
    op = ops.Conv2d((1, stride[0]), Padding(0, 0, before, after), (1, dilation[0]))
    _, channels, length = held.index.shape
    as_pixels = torch.equal(held.index, torch.arange(channels * length).reshape(1, channels, -1))
    shape = to.shapes[held.value]
    if as_pixels and shape[3] == channels and taps == 1 == stride[0] and before == 0:
        value = _convolved(to, ops.Conv2d(), held.value, kernel, shift, groups)
    else:
        line = permuted(to, held.value, held.index[:, :, None])
        if line is None:
            raise Refused(f"takes {tuple(held.index.shape)} in an order that no line has")
        value = _convolved(to, op, line, kernel, shift, groups)
        _, _, reach, outputs = made = to.shapes[value]
        if outputs == 1:  # a number a channel again
            made = (1, 1, 1, reach)
        elif reach == math.prod(shape[1:3]):  # on as many pixels as before
            made = (1, *shape[1:3], outputs)
        value = to.emit(ops.Reshape(made), value) if made != to.shapes[value] else value
    places = torch.arange(math.prod(to.shapes[value]))
    return checked(t, node.meta["val"], value, places)


def _convolved(
    to: Builder, op: ops.Conv2d, x: str, kernel: FloatArray, bias: FloatArray | None, groups: int
) -> str:
    each: ops.Operator = op
    if groups > 1 and kernel.shape[3] > 1:
        each = GroupedConv2d(op, groups)
    elif groups > 1:
        each = ops.DepthwiseConv2d(op.stride, op.padding, len(kernel) // groups, op.dilation)
        kernel = kernel.transpose(3, 1, 2, 0)
    weights = [to.constant(kernel, "weight")]
    weights += [] if bias is None else [to.constant(bias, "bias")]
    return to.emit(each, x, *weights)


def conv2d(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
    groups: int,
) -> str | Moved | None:
    """Return the convolution of each plane by the same kernels: a depthwise one; None if no planes.

    So filters before and after resizing are written (Karras et al. 2019, arXiv 1912.04958).
    """
    shape = tuple(input.meta["val"].shape)
    if shape[0] == 1 or shape[1] != 1 or isinstance(padding, str):
        return None
    held, kernel = as_moved(t, input), t.array(weight)
    value = permuted(t.builder, held.value, held.index.transpose(0, 1))
    if value is None or groups > 1 or bias is not None:
        raise Refused(f"takes {shape}, which is no picture")
    each = np.tile(kernel.transpose(1, 2, 3, 0), (1, 1, 1, shape[0]))
    down, aside = padding[0], padding[-1]
    op = ops.DepthwiseConv2d(
        (stride[0], stride[-1]),
        Padding(down, down, aside, aside),
        len(kernel),
        (dilation[0], dilation[-1]),
    )
    y = t.builder.emit(op, value, *t.constants(weight=each))
    return checked(t, node.meta["val"], y, torch.arange(math.prod(nchw(t, y))))


def windows(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    kernel_size: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> str | Moved:
    """Return the pixels of each window, F.unfold, as a depthwise convolution picks them."""
    to, x = t.builder, t.value(self)
    count = math.prod(kernel_size)
    taps = np.eye(count).reshape(1, *kernel_size, count)
    down, aside = padding
    op = ops.DepthwiseConv2d(
        (stride[0], stride[1]),
        Padding(down, down, aside, aside),
        count,
        (dilation[0], dilation[1]),
    )
    y = to.emit(op, x, to.constant(np.tile(taps, (1, 1, 1, to.shapes[x][3])), "picks"))
    return checked(t, node.meta["val"], y, torch.arange(math.prod(to.shapes[y])))


def mean_of_lines(t: Translation, node: fx.Node, *, self: fx.Node, output_size: list[int]) -> Any:  # noqa: ANN401 - a value
    """Return the mean of each line, if one is wanted."""
    if output_size != [1]:
        raise Refused(f"pools lines to {output_size[0]} numbers; only to one")
    return reduced(t, node.meta["val"], means.mean, self=self, dim=[-1])


def largest_of_windows(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> str | Moved:
    """Return the largest number of each window of a line, as of a picture of one row."""
    held = as_moved(t, self)
    shape = tuple(held.index.shape)
    line = permuted(t.builder, held.value, held.index[:, :, None]) if len(shape) == _RANK else None
    if line is None:
        raise Refused(f"takes {shape} in an order that no line has")
    value = pooled.max_pool2d(
        t,
        self=line,
        kernel_size=[1, *kernel_size],
        stride=[1, *(stride or kernel_size)],
        padding=[0, *padding],
        dilation=[1, *dilation],
        ceil_mode=ceil_mode,
    )
    places = torch.arange(math.prod(t.builder.shapes[value]))
    return checked(t, node.meta["val"], value, places)


TRANSLATIONS: Mapping[str, Callable[..., Any]] = {
    "aten.conv1d": conv1d,
    "aten.conv2d": conv2d,
    "aten.adaptive_avg_pool1d": mean_of_lines,
    "aten.max_pool1d": largest_of_windows,
    "aten.im2col": windows,
    "aten.col2im": folded.windows_summed,
}
