"""What stands in an ONNX file for each operator of a graph (see `onnx`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.export import onnx_choices, onnx_means, onnx_resizing
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
from coronet_deploy.export.choosing import Both, Choose, Compare, Either, Not, Sign
from coronet_deploy.export.graph import Node
from coronet_deploy.export.groups import GroupedConv2d, GroupNorm
from coronet_deploy.export.onnx_axes import TO_NCHW, nchw
from coronet_deploy.export.operators import Operator, Padding, Shape
from coronet_deploy.export.permuting import Mirror, PickChannels
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.products import Softmax, Turn
from coronet_deploy.export.resizing import ResizeBilinear, ResizeNearest

if TYPE_CHECKING:
    from coronet_deploy.export.onnx import Writer


def _pads(p: Padding) -> list[int]:
    return [p.top, p.left, p.bottom, p.right]


def _conv2d(writer: Writer, op: ops.Conv2d, node: Node, **groups: int) -> None:
    x, weight, *bias = node.inputs
    kernel = writer.graph.shapes[weight][1:3]
    inputs = [x, writer.kernel(weight, (0, 3, 1, 2)), *writer.vectors(tuple(bias))]
    writer.node(
        "Conv",
        inputs,
        node,
        kernel_shape=kernel,
        strides=op.stride,
        pads=_pads(op.padding),
        dilations=op.dilation,
        **groups,
    )


def _grouped_conv2d(writer: Writer, op: GroupedConv2d, node: Node) -> None:
    _conv2d(writer, op.each, node, group=op.groups)


def _depthwise_conv2d(writer: Writer, op: ops.DepthwiseConv2d, node: Node) -> None:
    x, weight, *bias = node.inputs
    shape = writer.graph.shapes[weight]
    inputs = [x, writer.kernel(weight, (3, 0, 1, 2)), *writer.vectors(tuple(bias))]
    writer.node(
        "Conv",
        inputs,
        node,
        kernel_shape=shape[1:3],
        strides=op.stride,
        pads=_pads(op.padding),
        dilations=op.dilation,
        group=shape[3] // op.multiplier,
    )


def _conv_transpose2d(writer: Writer, op: ops.ConvTranspose2d, node: Node) -> None:
    x, weight, *bias = node.inputs
    inputs = [x, writer.kernel(weight, (3, 0, 1, 2)), *writer.vectors(tuple(bias))]
    writer.node(
        "ConvTranspose",
        inputs,
        node,
        kernel_shape=writer.graph.shapes[weight][1:3],
        strides=op.stride,
        pads=[*op.padding, *op.padding],
        output_padding=op.output_padding,
    )


def _pad(writer: Writer, op: ops.ReflectPad | ops.ZeroPad, node: Node) -> None:
    mode = "reflect" if isinstance(op, ops.ReflectPad) else "constant"
    if any(isinstance(reader.op, MaxPool2d) for reader in writer.readers.get(node.output, [])):
        # Without axes ONNX Runtime makes it padding of the MaxPool, which no maximum is of.
        lines = [writer.integers(_pads(op.padding)), "", writer.integers([2, 3])]
    else:
        p = op.padding
        lines = [writer.integers([0, 0, p.top, p.left, 0, 0, p.bottom, p.right])]
    writer.node("Pad", [node.inputs[0], *lines], node, mode=mode)


def _plain(kind: str) -> Callable[..., None]:
    def translate(writer: Writer, op: Operator, node: Node) -> None:
        del op
        writer.node(kind, [writer.value(name) for name in node.inputs], node)

    return translate


def _choice(writer: Writer, op: Operator, node: Node) -> None:
    del op
    onnx_choices.write(writer, node, writer.value, node.output)


def _leaky_relu(writer: Writer, op: ops.LeakyRelu, node: Node) -> None:
    writer.node("LeakyRelu", list(node.inputs), node, alpha=op.slope)


def _hard_sigmoid(writer: Writer, op: HardSigmoid, node: Node) -> None:
    del op
    writer.node("HardSigmoid", list(node.inputs), node, alpha=1 / 6, beta=0.5)


def _gelu_by_tanh(writer: Writer, op: GeluByTanh, node: Node) -> None:
    del op
    writer.node("Gelu", list(node.inputs), node, approximate="tanh")


def _scaled_elu(writer: Writer, op: ScaledElu, node: Node) -> None:
    if op.scale == 1:
        writer.node("Elu", list(node.inputs), node, alpha=op.alpha)
    else:
        writer.node("Selu", list(node.inputs), node, alpha=op.alpha, gamma=op.scale)


def _clamp(writer: Writer, op: Clamp, node: Node) -> None:
    most = float(np.finfo(np.float16 if writer.half else np.float32).max)
    ends = [
        writer.floats(f"end/{end:.9g}", np.array(end)) if abs(end) <= most else ""
        for end in (op.low, op.high)
    ]
    writer.node("Clip", [*node.inputs, *ends], node)


def _max_pool2d(writer: Writer, op: MaxPool2d, node: Node) -> None:
    writer.node(
        "MaxPool",
        list(node.inputs),
        node,
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=_pads(op.padding),
    )


def _turn(writer: Writer, op: Turn, node: Node) -> None:
    del op
    writer.node("Transpose", list(node.inputs), node, perm=(0, 3, 2, 1))


def _mirror(writer: Writer, op: Mirror, node: Node) -> None:
    """Slice backwards, from the last line to before the first one."""
    axes, back = [TO_NCHW[axis] for axis in op.axes], [-1] * len(op.axes)
    before = [-(1 << 31)] * len(op.axes)
    bounds = [writer.integers(numbers) for numbers in (back, before, axes, back)]
    writer.node("Slice", [*node.inputs, *bounds], node)


def _pick_channels(writer: Writer, op: PickChannels, node: Node) -> None:
    writer.node("Gather", [*node.inputs, writer.integers(list(op.order))], node, axis=1)


def _softmax(writer: Writer, op: Softmax, node: Node) -> None:
    """Go over lines of channels, which ONNX Runtime does in a twentieth of the time.

    A reshape at either end keeps its optimizer from turning the lines back.
    """
    del op
    (x,), name = node.inputs, node.output
    whole = nchw(writer.graph.shapes[name])
    channels, pixels = whole[1], whole[2] * whole[3]
    flat, lines = writer.integers([channels, pixels]), writer.integers([1, 1, pixels, channels])
    x = writer.inner("Reshape", [x, flat], f"{name}/flat")
    x = writer.inner("Transpose", [x], f"{name}/turned", perm=(1, 0))
    x = writer.inner("Reshape", [x, lines], f"{name}/lines")
    x = writer.inner("Softmax", [x], f"{name}/shares", axis=3)
    x = writer.inner("Reshape", [x, writer.integers([pixels, channels])], f"{name}/again")
    x = writer.inner("Transpose", [x], f"{name}/back", perm=(1, 0))
    writer.node("Reshape", [x, writer.integers(whole)], node)


def _prelu(writer: Writer, op: ops.PRelu, node: Node) -> None:
    """relu(x) - slope * relu(-x), a quarter to a third of the time of ONNX Runtime's PRelu."""
    del op
    (x, slope), name = node.inputs, node.output
    over = writer.inner("Relu", [x], f"{name}/over")
    under = writer.inner("Relu", [writer.inner("Neg", [x], f"{name}/minus")], f"{name}/under")
    sloping = writer.inner("Mul", [under, writer.value(slope)], f"{name}/sloping")
    writer.node("Sub", [over, sloping], node)


