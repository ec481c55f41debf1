"""Writes a `Graph` as a TFLite file, straight into its schema, without a converter.

Each operator becomes one TFLite operator; `passes.lower` brings a captured graph into that form.
Picture in and out are float32 NHWC tensors named "input" and "output", and so is the signature
"serving_default". In FP16 the weights are stored as float16 behind a DEQUANTIZE, which XNNPACK
unpacks once and a GPU delegate takes as they are; arithmetic follows the runtime's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, OUTPUT, FloatArray, Graph, Node
from coronet_deploy.export.operators import Activation, Operator, Padding
from coronet_deploy.export.passes.zero_padding import same_padding
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.export.tflite_file import AlignedBuffer, pack
from coronet_deploy.vocabulary import DType

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

SIGNATURE = "serving_default"

_LAST_OLD_CODE = 127  # operator codes used to be one byte; both fields are written
_CONVOLUTIONS = ops.Conv2d | ops.DepthwiseConv2d | ops.ConvTranspose2d
_WEIGHT = 1  # which input of a convolution


def emit_tflite(graph: Graph, dtype: DType, metadata: Mapping[str, str]) -> bytes:
    """Return a TFLite file of `graph`, the same bytes for the same arguments.

    `metadata` is stored as named UTF-8 buffers, as TFLite's metadata is.

    Raises:
        ConversionFailed: an operator that TFLite does not have in this form (lower the graph
            first), a weight too large for float16, or a dtype other than FP32 and FP16.

    """
    if dtype not in {DType.FP32, DType.FP16}:
        raise ConversionFailed(f"TFLite: {dtype} is not written from a float graph")
    return Writer(graph, half=dtype is DType.FP16).file(metadata)


class Writer:
    """Collects tensors, operators and buffers of one subgraph."""

    def __init__(self, graph: Graph, *, half: bool = False) -> None:
        self.graph = graph
        self._half = half
        self._buffers = [AlignedBuffer()]  # the first one stands for "no data"
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._values: dict[tuple[str, bool], int] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def file(self, metadata: Mapping[str, str]) -> bytes:
        """Return the whole file."""
        self._values[INPUT, False] = self.made(INPUT)
        for node in self.graph.nodes:
            self._write(node)
        model = schema.ModelT()
        model.version = 3
        model.description = "coronet-deploy"
        model.subgraphs = [self._subgraph()]
        model.signatureDefs = [self._signature()]
        model.operatorCodes = [_code(*key) for key in self._codes]
        model.metadata = []
        for name, text in sorted(metadata.items()):
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, self._buffer(text.encode())
            model.metadata.append(entry)
        model.buffers = self._buffers
        return pack(model)

    def _subgraph(self) -> Any:  # noqa: ANN401 - the schema ships no types
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs = [self._values[INPUT, False]]
        subgraph.outputs = [self._values[OUTPUT, False]]
        return subgraph

    def _signature(self) -> Any:  # noqa: ANN401 - the schema ships no types
        def named(name: str) -> Any:  # noqa: ANN401 - same
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, self._values[name, False]
            return entry

        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = [named(INPUT)], [named(OUTPUT)]
        return signature

    def _buffer(self, data: bytes | memoryview) -> int:
        buffer = AlignedBuffer()
        buffer.data = data
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        buffer: int = 0,
        quantization: Any = None,  # noqa: ANN401 - the schema ships no types
    ) -> int:
        """Return the index of a new tensor; `dtype` as numpy names it."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, [int(n) for n in shape]
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.buffer, tensor.hasRank, tensor.quantization = buffer, True, quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def made(self, name: str) -> int:
        """Return the index of the new tensor of a value that is made at run time."""
        return self.tensor(name, self.graph.shapes[name])

    def constant(
        self,
        name: str,
        values: np.ndarray[Any, Any],
        quantization: Any = None,  # noqa: ANN401 - the schema ships no types
    ) -> int:
        """Return the index of a new tensor that holds `values`, in their own type."""
        array = np.ascontiguousarray(values)
        buffer = self._buffer(array.reshape(-1).view(np.uint8).data)
        return self.tensor(name, array.shape, array.dtype.name, buffer, quantization)

    def numbers(self, values: Any, hint: str) -> int:  # noqa: ANN401 - nested lists of int
        """Return the tensor of int32 or float32 `values`; equal ones are one."""
        array = np.asarray(values)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._shared:
            self._shared[key] = self.constant(f"{hint}/{len(self._shared)}", array)
        return self._shared[key]

    def value(self, name: str, *, half: bool = False) -> int:
        """Return the tensor of a value or constant; a `half` constant is stored as float16."""
        key = name, half
        if key not in self._values:
            array = self.graph.constants[name]
            self._values[key] = (
                self._half_constant(name, array) if half else self.constant(name, array)
            )
        return self._values[key]

    def _half_constant(self, name: str, array: FloatArray) -> int:
        if array.size and not np.abs(array).max() <= FLOAT16_MAX:
            raise ConversionFailed(f"TFLite: {name} has weights beyond float16's range")
        stored = self.constant(f"{name}/float16", array.astype(np.float16))
        unpacked = self.tensor(name, array.shape)
        code = schema.BuiltinOperator.DEQUANTIZE
        self.operator(code, [stored], unpacked, schema.DequantizeOptionsT(), version=3)
        return unpacked

    def operator(
        self,
        code: int,
        inputs: list[int],
        output: int,
        options: Any,  # noqa: ANN401 - the schema ships no types
        version: int = 1,
    ) -> None:
        """Append an operator that makes the tensor `output`."""
        entry = schema.OperatorT()
        entry.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        entry.inputs, entry.outputs = inputs, [output]
        if options is not None:
            union = type(options).__name__.removesuffix("T")
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, union)
            entry.builtinOptions = options
        self._operators.append(entry)

    def operands(self, node: Node) -> list[int]:
        """Return the tensors that `node` reads, in its order."""
        half = self._half and isinstance(node.op, _CONVOLUTIONS)
        return [self.value(n, half=half and i == _WEIGHT) for i, n in enumerate(node.inputs)]

    def _write(self, node: Node) -> None:
        translate = _TRANSLATIONS.get(type(node.op))
        if translate is None:
            raise ConversionFailed(
                f"TFLite: {node.output} is a {node.op.kind}", hint="lower the graph first"
            )
        inputs = self.operands(node)
        name, extra, options, *version = translate(self, node.op, node)
        output = self.made(node.output)
        self._values[node.output, False] = output
        code = getattr(schema.BuiltinOperator, name)
        arguments = extra(inputs) if callable(extra) else [*inputs, *extra]
        self.operator(code, arguments, output, options, *version)


