"""`benchmark_model`, in both of its kinds: TFLite's program and LiteRT's.

They share a name and most flags. TFLite's prints to stdout and tells how much a delegate took;
LiteRT's prints its figures to stderr with 10 us of resolution, and the same statistics lines as
TFLite's to stdout. Neither keeps single inferences.
"""

from __future__ import annotations

import re
from dataclasses import replace

from coronet_deploy.bench.vendor_result import (
    NUMBER,
    US_PER_MS,
    Achieved,
    Request,
    Summary,
    Tool,
    VendorResult,
)
from coronet_deploy.errors import BadInput

# In logcat a time and a tag stand before a line, on stdout perhaps "INFO: ".
_STATISTICS = re.compile(r"(?:^|[\s:])count=([0-9]{1,18})([^\n]*)$", re.MULTILINE)
_FIELD = re.compile(rf"(\w+)=({NUMBER})(\(all same\))?")
_TIMINGS = re.compile(r"Inference timings in us: (.*)$", re.MULTILINE)
_TIMING = re.compile(rf"([A-Z][\w ]*?(?: \(avg\))?): ({NUMBER})")
_LITERT = re.compile(
    rf"(Model initialization|Warmup \(\w+\)|Inference \(\w+\)): +({NUMBER})(?: ms)?"
    r"(?: \(([0-9]{1,18}) runs\))?"
)
_PEAK = re.compile(
    rf"(?:Overall peak memory footprint \(MB\) via periodic monitoring:|Peak memory usage:) "
    rf"*({NUMBER})"
)
_APPLIED = re.compile(
    r"(?:Explicitly applied|Though) (\w+) delegate.*?the model graph will "
    r"(be completely|be partially|not be) executed by the delegate(?: w/ ([0-9]+) delegate kernel)?"
)
_REPLACING = re.compile(
    r"Replacing ([0-9]{1,18}) out of ([0-9]{1,18}) node\(s\) with delegate \((\w+)\) node, "
    r"yielding ([0-9]{1,18}) partitions"
)
_UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: *(.*)$", re.MULTILINE)
_FAILURES = (
    "Failed to apply",
    "Disallowed CPU fallback detected",
    "Failed to load model",
    "Failed to allocate tensors",
    "Failed to compile model",
    "Requesting full delegation and CPU acceleration are incompatible",
)
_UNSUPPORTED = "acceleration is unsupported on this platform"
_HARMLESS = {"result_file_path"}
_RESULTS = "BENCHMARK RESULTS"
_FALLBACK_DELEGATE = "xnnpack"


def arguments(request: Request, tool: Tool) -> list[str]:
    """Return the program's flags for a launch.

    Raises:
        BadInput: the program has no such back end, or its library is missing.

    """
    flags = {
        "graph": request.artifact,
        "num_threads": str(request.threads),
        "num_runs": str(request.runs),
        # Otherwise `num_runs` is only the least that is run within a second.
        "min_secs": "0",
        "max_secs": f"{request.seconds:g}",
        "warmup_runs": str(request.warmup_runs),
        "warmup_min_secs": f"{request.warmup_seconds:g}",
        "result_file_path": request.result_file,
    }
    own = _litert_backend if tool is Tool.LITERT else _tflite_backend
    flags |= own(request)
    if request.backend != "cpu" and not request.allow_fallback:
        flags["require_full_delegation"] = "true"
    return [f"--{name}={value}" for name, value in flags.items()]


def _tflite_backend(request: Request) -> dict[str, str]:
    options = dict(request.option_pairs)
    if request.backend == "cpu":
        return {"use_xnnpack": "true"} | options
    if request.backend == "gpu":
        return {"use_gpu": "true"} | options
    if request.backend == "nnapi":
        return {"use_nnapi": "true", "disable_nnapi_cpu": "true"} | options
    if request.library is None:
        raise BadInput(
            f"back end {request.backend} of benchmark_model needs an external delegate",
            hint="give its library",
        )
    told = ";".join(f"{key}:{value}" for key, value in request.option_pairs)
    external = {"external_delegate_path": request.library}
    return external | ({"external_delegate_options": told} if told else {})


def _litert_backend(request: Request) -> dict[str, str]:
    options = dict(request.option_pairs)
    if request.backend == "cpu":
        return {"use_cpu": "true"} | options
    # Whole delegation is refused while the CPU is asked for too, which it is by default.
    no_cpu = {"use_cpu": "true" if request.allow_fallback else "false"}
    if request.backend == "gpu":
        return no_cpu | {"use_gpu": "true"} | options
    if request.backend == "qnn" and request.library is not None:
        return no_cpu | {"use_npu": "true", "dispatch_library_path": request.library} | options
    raise BadInput(
        f"LiteRT's benchmark_model has no back end {request.backend}"
        + ("" if request.backend == "nnapi" else " without a dispatch library's folder"),
        hint="cpu, gpu, or qnn with a library",
    )


def parse(text: str, tool: Tool, backend: str = "cpu") -> VendorResult:
    """Return what a launch's output (stdout and stderr, in this order) tells; times in ms.

    A launch that ended before it had measured, or that did not take a flag, has an error: what it
    timed is not what was asked for.
    """
    # Each phase prints its statistics: warming up comes first, then what is measured.
    found = [summary for one in _STATISTICS.finditer(text) if (summary := _summary(one))]
    result = _litert_figures(text) if tool is Tool.LITERT else _tflite_figures(text)
    if result.summary is not None:
        # The final figures say that it got to its end; the statistics tell more of the same.
        measured = found[-1] if found else result.summary
        warmup = found[-2] if len(found) > 1 else result.warmup
        result = replace(result, summary=measured, warmup=warmup)
    peak = _PEAK.search(text)
    result = replace(result, peak_rss_mb=float(peak[1]) if peak else None)
    result = _with_delegation(result, text, backend)
    return replace(result, error=_error(text, result))


