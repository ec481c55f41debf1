"""Writes a `Graph` as an ONNX file, in NCHW, mostly with the operators that it was captured with.

ONNX Runtime has kernels for reflection padding, InstanceNormalization and ConvTranspose, so those
are kept whole, but for layers so wide that others are faster (see `passes`). Picture in and out are
float32 tensors named "input" and "output"; in FP16 a Cast stands behind the one and before the
other, and weights and arithmetic between them are float16. With `half_io` there are no casts, and
pictures are float16 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export import onnx_lines
from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, OUTPUT, Graph, Node
from coronet_deploy.export.onnx_axes import nchw
from coronet_deploy.export.onnx_operators import TRANSLATIONS
from coronet_deploy.export.operators import Activation
from coronet_deploy.vocabulary import DType

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError as error:
    raise missing_package(error.name or "onnx", "export") from error

OPSET = 20
IR_VERSION = 9  # the oldest that has this opset, so that older runtimes load the file too


def emit_onnx(
    graph: Graph,
    dtype: DType,
    metadata: Mapping[str, str],
    *,
    half_io: bool = False,
    integer: bool = False,
) -> bytes:
    """Return an ONNX file of `graph`, the same bytes for the same arguments, checked by onnx.

    `metadata` becomes the model's metadata properties. `half_io` is for FP16: float16 pictures.
    With `integer` each value of the graph is one node's, which a pair of quantise and dequantise
    may follow; without, pixels are interleaved by what ONNX Runtime is quicker at in float.

    Raises:
        ConversionFailed: an operator that has no NCHW form here (one that a TFLite pass made), a
            weight too large for float16, or a dtype other than FP32 and FP16.

    """
    if dtype not in {DType.FP32, DType.FP16}:
        raise ConversionFailed(f"ONNX: {dtype} is not written from a float graph")
    half = dtype is DType.FP16
    model = Writer(graph, half=half, half_io=half_io, integer=integer).model()
    helper.set_model_props(model, dict(sorted(metadata.items())))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConversionFailed(f"ONNX: the checker refuses the file: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class Writer:
    """Collects ONNX nodes and initializers."""

    def __init__(self, graph: Graph, *, half: bool, half_io: bool, integer: bool) -> None:
        self.graph, self.integer, self.half = graph, integer, half
        self._half_io = half and half_io
        self.in_lines = onnx_lines.values_in_lines(graph) if not integer else frozenset[str]()
        self.makers = {node.output: node for node in graph.nodes}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def model(self) -> Any:  # noqa: ANN401 - onnx ships no types
        """Return the whole model."""
        for node in self.graph.nodes:
            if onnx_lines.write(self, node):
                continue
            translate = TRANSLATIONS.get(type(node.op))
            if translate is None:
                raise ConversionFailed(f"ONNX: {node.output} is a {node.op.kind}")
            translate(self, node.op, node)
        if self.half and not self._half_io:
            narrow, widen = TensorProto.FLOAT16, TensorProto.FLOAT
            self._nodes.insert(0, helper.make_node("Cast", [INPUT], [f"{INPUT}/half"], to=narrow))
            self._nodes.append(helper.make_node("Cast", [f"{OUTPUT}/half"], [OUTPUT], to=widen))
            for written in self._nodes[1:-1]:
                _rename(written.input, INPUT, f"{INPUT}/half")
                _rename(written.output, OUTPUT, f"{OUTPUT}/half")
        for index, written in enumerate(self._nodes):
            written.name = written.name or f"{written.op_type}_{index}"
        picture = TensorProto.FLOAT16 if self._half_io else TensorProto.FLOAT
        proto = helper.make_graph(
            self._nodes,
            "generator",
            [helper.make_tensor_value_info(INPUT, picture, nchw(self.graph.input_shape))],
            [helper.make_tensor_value_info(OUTPUT, picture, nchw(self.graph.output_shape))],
            list(self._initializers.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(proto, opset_imports=[opset], producer_name="coronet-deploy")
        model.ir_version = IR_VERSION
        return model

    def node(self, kind: str, inputs: list[str], node: Node, **attributes: Any) -> None:  # noqa: ANN401
        """Append the ONNX node that makes `node`'s value, its activation behind it."""
        output = node.output
        activated = getattr(node.op, "activation", Activation.NONE) is Activation.RELU
        made = f"{output}/linear" if activated else output
        self._nodes.append(helper.make_node(kind, inputs, [made], output, **attributes))
        if activated:
            self._nodes.append(helper.make_node("Relu", [made], [output]))

    def inner(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401
        """Append a node whose result, `output`, is no value of the graph; return that."""
        self._nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def cast(self, x: str, output: str, *, to_truth: bool = False) -> str:
        """Append what makes booleans numbers, in the file's float type, or the other way round."""
        number = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        return self.inner("Cast", [x], output, to=TensorProto.BOOL if to_truth else number)

    def floats(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """Return the initializer of `values`, in the file's float type."""
        if name not in self._initializers:
            array = np.asarray(values, np.float32, order="C")
            if self.half:
                if array.size and not np.abs(array).max() <= FLOAT16_MAX:
                    raise ConversionFailed(f"ONNX: {name} has weights beyond float16's range")
                array = _narrowed(array)
            kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
            self._store(name, kind, array)
        return name

    def integers(self, values: list[int]) -> str:
        """Return the initializer of `values` as int64."""
        name = "integers/" + "_".join(map(str, values))
        if name not in self._initializers:
            self._store(name, TensorProto.INT64, np.array(values, np.int64))
        return name

    def exactly(self, values: list[float]) -> str:
        """Return the initializer of `values` as float32 in every file."""
        name = "floats/" + "_".join(f"{value:.9g}" for value in values)
        if name not in self._initializers:
            self._store(name, TensorProto.FLOAT, np.array(values, np.float32))
        return name

    def _store(self, name: str, kind: int, array: np.ndarray[Any, Any]) -> None:
        self._initializers[name] = helper.make_tensor(
            name, kind, array.shape, array.tobytes(), raw=True
        )

    def value(self, name: str) -> str:
        """Return the name of an operand: a value, or a constant that broadcasts over NCHW."""
        if name not in self.graph.constants:
            return name
        array = self.graph.constants[name]
        spread = array.reshape((1,) * (4 - array.ndim) + array.shape)
        return self.floats(f"{name}/nchw", spread.transpose(0, 3, 1, 2))

    def channels_last(self, name: str) -> str:
        """Return the initializer of a constant that broadcasts over NHWC."""
        array = self.graph.constants[name]
        return self.floats(f"{name}/nhwc", array.reshape((1,) * (4 - array.ndim) + array.shape))

    def kernel(self, name: str, axes: tuple[int, ...]) -> str:
        """Return the initializer of a convolution's weight with its axes permuted."""
        order = "".join("ohwi"[axis] for axis in axes)
        return self.floats(f"{name}/{order}", self.graph.constants[name].transpose(axes))

    def vectors(self, names: tuple[str, ...]) -> list[str]:
        """Return the initializers of constants of one axis."""
        return [self.floats(name, self.graph.constants[name]) for name in names]


def _narrowed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float16 numbers; one by itself, as an epsilon under a root, stays above zero.

    An epsilon that is rounded to zero leaves a quotient of zeros, which is no number.
    """
    half = array.astype(np.float16)
    if array.size == 1 and array.any() and not half.any():
        half = np.copysign(np.finfo(np.float16).smallest_subnormal, array).astype(np.float16)
    return half


def _rename(names: Any, old: str, new: str) -> None:  # noqa: ANN401 - a protobuf list
    for i, name in enumerate(names):
        if name == old:
            names[i] = new