def _code(builtin: int, version: int) -> Any:  # noqa: ANN401 - the schema ships no types
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    code.deprecatedBuiltinCode = min(builtin, _LAST_OLD_CODE)
    return code


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
    if len(node.inputs) > _WEIGHT + 1:
        return []
    return [writer.numbers(np.zeros(writer.graph.shapes[node.output][3], np.float32), "zeros")]


def _conv2d(writer: Writer, op: ops.Conv2d, node: Node) -> _Translated:
    options = schema.Conv2DOptionsT()
    options.padding = _padding(writer, op, node)
    options.strideH, options.strideW = op.stride
    options.dilationHFactor, options.dilationWFactor = op.dilation
    options.fusedActivationFunction = _activation(op)
    return "CONV_2D", _bias(writer, node), options


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
        lambda inputs: [size, inputs[_WEIGHT], inputs[0], *(inputs[2:] or bias)],
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


def _max_pool2d(_: Writer, op: MaxPool2d, node: Node) -> _Translated:
    del node
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = op.kernel
    options.strideH, options.strideW = op.stride
    return "MAX_POOL_2D", [], options


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


_TRANSLATIONS: dict[type[Operator], Callable[..., _Translated]] = {
    ops.Conv2d: _conv2d,
    ops.DepthwiseConv2d: _depthwise_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    ops.ReflectPad: _reflect_pad,
    ops.ZeroPad: _zero_pad,
    ops.Relu: _plain("RELU"),
    ops.LeakyRelu: _leaky_relu,
    MaxPool2d: _max_pool2d,
    ops.PRelu: _plain("PRELU"),
    ops.Elu: _plain("ELU"),
    ops.Gelu: _plain("GELU", schema.GeluOptionsT),
    ops.Tanh: _plain("TANH"),
    ops.Sigmoid: _plain("LOGISTIC"),
    ops.Rsqrt: _plain("RSQRT"),
    ops.Add: _arithmetic("ADD", schema.AddOptionsT),
    ops.Sub: _arithmetic("SUB", schema.SubOptionsT),
    ops.Mul: _arithmetic("MUL", schema.MulOptionsT),
    ops.Minimum: _plain("MINIMUM", schema.MaximumMinimumOptionsT),
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Mean: _mean,
    ops.DepthToSpace: _depth_to_space,
    ops.Requantize: _requantize,
}
