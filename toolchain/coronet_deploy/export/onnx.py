"""Writes a `Graph` as an ONNX file, in NCHW, mostly with the operators that it was captured with.

ONNX Runtime has kernels for reflection padding, InstanceNormalization and ConvTranspose, so those
are kept whole, but for layers so wide that others are faster (see `passes`). Picture in and out are
float32 tensors named "input" and "output"; in FP16 a Cast stands behind the one and before the
other, and weights and arithmetic between them are float16. With `half_io` there are no casts, and
pictures are float16 too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import FLOAT16_MAX, INPUT, OUTPUT, Graph, Node
from coronet_deploy.export.operators import Activation, Operator, Padding, Shape
from coronet_deploy.export.pooling import MaxPool2d
from coronet_deploy.vocabulary import DType

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError as error:
    raise missing_package(error.name or "onnx", "export") from error

OPSET = 20
IR_VERSION = 9  # the oldest that has this opset, so that older runtimes load the file too

_TO_NCHW = (0, 2, 3, 1)  # where an NHWC axis is found in NCHW


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
    model = _Writer(graph, half=half, half_io=half_io, integer=integer).model()
    helper.set_model_props(model, dict(sorted(metadata.items())))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConversionFailed(f"ONNX: the checker refuses the file: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Writer:
    """Collects ONNX nodes and initializers."""

    def __init__(self, graph: Graph, *, half: bool, half_io: bool, integer: bool) -> None:
        self.graph, self.integer = graph, integer
        self._half = half
        self._half_io = half and half_io
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def model(self) -> Any:  # noqa: ANN401 - onnx ships no types
        for node in self.graph.nodes:
            translate = _TRANSLATIONS.get(type(node.op))
            if translate is None:
                raise ConversionFailed(f"ONNX: {node.output} is a {node.op.kind}")
            translate(self, node.op, node)
        if self._half and not self._half_io:
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
            [helper.make_tensor_value_info(INPUT, picture, _nchw(self.graph.input_shape))],
            [helper.make_tensor_value_info(OUTPUT, picture, _nchw(self.graph.output_shape))],
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

    def floats(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """Return the initializer of `values`, in the file's float type."""
        if name not in self._initializers:
            array = np.ascontiguousarray(values, np.float32)
            if self._half:
                if array.size and not np.abs(array).max() <= FLOAT16_MAX:
                    raise ConversionFailed(f"ONNX: {name} has weights beyond float16's range")
                array = array.astype(np.float16)
            kind = TensorProto.FLOAT16 if self._half else TensorProto.FLOAT
            self._store(name, kind, array)
        return name

    def integers(self, values: list[int]) -> str:
        """Return the initializer of `values` as int64."""
        name = "integers/" + "_".join(map(str, values))
        if name not in self._initializers:
            self._store(name, TensorProto.INT64, np.array(values, np.int64))
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

    def kernel(self, name: str, axes: tuple[int, ...]) -> str:
        """Return the initializer of a convolution's weight with its axes permuted."""
        order = "".join("ohwi"[axis] for axis in axes)
        return self.floats(f"{name}/{order}", self.graph.constants[name].transpose(axes))

    def vectors(self, names: tuple[str, ...]) -> list[str]:
        """Return the initializers of constants of one axis."""
        return [self.floats(name, self.graph.constants[name]) for name in names]


def _nchw(shape: Shape) -> list[int]:
    return [shape[0], shape[3], shape[1], shape[2]]


def _rename(names: Any, old: str, new: str) -> None:  # noqa: ANN401 - a protobuf list
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


def _pads(p: Padding) -> list[int]:
    return [p.top, p.left, p.bottom, p.right]


def _conv2d(writer: _Writer, op: ops.Conv2d, node: Node) -> None:
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
    )


def _depthwise_conv2d(writer: _Writer, op: ops.DepthwiseConv2d, node: Node) -> None:
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


def _conv_transpose2d(writer: _Writer, op: ops.ConvTranspose2d, node: Node) -> None:
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


def _batch_norm(writer: _Writer, op: ops.BatchNorm, node: Node) -> None:
    x, *vectors = node.inputs
    inputs = [x, *writer.vectors(tuple(vectors))]
    writer.node("BatchNormalization", inputs, node, epsilon=op.epsilon)


def _instance_norm(writer: _Writer, op: ops.InstanceNorm, node: Node) -> None:
    x, *affine = node.inputs
    channels = writer.graph.shapes[x][3]
    vectors = writer.vectors(tuple(affine)) or [
        writer.floats(f"ones/{channels}", np.ones(channels)),
        writer.floats(f"zeros/{channels}", np.zeros(channels)),
    ]
    writer.node("InstanceNormalization", [x, *vectors], node, epsilon=op.epsilon)


def _pad(writer: _Writer, op: ops.ReflectPad | ops.ZeroPad, node: Node) -> None:
    p = op.padding
    pads = writer.integers([0, 0, p.top, p.left, 0, 0, p.bottom, p.right])
    mode = "reflect" if isinstance(op, ops.ReflectPad) else "constant"
    writer.node("Pad", [node.inputs[0], pads], node, mode=mode)


def _plain(kind: str) -> Callable[..., None]:
    def translate(writer: _Writer, op: Operator, node: Node) -> None:
        del op
        writer.node(kind, [writer.value(name) for name in node.inputs], node)

    return translate


