"""What stands in a TFLite file for each operator of a lowered graph (see `tflite`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import (
    Ceil,
    Clamp,
    Div,
    Exp,
    HardSwish,
    Log,
    Maximum,
    Round,
    Sqrt,
)
from coronet_deploy.export.graph import Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Activation, Operator, Padding
from coronet_deploy.export.passes.clamps import TFLITE_CLAMPS
from coronet_deploy.export.passes.zero_padding import same_padding
from coronet_deploy.export.permuting import Transpose
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.products import MatMul, Softmax, Turn
from coronet_deploy.export.resizing import ResizeBilinear

if TYPE_CHECKING:
    from coronet_deploy.export.tflite import Writer

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

WEIGHT = 1  # which input of a convolution

# What a translation returns: the operator's name, inputs to append (or a function of the inputs),
# its options, and its version where that is not 1.
_Translated = tuple[Any, ...]


def _activation(op: Any) -> int:  # noqa: ANN401 - any operator that has one
    kinds = schema.ActivationFunctionType
    relu: int = kinds.RELU if op.activation is Activation.RELU else kinds.NONE
    return relu


def _padding(writer: Writer, op: ops.Conv2d | ops.DepthwiseConv2d, node: Node) -> int:
    x, weight = (writer.graph.shapes[name] for name in node.inputs[:2])
    if op.padding == same_padding(x, ops.reach(weight, op.dilation), op.stride):
        same: int = schema.Padding.SAME
        return same
    if op.padding != Padding():
        raise ConversionFailed(f"TFLite: {node.output} has {op.padding}")
    valid: int = schema.Padding.VALID
    return valid


def _bias(writer: Writer, node: Node) -> list[int]:
    """Return zeros where there is no bias: not every delegate takes a convolution without."""
    if len(node.inputs) > WEIGHT + 1:
        return []
    return [writer.numbers(np.zeros(writer.graph.shapes[node.output][3], np.float32), "zeros")]


def _conv2d(writer: Writer, op: ops.Conv2d, node: Node) -> _Translated:
    options = schema.Conv2DOptionsT()
    options.padding = _padding(writer, op, node)
    options.strideH, options.strideW = op.stride
    options.dilationHFactor, options.dilationWFactor = op.dilation
    options.fusedActivationFunction = _activation(op)
    return "CONV_2D", _bias(writer, node), options


def _grouped_conv2d(writer: Writer, op: GroupedConv2d, node: Node) -> _Translated:
    """Let the kernel's inputs, fewer than there are channels, tell how many groups there are."""
    return _conv2d(writer, op.each, node)


def _depthwise_conv2d(writer: Writer, op: ops.DepthwiseConv2d, node: Node) -> _Translated:
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = _padding(writer, op, node)
    options.strideH, options.strideW = op.stride
    options.dilationHFactor, options.dilationWFactor = op.dilation
    options.depthMultiplier = op.multiplier
    options.fusedActivationFunction = _activation(op)
    return "DEPTHWISE_CONV_2D", _bias(writer, node), options


def _conv_transpose2d(writer: Writer, op: ops.ConvTranspose2d, node: Node) -> _Translated:
    if op.padding != (0, 0) or op.output_padding != (0, 0):
        raise ConversionFailed(f"TFLite: {node.output} has padding", hint="lower the graph first")
    options = schema.TransposeConvOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = op.stride
    options.fusedActivationFunction = _activation(op)
    size, bias = writer.numbers(writer.graph.shapes[node.output], "shape"), _bias(writer, node)
    # The version that knows a bias and an activation.
    return (
        "TRANSPOSE_CONV",
        lambda inputs: [size, inputs[WEIGHT], inputs[0], *(inputs[2:] or bias)],
        options,
        4 if op.activation is Activation.RELU else 3,
    )


def _arithmetic(name: str, options: type[Any]) -> Callable[..., _Translated]:
    def translate(_: Writer, op: Operator, node: Node) -> _Translated:
        del node
        made = options()
        if hasattr(op, "activation"):
            made.fusedActivationFunction = _activation(op)
        return name, [], made

    return translate


def _plain(name: str, options: type[Any] | None = None) -> Callable[..., _Translated]:
    def translate(_: Writer, op: Operator, node: Node) -> _Translated:
        del op, node
        return name, [], options() if options else None

    return translate


def _pad_table(writer: Writer, padding: Padding) -> int:
    rows = [[0, 0], [padding.top, padding.bottom], [padding.left, padding.right], [0, 0]]
    return writer.numbers(rows, "padding")


def _zero_pad(writer: Writer, op: ops.ZeroPad, _: Node) -> _Translated:
    return "PAD", [_pad_table(writer, op.padding)], schema.PadOptionsT()


def _reflect_pad(writer: Writer, op: ops.ReflectPad, _: Node) -> _Translated:
    options = schema.MirrorPadOptionsT()
    options.mode = schema.MirrorPadMode.REFLECT
    return "MIRROR_PAD", [_pad_table(writer, op.padding)], options


def _clamp(_: Writer, op: Clamp, node: Node) -> _Translated:
    del node
    return TFLITE_CLAMPS[op.low, op.high], [], None


