"""A reference interpreter of graphs, with torch's own kernels, in float32 or float64.

It is what a pass is tested against: a rewrite is exact if the graph before and after it draws
the same picture in float64 up to the rounding of its float32 constants. In float32 it is what
ranges and layers' errors are measured by, and wide layers are computed the quicker way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import (
    Abs,
    Ceil,
    Clamp,
    Div,
    Exp,
    Floor,
    GeluByTanh,
    HardSigmoid,
    HardSwish,
    Log,
    Maximum,
    Round,
    ScaledElu,
    Sqrt,
)
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Relation, Sign
from coronet_deploy.export.graph import INPUT, OUTPUT, Graph
from coronet_deploy.export.groups import GroupedConv2d, GroupNorm
from coronet_deploy.export.operators import Activation, Operator, Padding
from coronet_deploy.export.permuting import Mirror, Permute, PickChannels, Transpose
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.products import MatMul, Softmax, Turn
from coronet_deploy.export.resizing import ResizeBilinear, ResizeNearest
from coronet_deploy.export.wide_conv import conv3x3, is_wide

Kernels = Mapping[type[Operator], Callable[..., Tensor]]
"""What computes an operator: `kernel(operator, *inputs)`, but for the activation it may have."""

_NO_OTHERS: Kernels = {}


def interpret(
    graph: Graph, x: npt.NDArray[Any], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:
    """Return the picture (1, H', W', C') that `graph` makes of `x` (1, H, W, C), NHWC.

    Raises:
        ValueError: `x` has another shape than the graph's input.

    """
    return interpret_values(graph, x, [OUTPUT], dtype)[OUTPUT]


def interpret_values(
    graph: Graph,
    x: npt.NDArray[Any],
    wanted: Iterable[str],
    dtype: npt.DTypeLike = np.float32,
    alter: Callable[[str, Tensor], Tensor] | None = None,
    kernels: Kernels = _NO_OTHERS,
) -> dict[str, npt.NDArray[Any]]:
    """Return the values named in `wanted`, in the graph's layout; the rest is freed on the way.

    `alter(name, value)`, if given, returns what stands for each value made: a simulation of
    number types that torch does not compute in. `kernels` stand for those here of some operators.
    """
    walk = Walk(graph, x, wanted, dtype, kernels)
    walk.finish(alter)
    return {name: walk.values[name].numpy() for name in set(wanted)}


class Walk:
    """A way through a graph on one picture, node by node; `fork` goes on from a place twice."""

    def __init__(
        self,
        graph: Graph,
        x: npt.NDArray[Any],
        wanted: Iterable[str],
        dtype: npt.DTypeLike = np.float32,
        kernels: Kernels = _NO_OTHERS,
    ) -> None:
        if x.shape != graph.input_shape:
            raise ValueError(f"interpret: picture {x.shape}, the graph takes {graph.input_shape}")
        self.graph, self.place = graph, 0
        self.values = {INPUT: torch.from_numpy(x.astype(dtype))}
        self._kept, self._dtype, self._kernels = frozenset(wanted), dtype, kernels
        self.unread = graph.readers.copy()

    def fork(self) -> Walk:
        """Return a walk that stands here too; values are shared, and none is written to."""
        other = copy.copy(self)
        other.values, other.unread = dict(self.values), self.unread.copy()
        return other

    def compute(
        self, operands: Mapping[str, Tensor] | None = None, *, recorded: bool = False
    ) -> Tensor:
        """Return what the next node makes; `operands` stand in for what it reads, by name.

        It has gradients with respect to what requires them, if it is `recorded`.
        """
        node, given = self.graph.nodes[self.place], operands or {}
        with torch.inference_mode(not recorded), torch.set_grad_enabled(recorded):
            arguments = [
                given[name]
                if name in given
                else self.values[name]
                if name in self.values
                else torch.from_numpy(self.graph.constants[name].astype(self._dtype, copy=False))
                for name in node.inputs
            ]
            return _run(node.op, arguments, self._kernels)

    def step(self, value: Tensor) -> None:
        """Take `value` for the next node's, and go behind it."""
        node = self.graph.nodes[self.place]
        self.values[node.output] = value
        self.place += 1
        for name in node.inputs:
            self.unread[name] -= 1
            if not self.unread[name] and name not in self._kept:
                self.values.pop(name, None)

    def finish(self, alter: Callable[[str, Tensor], Tensor] | None = None) -> None:
        """Go to the end; `alter` as for `interpret_values`."""
        with torch.inference_mode():
            for node in self.graph.nodes[self.place :]:
                value = self.compute()
                self.step(alter(node.output, value) if alter else value)


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _padded(x: Tensor, p: Padding, mode: str = "constant") -> Tensor:
    return F.pad(x, (p.left, p.right, p.top, p.bottom), mode) if p else x


def _conv2d(op: ops.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padded = _padded(_nchw(x), op.padding)
    if op.steps_by_one and is_wide(around := padded.permute(0, 2, 3, 1), weight):
        return conv3x3(around, weight, bias)
    return _nhwc(F.conv2d(padded, _nchw(weight), bias, op.stride, 0, op.dilation))


def _depthwise(
    op: ops.DepthwiseConv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    padded, kernels = _padded(_nchw(x), op.padding), weight.permute(3, 0, 1, 2)
    return _nhwc(F.conv2d(padded, kernels, bias, op.stride, 0, op.dilation, x.shape[3]))


def _grouped_conv2d(
    op: GroupedConv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    each, padded = op.each, _padded(_nchw(x), op.each.padding)
    return _nhwc(F.conv2d(padded, _nchw(weight), bias, each.stride, 0, each.dilation, op.groups))


def _conv_transpose2d(
    op: ops.ConvTranspose2d, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    kernels = weight.permute(3, 0, 1, 2)
    return _nhwc(
        F.conv_transpose2d(_nchw(x), kernels, bias, op.stride, op.padding, op.output_padding)
    )


def _batch_norm(
    op: ops.BatchNorm, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return (x - mean) / torch.sqrt(variance + op.epsilon) * scale + shift


def _instance_norm(op: ops.InstanceNorm, x: Tensor, *affine: Tensor) -> Tensor:
    # Two sums are a third of torch.var_mean's time in this layout.
    centred = x - x.mean((1, 2), keepdim=True)
    deviation = torch.sqrt((centred * centred).mean((1, 2), keepdim=True) + op.epsilon)
    if centred.requires_grad:  # what is recorded is not written over
        y = centred / deviation
        return y * affine[0] + affine[1] if affine else y
    y = centred.div_(deviation)
    return y.mul_(affine[0]).add_(affine[1]) if affine else y


def _group_norm(op: GroupNorm, x: Tensor, *affine: Tensor) -> Tensor:
    groups = x.reshape(*x.shape[:3], op.groups, -1)
    centred = groups - groups.mean((1, 2, 4), keepdim=True)
    variance = (centred * centred).mean((1, 2, 4), keepdim=True)
    y = centred.div_(torch.sqrt(variance + op.epsilon)).reshape(x.shape)
    return y * affine[0] + affine[1] if affine else y


def _max_pool2d(op: MaxPool2d, x: Tensor) -> Tensor:
    p = op.padding
    around = F.pad(_nchw(x), (p.left, p.right, p.top, p.bottom), value=-torch.inf)
    return _nhwc(F.max_pool2d(around, op.kernel, op.stride))


def _slice(op: ops.Slice, x: Tensor) -> Tensor:
    return x[tuple(slice(b, b + n) for b, n in zip(op.begin, op.size, strict=True))]


def _permute(op: Permute, x: Tensor) -> Tensor:
    shape, order = op.transposed(range(4))
    return x.reshape(shape).permute(order).reshape(op.infer(tuple(x.shape)))


def _depth_to_space(op: ops.DepthToSpace, x: Tensor) -> Tensor:
    (n, h, w, c), b = x.shape, op.block
    blocks = x.reshape(n, h, w, b, b, c // b**2).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, h * b, w * b, c // b**2)


_RELATIONS = {
    Relation.ABOVE: torch.gt,
    Relation.AT_LEAST: torch.ge,
    Relation.EQUAL: torch.eq,
    Relation.UNLIKE: torch.ne,
}

_KERNELS: Kernels = {
    ops.Conv2d: _conv2d,
    ops.DepthwiseConv2d: _depthwise,
    GroupedConv2d: _grouped_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    ops.BatchNorm: _batch_norm,
    ops.InstanceNorm: _instance_norm,
    GroupNorm: _group_norm,
    ops.ReflectPad: lambda op, x: _nhwc(_padded(_nchw(x), op.padding, "reflect")),
    ops.ZeroPad: lambda op, x: _nhwc(_padded(_nchw(x), op.padding)),
    ops.Relu: lambda _, x: torch.relu(x),
    ops.LeakyRelu: lambda op, x: F.leaky_relu(x, op.slope),
    MaxPool2d: _max_pool2d,
    ResizeBilinear: lambda op, x: _nhwc(
        F.interpolate(_nchw(x), op.size, mode="bilinear", align_corners=op.align_corners)
    ),
    ResizeNearest: lambda op, x: x[:, list(op.rows)][:, :, list(op.columns)],
    ops.PRelu: lambda _, x, slope: torch.relu(x) - slope * torch.relu(-x),
    ops.Elu: lambda _, x: F.elu(x),
    ScaledElu: lambda op, x: op.scale * F.elu(x, op.alpha),
    ops.Gelu: lambda _, x: F.gelu(x),
    Clamp: lambda op, x: torch.clamp(x, op.low, op.high),
    HardSigmoid: lambda _, x: F.hardsigmoid(x),
    HardSwish: lambda _, x: F.hardswish(x),
    GeluByTanh: lambda _, x: F.gelu(x, approximate="tanh"),
    ops.Tanh: lambda _, x: torch.tanh(x),
    ops.Sigmoid: lambda _, x: torch.sigmoid(x),
    ops.Rsqrt: lambda _, x: torch.rsqrt(x),
    ops.Add: lambda _, a, b: a + b,
    ops.Sub: lambda _, a, b: a - b,
    ops.Mul: lambda _, a, b: a * b,
    MatMul: lambda op, a, b: a @ (b.transpose(2, 3) if op.turned else b),
    Turn: lambda _, x: x.transpose(2, 3).contiguous(),
    Permute: _permute,
    PickChannels: lambda op, x: x[..., list(op.order)],
    Mirror: lambda op, x: x.flip(op.axes),
    Transpose: lambda op, x: x.permute(op.order).contiguous(),
    Softmax: lambda _, x: torch.softmax(x, 3),
    Sqrt: lambda _, x: torch.sqrt(x),
    Exp: lambda _, x: torch.exp(x),
    Log: lambda _, x: torch.log(x),
    Ceil: lambda _, x: torch.ceil(x),
    Round: lambda _, x: torch.round(x),
    Floor: lambda _, x: torch.floor(x),
    Abs: lambda _, x: torch.abs(x),
    Sign: lambda _, x: torch.sign(x),
    Compare: lambda op, a, b: _RELATIONS[op.relation](a, b).to(a.dtype),
    Not: lambda _, x: 1 - x,
    Both: lambda _, a, b: a * b,
    Either: lambda _, a, b: torch.maximum(a, b),
    Choose: lambda _, truth, a, b: torch.where(truth != 0, a, b),
    Div: lambda _, a, b: a / b,
    Maximum: lambda _, a, b: torch.maximum(a, b),
    ops.Minimum: lambda _, a, b: torch.minimum(a, b),
    ops.Concat: lambda op, *xs: torch.cat(xs, op.axis),
    ops.Slice: _slice,
    ops.Reshape: lambda op, x: x.reshape(op.shape),
    ops.Mean: lambda op, x: x.mean(op.axes, keepdim=True),
    ops.DepthToSpace: _depth_to_space,
    ops.Requantize: lambda _, x: x,
}


def _run(op: Operator, arguments: list[Tensor], instead: Kernels) -> Tensor:
    y = instead.get(type(op), _KERNELS[type(op)])(op, *arguments)
    if getattr(op, "activation", Activation.NONE) is Activation.RELU:
        y = torch.relu(y)
    return y