def _concat(writer: Writer, op: ops.Concat, node: Node) -> None:
    inputs = [writer.value(name) for name in node.inputs]
    writer.node("Concat", inputs, node, axis=TO_NCHW[op.axis])


def _slice(writer: Writer, op: ops.Slice, node: Node) -> None:
    begin, size = nchw(op.begin), nchw(op.size)
    ends = [b + n for b, n in zip(begin, size, strict=True)]
    bounds = [writer.integers(begin), writer.integers(ends)]
    writer.node("Slice", [*node.inputs, *bounds], node)


def _rsqrt(writer: Writer, op: ops.Rsqrt, node: Node) -> None:
    del op
    root = writer.inner("Sqrt", list(node.inputs), f"{node.output}/root")
    writer.node("Reciprocal", [root], node)


def _reshape(writer: Writer, op: ops.Reshape, node: Node) -> None:
    """Keep the numbers in the order that they have in NHWC."""
    (x,), shape = node.inputs, op.shape
    if shape[3] == writer.graph.shapes[x][3]:  # which keeps them in the order of NCHW, too
        writer.node("Reshape", [x, writer.integers(nchw(shape))], node)
        return
    if not _one_line(writer.graph.shapes[x]):
        x = writer.inner("Transpose", [x], f"{node.output}/nhwc", perm=(0, 2, 3, 1))
    if _one_line(shape):
        writer.node("Reshape", [x, writer.integers(nchw(shape))], node)
        return
    shaped = [x, writer.integers(list(shape))]
    x = writer.inner("Reshape", shaped, f"{node.output}/shaped")
    writer.node("Transpose", [x], node, perm=(0, 3, 1, 2))


