"""What a bench asks of a vendor's benchmark program, and what such a program tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from coronet_deploy.bench.launch import Failure

US_PER_MS = 1000.0
MS_PER_S = 1000.0
NUMBER = r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?(?:e[+-]?[0-9]{1,2})?(?![0-9.e]))"
"""Pattern of a number as programs print it, whole: of "1.2.3", which a phone's log may make of two,
none is found."""


class Tool(StrEnum):
    """The programs. The first two share a file name, `benchmark_model`, and little else."""

    TFLITE = "tflite-benchmark-model"
    LITERT = "litert-benchmark-model"
    ONNXRUNTIME = "onnxruntime-perf-test"


class Achieved(StrEnum):
    """How much of the graph a delegate or an execution provider took."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"


@dataclass(frozen=True)
class Request:
    """One launch of a program; all paths are the phone's.

    `backend` is "cpu", "gpu", "nnapi" or "qnn"; `library` what reaches it (an external delegate,
    a dispatch library's folder, a QNN back end), `options` its "key=value"s. At least
    `warmup_runs` and `warmup_seconds` of warm-up, then `runs` inferences, fewer only after
    `seconds` where the program can stop early. `result_file` is where it may write.
    """

    artifact: str
    result_file: str
    backend: str = "cpu"
    threads: int = 1
    runs: int = 30
    seconds: float = 60.0
    warmup_runs: int = 1
    warmup_seconds: float = 0.5
    allow_fallback: bool = False
    library: str | None = None
    options: tuple[str, ...] = ()
    mask: str | None = None

    @property
    def option_pairs(self) -> tuple[tuple[str, str], ...]:
        """The options as (key, value)."""
        cut = (option.partition("=") for option in self.options)
        return tuple((key, value) for key, _, value in cut)


@dataclass(frozen=True)
class Summary:
    """A program's own figures of many inferences, in ms; None where it does not tell."""

    count: int
    mean_ms: float | None = None
    first_ms: float | None = None
    last_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    p5_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class VendorResult:
    """What one launch of a program came to.

    `samples_ms` is empty for a program that keeps none; `summary` is what it told in their place.
    `achieved` is None where it tells nothing of delegation. `error` is set if the launch failed,
    and `failure` says how.
    """

    tool: Tool
    samples_ms: tuple[float, ...] = ()
    summary: Summary | None = None
    warmup: Summary | None = None
    load_ms: float | None = None
    peak_rss_mb: float | None = None
    achieved: Achieved | None = None
    nodes_taken: int | None = None
    nodes: int | None = None
    partitions: int | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    failure: Failure | None = None

    def details(self) -> Mapping[str, Any]:
        """Return what a run keeps of the launch beside its samples, as plain JSON values.

        "samples" is "none" where the program keeps none: its figures are of many inferences then.
        """
        return {
            "tool": self.tool.value,
            "samples": "kept" if self.samples_ms else "none",
            "summary": asdict(self.summary) if self.summary else None,
            "warmup": asdict(self.warmup) if self.warmup else None,
            "achieved": self.achieved.value if self.achieved else None,
            "nodes_taken": self.nodes_taken,
            "nodes": self.nodes,
            "partitions": self.partitions,
            "warnings": list(self.warnings),
        }
