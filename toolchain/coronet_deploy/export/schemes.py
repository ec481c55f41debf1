"""The number schemes by name: what each is in each runtime, and why some are in one only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import DType, Runtime

_DESCRIPTIONS: Mapping[tuple[Runtime, DType], str] = {
    (Runtime.ONNX, DType.FP32): "float32",
    (Runtime.TFLITE, DType.FP32): "float32",
    (Runtime.ONNX, DType.FP16): "float16 with float32 input and output",
    (Runtime.TFLITE, DType.FP16): "float16 weights, arithmetic as the delegate chooses",
    (Runtime.ONNX, DType.INT8): "int8 convolutions (QDQ, uint8 activations), the rest float32",
    (Runtime.TFLITE, DType.INT8): "int8 convolutions, activation ranges found at run time, the "
    "rest float32 with float16 weights",
    (Runtime.ONNX, DType.INT8_FULL): "integers throughout (QDQ): uint8 pictures and activations, "
    "int8 weights, uint16 sums of norms and residual streams",
    (Runtime.TFLITE, DType.INT8_FULL): "integers throughout: int8 pictures, activations and "
    "weights, int16 sums of norms and residual streams",
    (Runtime.TFLITE, DType.INT16X8): "int16 activations, int8 weights, float32 input and output",
    (Runtime.ONNX, DType.A16W8): "uint16 activations, int8 weights (QDQ), float32 input and output",
    (Runtime.TFLITE, DType.INT8_DYNAMIC): "int8 in every convolution, activation ranges found "
    "at run time, the rest float32",
    (Runtime.TFLITE, DType.INT8_WEIGHTS): "int8 weights, unpacked at load; arithmetic in float32",
}

_REFUSALS: Mapping[tuple[Runtime, DType], str] = {
    (Runtime.ONNX, DType.INT16X8): "int16x8 is a scheme of TFLite; that of ONNX is a16w8",
    (Runtime.TFLITE, DType.A16W8): "a16w8 is a scheme of ONNX; that of TFLite is int16x8",
    (Runtime.ONNX, DType.INT8_DYNAMIC): "int8-dynamic is not written for ONNX, whose runtime took "
    "3.9 times as long as in float; int8 is faster and closer",
    (Runtime.ONNX, DType.INT8_WEIGHTS): "int8-weights is not written for ONNX, whose runtime "
    "unpacks the weights on every inference; int8 is as small and faster",
}

INTEGER_BITS: Mapping[DType, int] = MappingProxyType(
    {DType.INT8_FULL: 8, DType.INT16X8: 16, DType.A16W8: 16}
)
"""The number types in which every operator computes in integers, and the bits of its values."""

CALIBRATED = frozenset({DType.INT8, *INTEGER_BITS})
"""The number types that are fitted to calibration pictures: their ranges, or what stays float."""

BOUNDS_DB: Mapping[DType, float] = MappingProxyType(
    {
        DType.FP32: 100.0,
        DType.FP16: 60.0,
        DType.INT8: 30.0,
        DType.INT8_FULL: 30.0,
        DType.INT16X8: 40.0,
        DType.A16W8: 40.0,
        DType.INT8_DYNAMIC: 30.0,
        DType.INT8_WEIGHTS: 40.0,
    }
)
"""The PSNR against torch in dB that an artifact's worst picture must reach, by number type."""


def describe_scheme(runtime: Runtime, dtype: DType) -> str:
    """Return what `dtype` is in an artifact for `runtime`, in words.

    Raises:
        BadInput: it is none; says why.

    """
    if reason := refusal(runtime, dtype):
        raise BadInput(reason)
    return _DESCRIPTIONS[runtime, dtype]


def refusal(runtime: Runtime, dtype: DType) -> str | None:
    """Return why no artifact for `runtime` is written in `dtype`; None if it is."""
    return _REFUSALS.get((runtime, dtype))
