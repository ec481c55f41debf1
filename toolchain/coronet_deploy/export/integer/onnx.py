"""Writes an `IntegerPlan` as an ONNX file: a pair of quantise and dequantise behind every value.

A runtime that computes in integers takes each operator between dequantised inputs and a quantised
output as an integer one (QDQ); one that does not, computes it in float and rounds to the same
numbers. Activations are unsigned, as the runtimes' integer kernels prefer, weights int8 per
output channel, biases int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.graph import INPUT, OUTPUT, FloatArray
from coronet_deploy.export.integer.formats import Format, channel_scales
from coronet_deploy.export.integer.plan import IntegerPlan
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.ranges import QMAX, Range
from coronet_deploy.vocabulary import DType

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise missing_package(error.name or "onnx", "export") from error

OPSET, IR_VERSION = 21, 10
"""The first in which QuantizeLinear knows 16 bits."""

_PARAMETERS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "InstanceNormalization": 1,
}  # where an operator's weight stands


def write_onnx(plan: IntegerPlan, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of the file; the same for the same arguments.

    Raises:
        ConversionFailed: an operator that ONNX does not have in this form.

    """
    model = onnx.load_from_string(emit_onnx(plan.graph, DType.FP32, metadata, integer=True))
    _Rewriter(plan, model.graph).run()
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"ONNX: the checker refuses the file: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@dataclass
class _Rewriter:
    """Writes a graph's nodes anew, in place."""

    plan: IntegerPlan
    graph: Any

    def __post_init__(self) -> None:
        self._weights = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self._constants: dict[str, Any] = {}
        self._restored: dict[str, str] = {}  # constants that are no weights
        self._nodes: list[Any] = []

    def run(self) -> None:
        """Put the pairs in, and integers in the place of float constants."""
        self._picture_in()
        for node in list(self.graph.node):
            self._operands(node)
            for place, name in enumerate(node.output):
                stored = self.plan.formats.get(name)
                if stored is None:
                    self._nodes.append(node)
                    continue
                node.output[place] = f"{name}/exact"
                if node.op_type == "Identity":
                    self._pair(node.input[0], name, stored)
                    continue
                self._nodes.append(node)
                self._pair(f"{name}/exact", name, stored)
        self._picture_out()
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        floats = [t for t in self.graph.initializer if t.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*floats, *self._constants.values()])

    def _picture_in(self) -> None:
        stored = self.plan.formats.get(INPUT)
        if stored is None:
            return
        dtype, _ = stored.unsigned
        self.graph.input[0].type.tensor_type.elem_type = getattr(TensorProto, dtype.upper())
        self._restore(INPUT, f"{INPUT}/real", stored)
        for node in self.graph.node:
            for place, name in enumerate(node.input):
                if name == INPUT:
                    node.input[place] = f"{INPUT}/real"

    def _picture_out(self) -> None:
        """Let the stored picture leave, in the place of its restored twin."""
        stored = self.plan.formats.get(OUTPUT)
        if stored is None:
            if self._nodes[-1].op_type == "Identity":  # what has no format needs no pair
                source = self._nodes.pop().input[0]
                self._nodes[-1].output[0] = OUTPUT
                if source == OUTPUT:
                    raise ConversionFailed("ONNX: the picture is made by no operator")
            return
        dtype, _ = stored.unsigned
        self.graph.output[0].type.tensor_type.elem_type = getattr(TensorProto, dtype.upper())
        self._nodes.pop()
        self._nodes[-1].output[0] = OUTPUT

    def _pair(self, value: str, restored: str, stored: Format) -> None:
        dtype, _ = stored.unsigned
        whole = f"{restored}/{dtype}"
        inputs = [value, *self._numbers(restored, stored)]
        name = f"{restored}/quantize"
        self._nodes.append(helper.make_node("QuantizeLinear", inputs, [whole], name))
        self._restore(whole, restored, stored)

    def _restore(self, whole: str, restored: str, stored: Format) -> None:
        inputs = [whole, *self._numbers(restored, stored)]
        name = f"{restored}/restore"
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [restored], name))

    def _numbers(self, name: str, stored: Format) -> list[str]:
        dtype, zero = stored.unsigned
        scale = self._constant(f"{name}/scale", np.asarray(stored.scale, np.float32))
        return [scale, self._constant(f"{name}/zero_point", np.asarray(zero, dtype))]

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def _operands(self, node: Any) -> None:  # noqa: ANN401 - onnx ships no types
        """Put integers in the place of a node's float constants."""
        first = _PARAMETERS.get(node.op_type, len(node.input))
        for place in range(min(first, len(node.input))):
            name = node.input[place]
            if name in self._weights and self._weights[name].dtype == np.float32:
                bits = self._bits_of(node)
                node.input[place] = self._plain_constant(name, self._weights[name], bits)
        if node.op_type in {"Conv", "ConvTranspose"}:
            self._parameters(node, axis=0 if node.op_type == "Conv" else 1)
        elif node.op_type == "InstanceNormalization":
            self._parameters(node, axis=None)

    def _bits_of(self, node: Any) -> int:  # noqa: ANN401 - onnx ships no types
        stored = self.plan.formats.get(node.output[0].removesuffix("/linear"))
        return stored.bits if stored else 16

    def _plain_constant(self, name: str, values: FloatArray, bits: int) -> str:
        restored = f"{name}/uint{bits}/real"
        if restored not in self._restored:
            r = Range(min(float(values.min()), 0.0), max(float(values.max()), 1e-6))
            stored = Format.of(r, bits)
            dtype, zero = stored.unsigned
            whole = stored.store(values).astype(np.int64) - stored.zero_point + zero
            self._restore(self._constant(f"{name}/{dtype}", whole.astype(dtype)), restored, stored)
            self._restored[restored] = restored
        return restored

    def _parameters(self, node: Any, axis: int | None) -> None:  # noqa: ANN401 - onnx ships no types
        """Store weight and bias; per output channel if `axis` is that of a weight."""
        x, weight, bias = node.input
        source = self._format_of(x)
        kernel, added = self._weights[weight], self._weights[bias]
        if axis is None:
            spread = kernel.reshape(1, 1, 1, -1)
            scales = channel_scales(spread, np.abs(added).max(keepdims=True), source)
        else:
            outputs_first = np.moveaxis(kernel, axis, 0)
            scales = channel_scales(outputs_first.transpose(0, 2, 3, 1), added, source)
        shape = [1] * kernel.ndim
        shape[axis or 0] = -1
        steps = np.clip(np.rint(kernel / scales.reshape(shape)), -QMAX, QMAX).astype(np.int8)
        units = (scales.astype(np.float64) * float(source.scale)).astype(np.float32)
        whole = np.rint(added / units.astype(np.float64))
        # With 16 bits the sum may be finer than 32 bits reach; a bias that large is rare.
        limit = np.iinfo(np.int32)
        whole = np.clip(whole, limit.min, limit.max).astype(np.int32)
        name = f"{node.output[0]}/stored"
        node.input[1] = self._stored(f"{name}/weight", steps, scales, axis)
        node.input[2] = self._stored(f"{name}/bias", whole, units, None if axis is None else 0)

    def _format_of(self, restored: str) -> Format:
        name = INPUT if restored == f"{INPUT}/real" else restored
        return self.plan.formats[name]

    def _stored(
        self, name: str, values: npt.NDArray[Any], scales: FloatArray, axis: int | None
    ) -> str:
        numbers = scales if axis is not None else scales.reshape(())
        inputs = [
            self._constant(f"{name}/{values.dtype.name}", values),
            self._constant(f"{name}/scale", numbers),
            self._constant(f"{name}/zero_point", np.zeros(numbers.shape, values.dtype)),
        ]
        attributes = {} if axis is None else {"axis": axis}
        self._nodes.append(
            helper.make_node("DequantizeLinear", inputs, [name], f"{name}/restore", **attributes)
        )
        return name
