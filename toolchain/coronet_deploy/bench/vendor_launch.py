"""A vendor program's launch as a run keeps it, beside the runner's."""

from __future__ import annotations

from coronet_deploy.bench.launch import Failure, Labels
from coronet_deploy.bench.vendor_result import Tool, VendorResult
from coronet_deploy.vocabulary import Launch, Target

_SHORT = {
    Tool.TFLITE: "benchmark_model",
    Tool.LITERT: "litert benchmark_model",
    Tool.ONNXRUNTIME: "perf_test",
}


def vendor_target(device: str, backend: str, tool: Tool, threads: int) -> Target:
    """Return the target of a vendor's row.

    Its back end names the program: no such row is taken for, or compared with, the runner's.
    """
    return Target(device, f"{backend}, {_SHORT[tool]}", threads)


def vendor_launch(labels: Labels, started: str, result: VendorResult) -> Launch:
    """Return the launch that a vendor program's result is.

    One of a program that keeps no samples has none, and its summary in the details.
    """
    details = dict(result.details())
    if result.error is not None:
        details["failure"] = (result.failure or Failure.REFUSED).value
    return Launch(
        artifact=labels.artifact,
        artifact_sha256=labels.artifact_sha256,
        target=labels.target,
        order=labels.order,
        samples_ms=result.samples_ms,
        load_ms=result.load_ms or None,
        peak_rss_mb=result.peak_rss_mb or None,
        started=started,
        details=details,
        error=result.error,
    )
