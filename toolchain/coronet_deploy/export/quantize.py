"""INT8 artifacts: convolutions in int8, all else computes in float32.

Weights are int8 per output channel, activations eight bits per tensor. In TFLite the range of what
a convolution reads is found at run time, and what it makes leaves as float32: XNNPACK computes that
as fast, nothing is clipped, and the rounding of results, which is most of the error, is spared.
ONNX Runtime has no such kernel that is fast: there ranges are measured on pictures (`ranges`), and
each convolution stands between a quantise and a dequantise. Norms, activation functions and the
picture in and out stay float, because in a generator they are what eight bits spoil first; so do
the convolutions that a sensitivity search leaves out (`sensitivity`).
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
from coronet_deploy.export.sensitivity import CONVOLUTIONS, Ranges, float_macs
from coronet_deploy.export.study import Study, Survey
from coronet_deploy.memory import shortage
from coronet_deploy.ranges import MARGIN
from coronet_deploy.vocabulary import DType, Runtime

_RESNET_BUDGET_DB = {Runtime.ONNX: 42.0, Runtime.TFLITE: 43.5}
_UNET_BUDGET_DB = 50.0
LEAST_BUDGET_DB = 34.0
"""What is asked at the least of a network of which no layer keeps that; the gate asks for 30."""

_LESS_DB = 4.0


def budget_db(runtime: Runtime, *, resnet: bool) -> float:
    """Return what the search keeps a simulated int8 generator above, against its float self.

    A U-Net loses less: its norms are folded into its convolutions, and its skips carry the picture.
    With ranges found at run time the worst pictures suffer from rounding, not from clipping, and
    more is asked of it: it costs few layers.
    """
    return _RESNET_BUDGET_DB[runtime] if resnet else _UNET_BUDGET_DB


@dataclass(frozen=True)
class Int8Plan:
    """A lowered float graph, the names of its layers that compute in int8, and their ranges.

    Without ranges these are found at run time. `packed` are layers that compute in float with
    weights stored in int8.
    """

    graph: Graph
    passes: tuple[PassReport, ...]
    chosen: frozenset[str]
    packed: frozenset[str]
    ranges: Ranges
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
    Where not one keeps it, less is asked, down to `least_db`. `margin` is how much wider fixed
    ranges are than the best ones for those pictures.

    Raises:
        ConversionFailed: within the budget no layer can, or a value is not finite on a picture.

    """
    lowered, reports = lower(study.even, runtime, integer=True)
    reports = (*study.even_by, *reports)
    exact = with_exact_pixels(lowered)
    room = margin if runtime is Runtime.ONNX else None
    found = study.survey(exact, budget_db, progress, room)
    while found.layers and not found.chosen and budget_db > least_db:
        progress(f"no layer keeps {budget_db:g} dB in int8")
        budget_db = max(budget_db - _LESS_DB, least_db)
        found = study.survey(exact, budget_db, progress, room)
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
    if found.ranges is not None:
        rounded = with_room_for_biases(rounded, found.chosen, found.ranges)
    return Int8Plan(rounded, reports, found.chosen, found.packed, found.ranges, summary)


def write_int8(plan: Int8Plan, runtime: Runtime, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of an INT8 artifact; the same bytes for the same arguments."""
    if runtime is Runtime.ONNX:
        from coronet_deploy.export.onnx import emit_onnx
        from coronet_deploy.export.quantize_onnx import insert_qdq

        data = emit_onnx(plan.graph, DType.FP32, metadata)
        return insert_qdq(data, plan.chosen, plan.ranges or {}, plan.packed)
    from coronet_deploy.export.tflite import emit_tflite

    return _quantize_tflite(emit_tflite(plan.graph, DType.FP32, metadata), plan)


def _quantize_tflite(data: bytes, plan: Int8Plan) -> bytes:
    import re
    import warnings

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

    work = quantizer.Quantizer(data)
    # The quantizer finds an operator by a search for this in "<its output's name>;".
    for names, configure in (
        (plan.chosen, work.add_dynamic_config),
        (plan.packed, work.add_weight_only_config),
    ):
        for name in sorted(names):
            configure(
                regex=f"^{re.escape(name)};$",
                operation_name=qtyping.TFLOperationName.CONV_2D,
                num_bits=8,
            )
    # It warns of its own debugging interpreter and draws a progress bar, asked or not.
    with warnings.catch_warnings(), captured_stderr():
        warnings.simplefilter("ignore")
        try:
            result = work.quantize(enable_progress_bar=False, enable_progress_report=False)
        except (KeyError, RuntimeError, ValueError) as error:
            if shortage(error):
                raise
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
