"""Writes an `IntegerPlan` as a TFLite file in which every operator computes in integers.

Weights are int8 per output channel, biases integers in units of the input's scale times the
weight's: 32 bits for 8-bit values, 64 for 16-bit ones, which is how TFLite's kernels add them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from coronet_deploy.errors import missing_package
from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import Node
from coronet_deploy.export.integer.formats import Format, channel_scales
from coronet_deploy.export.integer.plan import IntegerPlan
from coronet_deploy.export.tflite import Writer
from coronet_deploy.ranges import QMAX, Range

try:
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

_CONVOLUTIONS = ops.Conv2d | ops.DepthwiseConv2d | ops.ConvTranspose2d
_WIDE = 16

# The operator versions that know 8-bit and 16-bit values, where those are not 2 and 3.
_VERSIONS: Mapping[str, tuple[int, int]] = {
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "TRANSPOSE_CONV": (2, 3),
    "SUB": (2, 5),
    "MUL": (2, 4),
    "SLICE": (2, 4),
    "LEAKY_RELU": (2, 2),
    "ELU": (1, 1),
    "GELU": (2, 2),
    "RESHAPE": (1, 1),
    "RESIZE_BILINEAR": (3, 4),
    "QUANTIZE": (2, 2),
    "DEQUANTIZE": (2, 3),
}


def write_tflite(plan: IntegerPlan, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of the file; the same for the same arguments.

    Raises:
        ConversionFailed: an operator that TFLite does not have in this form.

    """
    return _IntegerWriter(plan).file(metadata)


class _IntegerWriter(Writer):
    """Stores every value and constant in the plan's formats."""

    def __init__(self, plan: IntegerPlan) -> None:
        super().__init__(plan.graph)
        self._formats = plan.formats

    def made(self, name: str) -> int:
        stored = self._formats.get(name)
        if stored is None:
            return super().made(name)
        return self.tensor(
            name, self.graph.shapes[name], stored.dtype, quantization=_per_tensor(stored)
        )

    def operands(self, node: Node) -> list[int]:
        if isinstance(node.op, _CONVOLUTIONS):
            x, weight, bias = node.inputs
            return [self.value(x), *self._parameters(node, x, weight, bias)]
        bits = self._formats[node.output].bits if node.output in self._formats else _WIDE
        return [
            self._operand(name, bits) if name in self.graph.constants else self.value(name)
            for name in node.inputs
        ]

    def _operand(self, name: str, bits: int) -> int:
        """Return the tensor of a constant that is no weight, in a format of its own."""
        key = f"{name}/int{bits}", False
        if key not in self._values:
            values = self.graph.constants[name]
            r = Range(min(float(values.min()), 0.0), max(float(values.max()), 1e-6))
            stored = Format.of(r, bits)
            self._values[key] = self.constant(key[0], stored.store(values), _per_tensor(stored))
        return self._values[key]

    def _parameters(self, node: Node, x: str, weight: str, bias: str) -> list[int]:
        kernel, added = self.graph.constants[weight], self.graph.constants[bias]
        source = self._formats[x]
        depthwise = isinstance(node.op, ops.DepthwiseConv2d)
        outputs_first = kernel.transpose(3, 1, 2, 0) if depthwise else kernel
        scales = channel_scales(outputs_first, added, source)
        shape = (1, 1, 1, -1) if depthwise else (-1, 1, 1, 1)
        steps = np.clip(np.rint(kernel / scales.reshape(shape)), -QMAX, QMAX).astype(np.int8)
        units = scales.astype(np.float64) * float(source.scale)
        wide = np.int64 if source.bits == _WIDE else np.int32
        whole = np.rint(added / units).astype(wide)
        axis = 3 if depthwise else 0
        return [
            self.constant(f"{node.output}/weight", steps, _per_channel(scales, axis)),
            self.constant(f"{node.output}/bias", whole, _per_channel(units, 0)),
        ]

    def operator(
        self,
        code: int,
        inputs: list[int],
        output: int,
        options: Any,  # noqa: ANN401 - the schema ships no types
        version: int = 1,
    ) -> None:
        kind = self._kind(code)
        wide = schema.TensorType.INT16 in {self._tensors[t].type for t in (*inputs, output)}
        version = _VERSIONS.get(kind, (2, 3))[wide]
        if hasattr(options, "potScaleInt16"):
            options.potScaleInt16 = False  # scales are what they are, no powers of two
        super().operator(code, inputs, output, options, version)

    @staticmethod
    def _kind(code: int) -> str:
        names = vars(schema.BuiltinOperator).items()
        return next(str(name) for name, value in names if value == code)


def _per_tensor(stored: Format) -> Any:  # noqa: ANN401 - the schema ships no types
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [float(stored.scale)], [stored.zero_point]
    return quantization


def _per_channel(scales: npt.NDArray[Any], axis: int) -> Any:  # noqa: ANN401 - the schema ships no types
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.asarray(scales, np.float32)
    quantization.zeroPoint = np.zeros(scales.shape, np.int64)
    quantization.quantizedDimension = axis
    return quantization