def _max_pool2d(_: Writer, op: MaxPool2d, node: Node) -> _Translated:
    del node
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = op.kernel
    options.strideH, options.strideW = op.stride
    return "MAX_POOL_2D", [], options


def _resize_bilinear(writer: Writer, op: ResizeBilinear, _: Node) -> _Translated:
    options = schema.ResizeBilinearOptionsT()
    options.alignCorners, options.halfPixelCenters = op.align_corners, not op.align_corners
    return "RESIZE_BILINEAR", [writer.numbers(op.size, "size")], options, 3


def _matmul(_: Writer, op: MatMul, node: Node) -> _Translated:
    del node
    options = schema.BatchMatMulOptionsT()
    options.adjY = op.turned
    return "BATCH_MATMUL", [], options


def _turn(writer: Writer, op: Turn, node: Node) -> _Translated:
    del op, node
    return "TRANSPOSE", [writer.numbers([0, 1, 3, 2], "order")], schema.TransposeOptionsT()


def _transpose(writer: Writer, op: Transpose, node: Node) -> _Translated:
    del node
    return "TRANSPOSE", [writer.numbers(op.order, "order")], schema.TransposeOptionsT()


def _softmax(_: Writer, op: Softmax, node: Node) -> _Translated:
    del op, node
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return "SOFTMAX", [], options


def _leaky_relu(_: Writer, op: ops.LeakyRelu, node: Node) -> _Translated:
    del node
    options = schema.LeakyReluOptionsT()
    options.alpha = op.slope
    return "LEAKY_RELU", [], options


def _concat(_: Writer, op: ops.Concat, node: Node) -> _Translated:
    del node
    options = schema.ConcatenationOptionsT()
    options.axis = op.axis
    return "CONCATENATION", [], options


def _slice(writer: Writer, op: ops.Slice, _: Node) -> _Translated:
    block = [writer.numbers(op.begin, "begin"), writer.numbers(op.size, "size")]
    return "SLICE", block, schema.SliceOptionsT()


def _reshape(writer: Writer, op: ops.Reshape, _: Node) -> _Translated:
    options = schema.ReshapeOptionsT()
    options.newShape = list(op.shape)
    return "RESHAPE", [writer.numbers(op.shape, "shape")], options


def _mean(writer: Writer, op: ops.Mean, _: Node) -> _Translated:
    options = schema.ReducerOptionsT()
    options.keepDims = True
    return "MEAN", [writer.numbers(op.axes, "axes")], options


def _requantize(_: Writer, op: ops.Requantize, node: Node) -> _Translated:
    del node
    to_float = op.bits == 32  # noqa: PLR2004 - what stands for float
    return (
        ("DEQUANTIZE", [], schema.DequantizeOptionsT())
        if to_float
        else ("QUANTIZE", [], schema.QuantizeOptionsT())
    )


def _depth_to_space(_: Writer, op: ops.DepthToSpace, node: Node) -> _Translated:
    del node
    options = schema.DepthToSpaceOptionsT()
    options.blockSize = op.block
    return "DEPTH_TO_SPACE", [], options


TRANSLATIONS: Mapping[type[Operator], Callable[..., _Translated]] = {
    ops.Conv2d: _conv2d,
    GroupedConv2d: _grouped_conv2d,
    ops.DepthwiseConv2d: _depthwise_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    ops.ReflectPad: _reflect_pad,
    ops.ZeroPad: _zero_pad,
    ops.Relu: _plain("RELU"),
    ops.LeakyRelu: _leaky_relu,
    MaxPool2d: _max_pool2d,
    ResizeBilinear: _resize_bilinear,
    ops.PRelu: _plain("PRELU"),
    ops.Elu: _plain("ELU"),
    ops.Gelu: _plain("GELU", schema.GeluOptionsT),
    Clamp: _clamp,
    HardSwish: _plain("HARD_SWISH", schema.HardSwishOptionsT),
    ops.Tanh: _plain("TANH"),
    ops.Sigmoid: _plain("LOGISTIC"),
    ops.Rsqrt: _plain("RSQRT"),
    ops.Add: _arithmetic("ADD", schema.AddOptionsT),
    ops.Sub: _arithmetic("SUB", schema.SubOptionsT),
    ops.Mul: _arithmetic("MUL", schema.MulOptionsT),
    MatMul: _matmul,
    Turn: _turn,
    Transpose: _transpose,
    Softmax: _softmax,
    Sqrt: _plain("SQRT"),
    Exp: _plain("EXP", schema.ExpOptionsT),
    Log: _plain("LOG"),
    Ceil: _plain("CEIL"),
    Round: _plain("ROUND"),
    Div: _plain("DIV", schema.DivOptionsT),
    Maximum: _plain("MAXIMUM", schema.MaximumMinimumOptionsT),
    ops.Minimum: _plain("MINIMUM", schema.MaximumMinimumOptionsT),
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Mean: _mean,
    ops.DepthToSpace: _depth_to_space,
    ops.Requantize: _requantize,
}
