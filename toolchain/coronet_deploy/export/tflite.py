"""Writes a `Graph` as a TFLite file, straight into its schema, without a converter.

Each operator becomes one TFLite operator; `passes.lower` brings a captured graph into that form.
Picture in and out are float32 NHWC tensors named "input" and "output", and so is the signature
"serving_default". In FP16 the weights are stored as float16 behind a DEQUANTIZE, which XNNPACK
unpacks once and a GPU delegate takes as they are; arithmetic follows the runtime's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, OUTPUT, FloatArray, Graph, Node
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.tflite_file import AlignedBuffer, pack
from coronet_deploy.export.tflite_operators import TRANSLATIONS, WEIGHT
from coronet_deploy.vocabulary import DType

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

SIGNATURE = "serving_default"

_LAST_OLD_CODE = 127  # operator codes used to be one byte; both fields are written
_CONVOLUTIONS = ops.Conv2d | GroupedConv2d | ops.DepthwiseConv2d | ops.ConvTranspose2d


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
        return [self.value(n, half=half and i == WEIGHT) for i, n in enumerate(node.inputs)]

    def _write(self, node: Node) -> None:
        translate = TRANSLATIONS.get(type(node.op))
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