def _summary(found: re.Match[str]) -> Summary | None:
    """Return one statistics line's figures: "count=50 first=79449 curr=81350 min=.." in us."""
    count = int(found[1])
    fields: dict[str, float] = {}
    for name, value, same in _FIELD.findall(found[2]):
        fields[name] = float(value) / US_PER_MS
        if same:
            fields |= dict.fromkeys(("first", "min", "max", "avg"), fields[name])
    if count == 1:  # a single one is all there is to tell
        fields |= dict.fromkeys(("first", "min", "max", "avg"), fields.get("curr", 0.0))
    if count == 0 or "avg" not in fields:
        return None
    return Summary(
        count=count,
        mean_ms=fields["avg"],
        first_ms=fields.get("first"),
        last_ms=fields.get("curr"),
        min_ms=fields.get("min"),
        max_ms=fields.get("max"),
        std_ms=fields.get("std"),
        p5_ms=fields.get("p5"),
        median_ms=fields.get("median"),
        p95_ms=fields.get("p95"),
    )


def _tflite_figures(text: str) -> VendorResult:
    line = _TIMINGS.search(text)
    if line is None:
        return VendorResult(Tool.TFLITE)
    us = {name: float(value) for name, value in _TIMING.findall(line[1])}
    mean, warm = us.get("Inference (avg)"), us.get("Warmup (avg)")
    return VendorResult(
        Tool.TFLITE,
        # A count is told by the statistics line only, and some builds print none.
        summary=Summary(0, mean_ms=mean / US_PER_MS) if mean else None,
        warmup=Summary(0, mean_ms=warm / US_PER_MS) if warm else None,
        load_ms=us["Init"] / US_PER_MS if us.get("Init") else None,
    )


def _litert_figures(text: str) -> VendorResult:
    figures = _LITERT.findall(text.partition(_RESULTS)[2])
    told = {name: (float(value), runs) for name, value, runs in figures}
    if "Inference (avg)" not in told:
        return VendorResult(Tool.LITERT)
    ms = {name: value for name, (value, _) in told.items()}
    count, warm_count = (
        int(told[name][1] or 0) if name in told else 0
        for name in ("Inference (avg)", "Warmup (avg)")
    )
    summary = Summary(
        count=count,
        mean_ms=ms["Inference (avg)"],
        min_ms=ms.get("Inference (min)"),
        max_ms=ms.get("Inference (max)"),
        std_ms=ms.get("Inference (std)"),
    )
    warmup = Summary(warm_count, mean_ms=ms.get("Warmup (avg)"), first_ms=ms.get("Warmup (first)"))
    return VendorResult(
        Tool.LITERT,
        summary=summary if count else None,
        warmup=warmup if warm_count else None,
        load_ms=ms.get("Model initialization") or None,
    )


def _with_delegation(result: VendorResult, text: str, backend: str) -> VendorResult:
    """Add what is told of the back end's own delegate; XNNPACK is the CPU's."""
    applied = [one for one in _APPLIED.finditer(text) if _is_of(one[1], backend)]
    replaced = [one for one in _REPLACING.finditer(text) if _is_of(one[3], backend)]
    if replaced:
        taken, nodes, partitions = (
            sum(int(one[1]) for one in replaced),
            sum(int(one[2]) for one in replaced),
            sum(int(one[4]) for one in replaced),
        )
        achieved = Achieved.FULL if taken == nodes else Achieved.PARTIAL
        result = replace(
            result, achieved=achieved, nodes_taken=taken, nodes=nodes, partitions=partitions
        )
    if applied:
        words = {
            "be completely": Achieved.FULL,
            "be partially": Achieved.PARTIAL,
            "not be": Achieved.NONE,
        }
        result = replace(result, achieved=words[applied[-1][2]])
    if backend != "cpu" and result.achieved is None and _UNSUPPORTED in text:
        result = replace(result, achieved=Achieved.NONE)
    return result


def _is_of(delegate: str, backend: str) -> bool:
    return (_FALLBACK_DELEGATE in delegate.casefold()) == (backend == "cpu")


def _unknown_flags(text: str) -> list[str]:
    """Return the flags that the build passed over, but for those that change no measurement."""
    found = _UNKNOWN_FLAGS.search(text)
    names = re.findall(r"--([\w-]+)", found[1]) if found else []
    return [name for name in names if name not in _HARMLESS]


def _error(text: str, result: VendorResult) -> str | None:
    """Return why the launch failed, if it did."""
    lines = text.splitlines()
    for failure in _FAILURES:
        for line in lines:
            if failure in line:
                return line[line.index(failure) :].strip()
    # A flag that it does not know is passed over, with a warning and status 0.
    if unknown := _unknown_flags(text):
        return f"this build does not know {', '.join(f'--{one}' for one in unknown)}"
    if result.summary is None:
        errors = [line for line in lines if line.startswith(("ERROR", "FATAL"))]
        return errors[0] if errors else "it ended before it had measured"
    return None
