"""Int8 convolutions in an ONNX file, as quantise-dequantise pairs (QDQ).

The runtime sees a float Conv between DequantizeLinear and QuantizeLinear nodes and runs an
integer one. Weights are stored as int8 per output channel, biases as int32 in units of the input
scale times the weight scale, which is how the integer sum comes out. Activations are uint8:
ONNX Runtime left convolutions of int8 ones float on x86-64, where their value had two readers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.graph import FloatArray
from coronet_deploy.export.int8_weights import weight_scales
from coronet_deploy.ranges import QMAX, QMIN, Range

_WEIGHT, _BIAS = 1, 2  # which inputs of a Conv


def insert_qdq(
    data: bytes,
    chosen: Collection[str],
    ranges: Mapping[str, Range],
    packed: Collection[str] = (),
) -> bytes:
    """Return the ONNX file `data` with the convolutions `chosen`, by value name, in int8.

    `ranges` gives the real values of what goes into each of them and of what it makes. Those in
    `packed` compute in float with weights stored in int8.

    Raises:
        ConversionFailed: one of `chosen` is no convolution of this file.
        EnvironmentProblem: the package `onnx` is not installed.

    """
    try:
        import onnx
    except ImportError as error:
        raise missing_package("onnx", "export") from error
    model = onnx.load_from_string(data)
    _Rewriter(onnx, model.graph, ranges).run(sorted(chosen), sorted(packed))
    result: bytes = model.SerializeToString(deterministic=True)
    return result


class _Rewriter:
    """Rewrites the nodes and initializers of one graph in place."""

    def __init__(
        self,
        onnx: Any,  # noqa: ANN401 - a module
        graph: Any,  # noqa: ANN401 - a class with no types
        ranges: Mapping[str, Range],
    ) -> None:
        self._onnx, self._graph, self._ranges = onnx, graph, ranges
        self._makers = {output: node for node in graph.node for output in node.output}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._before: dict[str, list[Any]] = {}  # nodes to put before one, by its output
        self._after: dict[str, list[Any]] = {}
        self._restored: dict[str, str] = {}  # a float value to its rounded twin
        self._constants = 0

    def run(self, chosen: Collection[str], packed: Collection[str]) -> None:
        """Put the layers `chosen` into int8, and the weights of those in `packed`."""
        order = {id(node): place for place, node in enumerate(self._graph.node)}
        layers = [(name, *self._layer(name)) for name in chosen]
        # In graph order, so that a value is rounded before its first reader.
        for name, conv, last in sorted(layers, key=lambda layer: order[id(layer[1])]):
            self._quantize_layer(name, conv, last)
        for name in packed:
            conv, _ = self._layer(name)
            self._before[conv.output[0]] = self._unpacked(conv)
        nodes = []
        for node in self._graph.node:
            key = node.output[0]
            nodes += [*self._before.get(key, []), node, *self._after.get(key, [])]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        read = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _layer(self, name: str) -> tuple[Any, Any]:
        """Return the Conv of a layer, and the node that makes the layer's value."""
        last = self._makers.get(name)
        # A layer that ends in a ReLU goes by the ReLU's value.
        conv = last
        if last is not None and last.op_type == "Relu":
            conv = self._makers.get(last.input[0])
        if conv is None or conv.op_type != "Conv":
            raise ConversionFailed(f"ONNX: {name} is no convolution of this graph")
        return conv, last

    def _weight(self, conv: Any) -> tuple[npt.NDArray[np.int8], FloatArray]:  # noqa: ANN401 - untyped
        """Return a convolution's weight in int8, OIHW, and its scales, (O,)."""
        weight = self._onnx.numpy_helper.to_array(self._weights[conv.input[_WEIGHT]])
        scales = weight_scales(weight.transpose(0, 2, 3, 1))
        steps = np.rint(weight / scales[:, None, None, None])
        return np.clip(steps, -QMAX, QMAX).astype(np.int8), scales

    def _unpacked(self, conv: Any) -> list[Any]:  # noqa: ANN401 - untyped
        """Have a convolution read its weight from int8, and return the nodes that restore it.

        Not a DequantizeLinear: ONNX Runtime computes that anew for each picture, and takes a slower
        convolution where weights are no constants. A Cast and a Mul it computes at load.
        """
        stored, scales = self._weight(conv)
        spread = scales.astype(np.float32)[:, None, None, None]
        node, kind = self._onnx.helper.make_node, self._onnx.TensorProto.FLOAT
        whole = self._constant(stored)
        steps, restored = f"{whole}/steps", f"{whole}/weight"
        conv.input[_WEIGHT] = restored
        return [
            node("Cast", [whole], [steps], to=kind),
            node("Mul", [steps, self._constant(spread)], [restored]),
        ]

    def _quantize_layer(self, name: str, conv: Any, last: Any) -> None:  # noqa: ANN401 - untyped
        source = conv.input[0]
        before: list[Any] = []
        if source not in self._restored:
            self._restored[source] = f"{source}/rounded"
            before += self._pair(source, self._restored[source], self._ranges[source])
        stored, scales = self._weight(conv)
        restored = self._dequantize(f"{name}/int8/weight", stored, scales, before)
        inputs = [self._restored[source], restored]
        if len(conv.input) > _BIAS:
            bias = self._onnx.numpy_helper.to_array(self._weights[conv.input[_BIAS]])
            unit = scales * self._ranges[source].scale
            steps = np.rint(bias / unit).astype(np.float64)  # which holds the ends of 32 bits
            whole = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)
            inputs.append(self._dequantize(f"{name}/int8/bias", whole, unit, before))
        del conv.input[:]
        conv.input.extend(inputs)
        exact = f"{name}/exact"
        last.output[0] = exact
        self._before[conv.output[0]] = before
        self._after[exact] = self._pair(exact, name, self._ranges[name])

    def _pair(self, value: str, rounded: str, r: Range) -> list[Any]:
        scale = self._constant(np.asarray(r.scale, np.float32))
        zero = self._constant(np.asarray(r.zero_point - QMIN, np.uint8))
        node, whole = self._onnx.helper.make_node, f"{rounded}/uint8"
        return [
            node("QuantizeLinear", [value, scale, zero], [whole]),
            node("DequantizeLinear", [whole, scale, zero], [rounded]),
        ]

    def _dequantize(
        self,
        name: str,
        stored: npt.NDArray[np.int8] | npt.NDArray[np.int32],
        scales: npt.NDArray[np.float32],
        into: list[Any],
    ) -> str:
        zeros = np.zeros(scales.shape, stored.dtype)
        inputs = [self._constant(values) for values in (stored, scales.astype(np.float32), zeros)]
        into.append(self._onnx.helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        return name

    def _constant(self, values: npt.NDArray[Any]) -> str:
        """Return the short name of a new constant: names are much of a small file."""
        self._constants += 1
        name = f"int8/{self._constants}"
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(values, name))
        return name
