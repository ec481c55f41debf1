"""INT8 artifacts: convolutions in int8, all else in float32.

Weights are int8 per output channel, activations eight bits per tensor, with ranges measured on
pictures (`ranges`), and each convolution stands between a quantise and a dequantise. Norms,
activation functions and the picture in and out stay float, because in a generator they are what
eight bits spoil first; so do the convolutions that a sensitivity search leaves out
(`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.manifest import Quantization
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.passes import PassReport, lower
from coronet_deploy.export.ranges import Range
from coronet_deploy.export.sensitivity import (
    Layer,
    float_macs,
    int8_layers,
    round_weight,
)
from coronet_deploy.export.study import Study
from coronet_deploy.vocabulary import DType, Runtime

RESNET_BUDGET_DB = 40.0
UNET_BUDGET_DB = 50.0
"""What the search keeps a simulated int8 generator above, against its float self.

A U-Net loses less: its norms are folded into its convolutions, and its skips carry the picture.
"""


_HEAVY = 0.01  # of all weights


@dataclass(frozen=True)
class Int8Plan:
    """A lowered float graph, the names of its layers that compute in int8, and their ranges.

    `packed` are layers that compute in float with weights stored in int8: what spoils a layer is
    its activations in eight bits, not its weights, and the file stays a quarter.
    """

    graph: Graph
    passes: tuple[PassReport, ...]
    chosen: frozenset[str]
    packed: frozenset[str]
    ranges: Mapping[str, Range]
    summary: Quantization


def plan_int8(
    study: Study,
    runtime: Runtime,
    budget_db: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Int8Plan:
    """Return how the graph of `study` is to compute in int8 on `runtime`.

    Layers stay float that would take the PSNR on its pictures below `budget_db`, in a simulation.

    Raises:
        ConversionFailed: within the budget no layer can, or a value is not finite on a picture.

    """
    lowered, reports = lower(study.even, runtime, integer=True)
    found = study.survey(lowered, budget_db, progress)
    if not found.chosen:
        raise ConversionFailed(
            f"no layer can compute in int8 with a PSNR of {budget_db:g} dB",
            hint="take fp16, or calibrate on pictures that are more like those of the task",
        )
    summary = _summary(found.layers, found.chosen, study.shown, float_macs(lowered))
    packed = _heavy(lowered, {layer.name for layer in found.layers} - found.chosen)
    return Int8Plan(_rounded(lowered, packed), reports, found.chosen, packed, found.ranges, summary)


def _rounded(graph: Graph, packed: frozenset[str]) -> Graph:
    """Return `graph` with the weights of the layers `packed` as int8 has them."""
    weights = {node.inputs[1] for node in graph.nodes if node.output in packed}
    rounded = {name: round_weight(graph.constants[name]) for name in weights}
    return replace(graph, constants={**graph.constants, **rounded})


def _heavy(graph: Graph, left: set[str]) -> frozenset[str]:
    """Return those of `left`, which compute in float, whose weights the file would show."""
    sizes = {
        node.output: graph.constants[node.inputs[1]].size
        for node in graph.nodes
        if isinstance(node.op, Conv2d)
    }
    least = _HEAVY * sum(sizes.values())
    return frozenset(name for name in left if sizes[name] >= least)


def write_int8(plan: Int8Plan, runtime: Runtime, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of an INT8 artifact; the same bytes for the same arguments."""
    if runtime is Runtime.ONNX:
        from coronet_deploy.export.onnx import emit_onnx
        from coronet_deploy.export.quantize_onnx import insert_qdq

        data = emit_onnx(plan.graph, DType.FP32, metadata)
        return insert_qdq(data, plan.chosen, plan.ranges, plan.packed)
    from coronet_deploy.export.tflite import emit_tflite

    return _quantize_tflite(emit_tflite(plan.graph, DType.FP32, metadata), plan)


def _quantize_tflite(data: bytes, plan: Int8Plan) -> bytes:
    import re
    import warnings

    import numpy as np

    try:
        from ai_edge_quantizer import qtyping, quantizer
    except ImportError as error:
        raise missing_package("ai-edge-quantizer", "export") from error
    sources = {layer.name: layer.source for layer in int8_layers(plan.graph)}
    work = quantizer.Quantizer(data)
    # The quantizer finds an operator by a search for this in "<its output's name>;".
    for name in sorted(plan.chosen):
        work.add_static_config(
            regex=f"^{re.escape(name)};$",
            operation_name=qtyping.TFLOperationName.CONV_2D,
            activation_num_bits=8,
            weight_num_bits=8,
        )
    for name in sorted(plan.packed):
        work.add_weight_only_config(
            regex=f"^{re.escape(name)};$",
            operation_name=qtyping.TFLOperationName.CONV_2D,
            num_bits=8,
        )
    measured = {
        value: {
            "min": np.full((1, 1, 1, 1), plan.ranges[value].low, np.float32),
            "max": np.full((1, 1, 1, 1), plan.ranges[value].high, np.float32),
        }
        for name in sorted(plan.chosen)
        for value in (sources[name], name)
    }
    # It warns of its own debugging interpreter and draws a progress bar, asked or not.
    with warnings.catch_warnings(), captured_stderr():
        warnings.simplefilter("ignore")
        try:
            result = work.quantize(
                measured, enable_progress_bar=False, enable_progress_report=False
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConversionFailed(f"ai-edge-quantizer refuses the graph: {error}") from error
    return bytes(result.quantized_model)


def _summary(
    layers: tuple[Layer, ...], chosen: frozenset[str], pictures: Pictures, other_macs: int
) -> Quantization:
    total = sum(layer.macs for layer in layers) + other_macs
    return Quantization(
        calibration_pictures=pictures.names,
        int8_layers=tuple(layer.name for layer in layers if layer.name in chosen),
        float_layers=tuple(layer.name for layer in layers if layer.name not in chosen),
        int8_macs_share=round(
            sum(layer.macs for layer in layers if layer.name in chosen) / total, 4
        ),
    )
