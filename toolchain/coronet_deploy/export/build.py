"""From a captured graph to the bytes of one artifact, with what its manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coronet_deploy.errors import BadInput
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.cost import graph_macs
from coronet_deploy.export.graph import INPUT, OUTPUT, Graph
from coronet_deploy.export.groups import GroupNorm
from coronet_deploy.export.manifest import (
    Contract,
    Embedded,
    Macs,
    Quantization,
    tool_versions,
)
from coronet_deploy.export.operators import InstanceNorm, Rsqrt
from coronet_deploy.export.outputs import output_range
from coronet_deploy.export.passes import PassReport, Preference, lower, run_passes
from coronet_deploy.export.passes.dead_bias import DropDeadBiases
from coronet_deploy.export.schemes import INTEGER_BITS, describe_scheme, refusal
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject
from coronet_deploy.ranges import FULL_RESNET_MARGIN, FULL_UNET_MARGIN, MARGIN, RESNET_MARGIN
from coronet_deploy.vocabulary import DType, Runtime, TensorContract


@dataclass(frozen=True)
class Built:
    """The bytes of an artifact and the part of its manifest that is known before it ran."""

    data: bytes
    embedded: Embedded
    quantization: Quantization | None = None


def build(
    graph: Graph,
    runtime: Runtime,
    dtype: DType,
    subject: Subject,
    calibration: Pictures,
    prefer: Preference = "speed",
    progress: Callable[[str], None] = lambda _: None,
    study: Study | None = None,
    *,
    half_io: bool = False,
) -> Built:
    """Return the artifact of `graph`, which is as it was captured.

    `calibration` is read where ranges are fixed beforehand (`CALIBRATED`), and to see that FP16
    overflows nowhere. A `study` of both spares what was found for another artifact of theirs. With
    `half_io` an FP16 ONNX file's pictures are float16; others keep theirs.

    Raises:
        BadInput: this runtime has no such number type.
        ConversionFailed: an operator cannot be lowered, written or quantised for this runtime.
        EnvironmentProblem: a package that writes this format is not installed.

    """
    if reason := refusal(runtime, dtype):
        raise BadInput(reason)
    if dtype is DType.INT8:
        return _int8(study or Study(graph, calibration), runtime, subject, progress)
    if dtype in INTEGER_BITS:
        return _integer(graph, runtime, dtype, subject, calibration)
    if dtype in {DType.INT8_DYNAMIC, DType.INT8_WEIGHTS}:
        return _int8_weights(graph, runtime, dtype, subject)
    if dtype is DType.FP16:
        from coronet_deploy.export.half import lower_to_half

        lowered, reports, _ = lower_to_half(graph, runtime, calibration, prefer)
    else:
        lowered, reports = lower(graph, runtime, prefer=prefer)
    passes = _names(reports)
    half_io = half_io and takes_half_io(runtime, dtype)
    embedded = describe(graph, runtime, dtype, subject, passes, half_io=half_io)
    metadata = embedded.as_metadata()
    return Built(emit(lowered, runtime, dtype, metadata, half_io=half_io), embedded)


def takes_half_io(runtime: Runtime, dtype: DType) -> bool:
    """Return whether an artifact of this kind can have float16 pictures."""
    return (runtime, dtype) == (Runtime.ONNX, DType.FP16)


def _int8(
    study: Study, runtime: Runtime, subject: Subject, progress: Callable[[str], None]
) -> Built:
    from coronet_deploy.export import quantize

    graph = study.graph
    resnet = _like_resnet(graph, subject)
    budget_db = quantize.budget_db(runtime, resnet=resnet)
    margin = RESNET_MARGIN if resnet else MARGIN
    plan = quantize.plan_int8(study, runtime, budget_db, progress, margin, quantize.LEAST_BUDGET_DB)
    passes = _names(plan.passes)
    embedded = describe(graph, runtime, DType.INT8, subject, passes)
    return Built(quantize.write_int8(plan, runtime, embedded.as_metadata()), embedded, plan.summary)


def _like_resnet(graph: Graph, subject: Subject) -> bool:
    """Return whether values reach as far as a ResNet's, which its norms do not keep in bounds."""
    if subject.plan:
        return subject.plan.architecture.is_resnet
    return any(isinstance(node.op, InstanceNorm | GroupNorm | Rsqrt) for node in graph.nodes)


