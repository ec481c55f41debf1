"""What a file makes a runtime do: operators, multiply-adds, bytes moved; read from the file.

Bytes moved are what the operators read and write if each ran by itself, constants included: an
upper bound of the traffic, by which two graphs of one network can be compared. Operators that
only unpack constants are left out, because runtimes run them once, at loading.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coronet_deploy.errors import missing_package
from coronet_deploy.vocabulary import Runtime

_TFLITE_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT8": 1, "UINT8": 1, "INT16": 2, "INT32": 4}
_TFLITE_PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}
_LONG = 8  # bytes of what stands in no table: int64 and the like


@dataclass(frozen=True)
class Figures:
    """A file's operators, their multiply-adds, the bytes they move, and the file's size."""

    operators: int
    macs: int
    moved_bytes: int
    file_bytes: int


def figures_of(data: bytes, runtime: Runtime) -> Figures:
    """Return the figures of an artifact's bytes.

    Raises:
        EnvironmentProblem: the package that reads this format is not installed.

    """
    return _of_tflite(data) if runtime is Runtime.TFLITE else _of_onnx(data)


def _of_tflite(data: bytes) -> Figures:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise missing_package(error.name or "ai-edge-litert", "export") from error
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    types = {kind: name for name, kind in vars(schema.TensorType).items()}
    shapes, sizes, constant = {}, {}, set()
    for place in range(graph.TensorsLength()):
        tensor = graph.Tensors(place)
        shapes[place] = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
        width = _TFLITE_BYTES.get(types.get(tensor.Type(), ""), _LONG)
        sizes[place] = math.prod(shapes[place]) * width
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength() or buffer.Size():
            constant.add(place)
    operators = macs = moved = 0
    for place in range(graph.OperatorsLength()):
        node = graph.Operators(place)
        code = model.OperatorCodes(node.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [i for i in map(node.Inputs, range(node.InputsLength())) if i >= 0]
        outputs = [node.Outputs(i) for i in range(node.OutputsLength())]
        if constant.issuperset(inputs):
            constant.update(outputs)
            continue
        operators += 1
        moved += sum(sizes[i] for i in (*inputs, *outputs))
        if name in _TFLITE_PRODUCTS:
            # A transposed convolution's inputs are its size, its weights, its picture.
            picture = shapes[inputs[2] if name == "TRANSPOSE_CONV" else outputs[0]]
            macs += math.prod(picture[1:3]) * math.prod(shapes[inputs[1]])
        elif name == "BATCH_MATMUL":
            macs += math.prod(shapes[inputs[0]]) * shapes[outputs[0]][-1]
    return Figures(operators, macs, moved, len(data))


def _of_onnx(data: bytes) -> Figures:
    try:
        import onnx
    except ImportError as error:
        raise missing_package(error.name or "onnx", "export") from error
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).graph
    shapes: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    widths: Mapping[int, int] = {
        onnx.TensorProto.FLOAT: 4,
        onnx.TensorProto.FLOAT16: 2,
        onnx.TensorProto.INT8: 1,
        onnx.TensorProto.UINT8: 1,
        onnx.TensorProto.INT16: 2,
        onnx.TensorProto.UINT16: 2,
        onnx.TensorProto.INT32: 4,
    }

    def note(name: str, shape: Iterable[int], kind: int) -> None:
        shapes[name] = list(shape)
        sizes[name] = math.prod(shapes[name]) * widths.get(kind, _LONG)

    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        note(value.name, (d.dim_value for d in tensor.shape.dim), tensor.elem_type)
    constant = {""}
    for initializer in graph.initializer:
        note(initializer.name, initializer.dims, initializer.data_type)
        constant.add(initializer.name)
    operators = macs = moved = 0
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
            continue
        operators += 1
        moved += sum(sizes.get(name, 0) for name in (*node.input, *node.output))
        if node.op_type in {"Conv", "ConvTranspose"}:
            source = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
            macs += math.prod(shapes[source][2:]) * math.prod(shapes[node.input[1]])
        elif node.op_type == "MatMul":
            macs += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return Figures(operators, macs, moved, len(data))