def _leaky_relu(writer: _Writer, op: ops.LeakyRelu, node: Node) -> None:
    writer.node("LeakyRelu", list(node.inputs), node, alpha=op.slope)


def _max_pool2d(writer: _Writer, op: MaxPool2d, node: Node) -> None:
    writer.node("MaxPool", list(node.inputs), node, kernel_shape=op.kernel, strides=op.stride)


def _prelu(writer: _Writer, op: ops.PRelu, node: Node) -> None:
    """relu(x) - slope * relu(-x), a quarter to a third of the time of ONNX Runtime's PRelu."""
    del op
    (x, slope), name = node.inputs, node.output
    over = writer.inner("Relu", [x], f"{name}/over")
    under = writer.inner("Relu", [writer.inner("Neg", [x], f"{name}/minus")], f"{name}/under")
    sloping = writer.inner("Mul", [under, writer.value(slope)], f"{name}/sloping")
    writer.node("Sub", [over, sloping], node)


def _concat(writer: _Writer, op: ops.Concat, node: Node) -> None:
    inputs = [writer.value(name) for name in node.inputs]
    writer.node("Concat", inputs, node, axis=_TO_NCHW[op.axis])


def _slice(writer: _Writer, op: ops.Slice, node: Node) -> None:
    begin, size = _nchw(op.begin), _nchw(op.size)
    ends = [b + n for b, n in zip(begin, size, strict=True)]
    bounds = [writer.integers(begin), writer.integers(ends)]
    writer.node("Slice", [*node.inputs, *bounds], node)


def _rsqrt(writer: _Writer, op: ops.Rsqrt, node: Node) -> None:
    del op
    root = writer.inner("Sqrt", list(node.inputs), f"{node.output}/root")
    writer.node("Reciprocal", [root], node)


def _mean(writer: _Writer, op: ops.Mean, node: Node) -> None:
    axes = writer.integers([_TO_NCHW[axis] for axis in op.axes])
    writer.node("ReduceMean", [node.inputs[0], axes], node, keepdims=1)


def _reshape(writer: _Writer, op: ops.Reshape, node: Node) -> None:
    """Keep the numbers in the order that they have in NHWC."""
    (x,), shape = node.inputs, op.shape
    if not _one_line(writer.graph.shapes[x]):
        x = writer.inner("Transpose", [x], f"{node.output}/nhwc", perm=(0, 2, 3, 1))
    if _one_line(shape):
        writer.node("Reshape", [x, writer.integers(_nchw(shape))], node)
        return
    shaped = [x, writer.integers(list(shape))]
    x = writer.inner("Reshape", shaped, f"{node.output}/shaped")
    writer.node("Transpose", [x], node, perm=(0, 3, 1, 2))


def _one_line(shape: Shape) -> bool:
    """Return whether the numbers of a value of `shape` have one order in NHWC and in NCHW."""
    return shape[3] == 1 or shape[1] * shape[2] == 1


def _depth_to_space(writer: _Writer, op: ops.DepthToSpace, node: Node) -> None:
    """Interleave channels in the order (row, column, channel), ONNX's DCR.

    By two transposes, rows between lines and then columns between pixels, ONNX Runtime takes 0.35
    to 0.6 of the time of its DepthToSpace.
    """
    (x,), block = node.inputs, op.block
    if writer.integer:
        writer.node("DepthToSpace", [x], node, blocksize=block, mode="DCR")
        return
    _, channels, height, width = _nchw(writer.graph.shapes[x])
    rows = [block, channels // block, height, width]
    columns = [block, channels * height * width // block]
    last = _nchw(writer.graph.shapes[node.output])
    for place, (shape, order) in enumerate(((rows, (1, 2, 0, 3)), (columns, (1, 0)))):
        shaped = [x, writer.integers(shape)]
        x = writer.inner("Reshape", shaped, f"{node.output}/{2 * place}")
        x = writer.inner("Transpose", [x], f"{node.output}/{2 * place + 1}", perm=order)
    writer.node("Reshape", [x, writer.integers(last)], node)


_TRANSLATIONS: dict[type[Operator], Callable[..., None]] = {
    ops.Conv2d: _conv2d,
    ops.DepthwiseConv2d: _depthwise_conv2d,
    ops.ConvTranspose2d: _conv_transpose2d,
    ops.BatchNorm: _batch_norm,
    ops.InstanceNorm: _instance_norm,
    ops.ReflectPad: _pad,
    ops.ZeroPad: _pad,
    ops.Relu: _plain("Relu"),
    ops.LeakyRelu: _leaky_relu,
    MaxPool2d: _max_pool2d,
    ops.PRelu: _prelu,
    ops.Elu: _plain("Elu"),
    ops.Gelu: _plain("Gelu"),
    ops.Tanh: _plain("Tanh"),
    ops.Sigmoid: _plain("Sigmoid"),
    ops.Rsqrt: _rsqrt,
    ops.Add: _plain("Add"),
    ops.Sub: _plain("Sub"),
    ops.Mul: _plain("Mul"),
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Mean: _mean,
    ops.DepthToSpace: _depth_to_space,
    # The pair of quantise and dequantise that its value gets is all it is.
    ops.Requantize: _plain("Identity"),
}