def _integer(
    graph: Graph, runtime: Runtime, dtype: DType, subject: Subject, calibration: Pictures
) -> Built:
    from coronet_deploy.export.integer.formats import PIXELS_8
    from coronet_deploy.export.integer.kernels import with_integer_kernels
    from coronet_deploy.export.integer.plan import plan_integer, summary

    graph = with_integer_kernels(graph)
    margin = FULL_RESNET_MARGIN if _like_resnet(graph, subject) else FULL_UNET_MARGIN
    plan = plan_integer(graph, runtime, calibration, INTEGER_BITS[dtype], margin)
    passes = _names(plan.passes)
    embedded = describe(graph, runtime, dtype, subject, passes)
    tensors = {}
    for role, stored in (("input", plan.formats.get(INPUT)), ("output", plan.formats.get(OUTPUT))):
        if stored is not None and not plan.framed:
            kind, zero = stored.dtype, stored.zero_point
            if runtime is Runtime.ONNX:
                kind, zero = stored.unsigned
            told = {"dtype": kind, "scale": float(stored.scale), "zero_point": zero}
            if role == "input" and stored == PIXELS_8:
                told["stored"] = "pixel" if runtime is Runtime.ONNX else "pixel - 128"
            tensors[role] = getattr(embedded, role).model_copy(update=told)
    embedded = embedded.model_copy(update=tensors)
    if runtime is Runtime.TFLITE:
        from coronet_deploy.export.integer.tflite import write_tflite

        data = write_tflite(plan, embedded.as_metadata())
    else:
        from coronet_deploy.export.integer.onnx import write_onnx

        data = write_onnx(plan, embedded.as_metadata())
    return Built(data, embedded, summary(plan))


def _int8_weights(graph: Graph, runtime: Runtime, dtype: DType, subject: Subject) -> Built:
    from coronet_deploy.export.quantize_weights import quantize_weights

    unbiased, dropped = run_passes(graph, (DropDeadBiases(),))
    lowered, reports = lower(unbiased, runtime, integer=True)
    embedded = describe(graph, runtime, dtype, subject, _names((*dropped, *reports)))
    data = emit(lowered, runtime, DType.FP32, embedded.as_metadata())
    return Built(quantize_weights(data, dynamic=dtype is DType.INT8_DYNAMIC), embedded)


def _names(reports: Sequence[PassReport]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(report.name for report in reports if report.changed))


def describe(
    graph: Graph,
    runtime: Runtime,
    dtype: DType,
    subject: Subject,
    passes: tuple[str, ...],
    *,
    half_io: bool = False,
) -> Embedded:
    """Return what a manifest says of an artifact before it ran; `passes` are those that did."""
    stored = "float16" if half_io else "float32"
    return Embedded(
        model=subject.model,
        direction=subject.direction,
        source=subject.source,
        runtime=runtime,
        dtype=dtype,
        scheme=describe_scheme(runtime, dtype),
        input=_contract(INPUT, runtime, graph.input_shape, stored),
        output=_contract(OUTPUT, runtime, graph.output_shape, stored, output_range(graph)),
        macs=Macs(
            real=max(graph_macs(graph), 1), published=max(graph_macs(graph, published=True), 1)
        ),
        passes=passes,
        tools=tool_versions(runtime),
    )


def emit(
    graph: Graph,
    runtime: Runtime,
    dtype: DType,
    metadata: Mapping[str, str],
    *,
    half_io: bool = False,
) -> bytes:
    """Return the bytes of a lowered float graph in the format of `runtime`."""
    if runtime is Runtime.TFLITE:
        from coronet_deploy.export.tflite import emit_tflite

        return emit_tflite(graph, dtype, metadata)
    from coronet_deploy.export.onnx import emit_onnx

    return emit_onnx(graph, dtype, metadata, half_io=half_io)


def _contract(
    name: str,
    runtime: Runtime,
    nhwc: tuple[int, ...],
    stored: str,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
) -> Contract:
    n, h, w, c = nhwc
    nchw = runtime is Runtime.ONNX
    layout, shape = ("NCHW", (n, c, h, w)) if nchw else ("NHWC", (n, h, w, c))
    return Contract.of(TensorContract(name, layout, shape, stored, value_range))
