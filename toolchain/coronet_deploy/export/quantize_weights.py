"""TFLite files whose weights are int8 and whose values stay float: no calibration is needed."""

from __future__ import annotations

import warnings

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.memory import shortage


def quantize_weights(data: bytes, *, dynamic: bool) -> bytes:
    """Return the float TFLite file `data` with int8 weights, per output channel.

    Convolutions compute in float with weights unpacked at load or, if `dynamic`, in int8 with the
    range of what comes in measured on every inference.

    Raises:
        ConversionFailed: the quantiser refuses the graph.
        EnvironmentProblem: the package `ai-edge-quantizer` is not installed.

    """
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise missing_package("ai-edge-quantizer", "export") from error
    from coronet_deploy.export.tflite_file import pack, read_model

    how = recipe.dynamic_wi8_afp32() if dynamic else recipe.weight_only_wi8_afp32()
    # It draws a progress bar, asked or not.
    with warnings.catch_warnings(), captured_stderr():
        warnings.simplefilter("ignore")
        try:
            result = quantizer.Quantizer(data, how).quantize(
                enable_progress_bar=False, enable_progress_report=False
            )
        except (KeyError, RuntimeError, ValueError) as error:
            if shortage(error):
                raise
            raise ConversionFailed(f"ai-edge-quantizer refuses the graph: {error}") from error
    return pack(read_model(bytes(result.quantized_model)))
