"""INT8 artifacts: convolutions in int8, all else computes in float32.

Weights are int8 per output channel, activations eight bits per tensor, with ranges measured on
pictures (`ranges`), and each convolution stands between a quantise and a dequantise. Norms,
activation functions and the picture in and out stay float, because in a generator they are what
eight bits spoil first; so do the convolutions that a sensitivity search leaves out
(`sensitivity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.bias_room import with_room_for_biases
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.int8_weights import with_int8_weights
from coronet_deploy.export.manifest import Quantization
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.passes import PassReport, lower
from coronet_deploy.export.pixels import BRIGHTER, moved_from, with_exact_pixels
from coronet_deploy.export.sensitivity import CONVOLUTIONS, float_macs, int8_layers
from coronet_deploy.export.study import Study, Survey
from coronet_deploy.ranges import MARGIN, Range
from coronet_deploy.vocabulary import DType, Runtime

RESNET_BUDGET_DB = 42.0
UNET_BUDGET_DB = 50.0
"""What the search keeps a simulated int8 generator above, against its float self.

A U-Net loses less: its norms are folded into its convolutions, and its skips carry the picture.
"""
LEAST_BUDGET_DB = 34.0
"""What is asked at the least of a network of which no layer keeps that; the gate asks for 30."""

_LESS_DB = 4.0


@dataclass(frozen=True)
class Int8Plan:
    """A lowered float graph, the names of its layers that compute in int8, and their ranges.

    `packed` are layers that compute in float with weights stored in int8.
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
    margin: float = MARGIN,
    least_db: float = math.inf,
) -> Int8Plan:
    """Return how the graph of `study` is to compute in int8 on `runtime`.

    Layers stay float that would take the PSNR on its pictures below `budget_db`, in a simulation.
    Where not one keeps it, less is asked, down to `least_db`. `margin` is how much wider ranges are
    than the best ones for those pictures.

    Raises:
        ConversionFailed: within the budget no layer can, or a value is not finite on a picture.

    """
    lowered, reports = lower(study.even, runtime, integer=True)
    reports = (*study.even_by, *reports)
    exact = with_exact_pixels(lowered)
    found = study.survey(exact, budget_db, progress, margin)
    while found.layers and not found.chosen and budget_db > least_db:
        progress(f"no layer keeps {budget_db:g} dB in int8")
        budget_db = max(budget_db - _LESS_DB, least_db)
        found = study.survey(exact, budget_db, progress, margin)
    if not found.layers:
        raise ConversionFailed(
            "the network has no convolution that could compute in int8", hint="take fp16"
        )
    if not found.chosen:
        raise ConversionFailed(
            f"no layer can compute in int8 with a PSNR of {budget_db:g} dB",
            hint="take fp16, or calibrate on pictures that are more like those of the task",
        )
    read = {layer.source for layer in found.layers if layer.name in found.chosen}
    if read & moved_from(exact, BRIGHTER):
        report = PassReport("exact_pixels", len(lowered.nodes), len(exact.nodes), changed=True)
        reports = (*reports, report)
        lowered = exact
    summary = _summary(lowered, found, study.shown)
    rounded = with_int8_weights(lowered, found.chosen | found.packed)
    rounded = with_room_for_biases(rounded, found.chosen, found.ranges)
    return Int8Plan(rounded, reports, found.chosen, found.packed, found.ranges, summary)


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
    from coronet_deploy.export.tflite_file import (
        forget_inner_names,
        halve_float_weights,
        pack,
        read_model,
    )

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
    model = read_model(bytes(result.quantized_model))
    forget_inner_names(model.subgraphs[0])
    halve_float_weights(model)
    return pack(model)


def _summary(graph: Graph, found: Survey, pictures: Pictures) -> Quantization:
    total = sum(layer.macs for layer in found.layers) + float_macs(graph)
    computed = [layer for layer in found.layers if layer.name in found.chosen]
    convolutions = [node.output for node in graph.nodes if isinstance(node.op, CONVOLUTIONS)]
    return Quantization(
        calibration_pictures=pictures.names,
        int8_layers=tuple(layer.name for layer in computed),
        float_layers=tuple(name for name in convolutions if name not in found.chosen),
        int8_macs_share=round(sum(layer.macs for layer in computed) / total, 4),
        packed_layers=tuple(name for name in convolutions if name in found.packed),
    )
