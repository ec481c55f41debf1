"""From a captured graph to the bytes of one artifact, with what its manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.cost import graph_macs
from coronet_deploy.export.graph import INPUT, OUTPUT, Graph
from coronet_deploy.export.manifest import (
    Contract,
    Embedded,
    Macs,
    Quantization,
    tool_versions,
)
from coronet_deploy.export.operators import InstanceNorm, Sigmoid, Tanh
from coronet_deploy.export.passes import PassReport, Preference, lower
from coronet_deploy.export.subject import Subject
from coronet_deploy.vocabulary import DType, Runtime, TensorContract

_SCHEMES: Mapping[tuple[Runtime, DType], str] = {
    (Runtime.ONNX, DType.FP32): "float32",
    (Runtime.TFLITE, DType.FP32): "float32",
    (Runtime.ONNX, DType.FP16): "float16 with float32 input and output",
    (Runtime.TFLITE, DType.FP16): "float16 weights, arithmetic as the delegate chooses",
    (Runtime.ONNX, DType.INT8): "int8 convolutions (QDQ, uint8 activations), the rest float32",
    (Runtime.TFLITE, DType.INT8): "int8 convolutions (int8 activations), the rest float32",
}


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
) -> Built:
    """Return the artifact of `graph`, which is as it was captured.

    `calibration` is read for INT8 only.

    Raises:
        ConversionFailed: an operator cannot be lowered, written or quantised for this runtime.
        EnvironmentProblem: a package that writes this format is not installed.

    """
    if dtype is DType.INT8:
        from coronet_deploy.export import quantize

        resnet = (
            subject.plan.architecture.is_resnet
            if subject.plan
            else any(isinstance(node.op, InstanceNorm) for node in graph.nodes)
        )
        budget_db = quantize.RESNET_BUDGET_DB if resnet else quantize.UNET_BUDGET_DB
        plan = quantize.plan_int8(graph, runtime, calibration, budget_db, progress)
        embedded = describe(graph, runtime, dtype, subject, ("equalize", *_names(plan.passes)))
        return Built(
            quantize.write_int8(plan, runtime, embedded.as_metadata()), embedded, plan.summary
        )
    lowered, reports = lower(graph, runtime, prefer=prefer)
    embedded = describe(graph, runtime, dtype, subject, _names(reports))
    return Built(emit(lowered, runtime, dtype, embedded.as_metadata()), embedded)


def _names(reports: Sequence[PassReport]) -> tuple[str, ...]:
    return tuple(report.name for report in reports if report.changed)


def describe(
    graph: Graph, runtime: Runtime, dtype: DType, subject: Subject, passes: tuple[str, ...]
) -> Embedded:
    """Return what a manifest says of an artifact before it ran; `passes` are those that did."""
    return Embedded(
        model=subject.model,
        direction=subject.direction,
        source=subject.source,
        runtime=runtime,
        dtype=dtype,
        scheme=_SCHEMES[runtime, dtype],
        input=_contract(INPUT, runtime, graph.input_shape),
        output=_contract(OUTPUT, runtime, graph.output_shape, _output_range(graph)),
        macs=Macs(
            real=max(graph_macs(graph), 1), published=max(graph_macs(graph, published=True), 1)
        ),
        passes=passes,
        tools=tool_versions(runtime),
    )


def emit(graph: Graph, runtime: Runtime, dtype: DType, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a lowered float graph in the format of `runtime`."""
    if runtime is Runtime.TFLITE:
        from coronet_deploy.export.tflite import emit_tflite

        return emit_tflite(graph, dtype, metadata)
    from coronet_deploy.export.onnx import emit_onnx

    return emit_onnx(graph, dtype, metadata)


def _contract(
    name: str,
    runtime: Runtime,
    nhwc: tuple[int, ...],
    value_range: tuple[float, float] | None = (-1.0, 1.0),
) -> Contract:
    n, h, w, c = nhwc
    nchw = runtime is Runtime.ONNX
    layout, shape = ("NCHW", (n, c, h, w)) if nchw else ("NHWC", (n, h, w, c))
    return Contract.of(TensorContract(name, layout, shape, "float32", value_range))


def _output_range(graph: Graph) -> tuple[float, float] | None:
    """Return what the network's last operator lets out, if it bounds anything."""
    last = graph.nodes[-1].op
    if isinstance(last, Tanh):
        return (-1.0, 1.0)
    return (0.0, 1.0) if isinstance(last, Sigmoid) else None