def _one_line(shape: Shape) -> bool:
    """Return whether the numbers of a value of `shape` have one order in NHWC and in NCHW."""
    return shape[3] == 1 or shape[1] * shape[2] == 1


def _depth_to_space(writer: Writer, op: ops.DepthToSpace, node: Node) -> None:
    """Interleave channels in the order (row, column, channel), ONNX's DCR.

    By two transposes, rows between lines and then columns between pixels, ONNX Runtime takes 0.35
    to 0.6 of the time of its DepthToSpace.
    """
    (x,), block = node.inputs, op.block
    if writer.integer:
        writer.node("DepthToSpace", [x], node, blocksize=block, mode="DCR")
        return
    _, channels, height, width = nchw(writer.graph.shapes[x])
    rows = [block, channels // block, height, width]
    columns = [block, channels * height * width // block]
    last = nchw(writer.graph.shapes[node.output])
    for place, (shape, order) in enumerate(((rows, (1, 2, 0, 3)), (columns, (1, 0)))):
        shaped = [x, writer.integers(shape)]
        x = writer.inner("Reshape", shaped, f"{node.output}/{2 * place}")
        x = writer.inner("Transpose", [x], f"{node.output}/{2 * place + 1}", perm=order)
    writer.node("Reshape", [x, writer.integers(last)], node)


TRANSLATIONS: Mapping[type[Operator], Callable[..., None]] = {
    ops.Conv2d: _conv2d,
    ops.DepthwiseConv2d: _depthwise_conv2d,
    GroupedConv2d: _grouped_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    ops.BatchNorm: onnx_means.batch_norm,
    ops.InstanceNorm: onnx_means.instance_norm,
    GroupNorm: onnx_means.group_norm,
    ops.ReflectPad: _pad,
    ops.ZeroPad: _pad,
    ops.Relu: _plain("Relu"),
    ops.LeakyRelu: _leaky_relu,
    MaxPool2d: _max_pool2d,
    ResizeBilinear: onnx_resizing.resize_bilinear,
    ResizeNearest: onnx_resizing.resize_nearest,
    ops.PRelu: _prelu,
    ops.Elu: _plain("Elu"),
    ScaledElu: _scaled_elu,
    ops.Gelu: _plain("Gelu"),
    Clamp: _clamp,
    HardSigmoid: _hard_sigmoid,
    HardSwish: _plain("HardSwish"),
    GeluByTanh: _gelu_by_tanh,
    ops.Tanh: _plain("Tanh"),
    ops.Sigmoid: _plain("Sigmoid"),
    ops.Rsqrt: _rsqrt,
    ops.Add: _plain("Add"),
    ops.Sub: _plain("Sub"),
    ops.Mul: _plain("Mul"),
    Turn: _turn,
    Mirror: _mirror,
    PickChannels: _pick_channels,
    Softmax: _softmax,
    Sqrt: _plain("Sqrt"),
    Exp: _plain("Exp"),
    Log: _plain("Log"),
    Ceil: _plain("Ceil"),
    Round: _plain("Round"),
    Floor: _plain("Floor"),
    Abs: _plain("Abs"),
    Sign: _plain("Sign"),
    **dict.fromkeys((Compare, Not, Both, Either, Choose), _choice),
    Div: _plain("Div"),
    Maximum: _plain("Max"),
    ops.Minimum: _plain("Min"),
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Mean: onnx_means.mean,
    ops.DepthToSpace: _depth_to_space,
    # The pair of quantise and dequantise that its value gets is all it is.
    ops.Requantize: _plain("Identity"),
}
