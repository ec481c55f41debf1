"""`onnxruntime_perf_test`: the one vendor program that keeps single inferences.

They stand in its result file, a line each (`model,seconds,peak_ws,cpu,index`). It appends to that
file, so the caller removes it first. With `-v` it prints them as well.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import replace

from coronet_deploy.bench.vendor_result import (
    MS_PER_S,
    NUMBER,
    Achieved,
    Request,
    Summary,
    Tool,
    VendorResult,
)
from coronet_deploy.errors import BadInput

_SEED = "1"
_PROVIDERS = {"cpu": "cpu", "nnapi": "nnapi", "qnn": "qnn"}
_ROW_COMMAS = 4
_BYTES_PER_MB = 1 << 20
_ITERATION = re.compile(rf"^iteration:([0-9]{{1,18}}),time_cost:({NUMBER})", re.MULTILINE)
# Today's "P50 Latency: 0.0019 s", and "P50 Latency is 0.0019sec" before.
_LATENCY = re.compile(rf"(Min|Max|P50|P95) Latency(?::| is) *({NUMBER}) *s", re.MULTILINE)
_COMPLAINT = re.compile(r"error|exception|fail|unknown", re.IGNORECASE)
_FALLBACK = "session.disable_cpu_ep_fallback"


def arguments(request: Request) -> list[str]:
    """Return the program's arguments for a launch.

    Raises:
        BadInput: the program has no such back end.

    """
    if request.backend not in _PROVIDERS:
        raise BadInput(
            f"onnxruntime_perf_test has no back end {request.backend}",
            hint=", ".join(_PROVIDERS),
        )
    pairs = list(request.option_pairs)
    if request.library is not None:
        pairs.insert(0, ("backend_path", request.library))
    options = " ".join(f"{key}|{value}" for key, value in pairs)
    # Left alone, what a provider does not take runs on the CPU, and nothing tells.
    strict = request.backend != "cpu" and not request.allow_fallback
    return [
        *("-e", _PROVIDERS[request.backend]),
        *(("-i", options) if options else ()),
        *(("-C", f"{_FALLBACK}|1") if strict else ()),
        *("-m", "times", "-r", str(request.runs)),
        *("-x", str(request.threads)),
        *("-I", "-S", _SEED, "-s"),
        request.artifact,
        request.result_file,
    ]


def parse(text: str, rows: str | None, request: Request) -> VendorResult:
    """Return what a launch's output and its result file (None if there is none) tell."""
    samples, problem = _samples(rows, text)
    result = VendorResult(
        Tool.ONNXRUNTIME,
        samples_ms=samples,
        summary=_summary(text, rows, samples),
        load_ms=_scaled(text, r"Session creation time cost:", MS_PER_S),
        peak_rss_mb=_scaled(text, r"Peak working set size:", 1 / _BYTES_PER_MB),
    )
    first = _scaled(text, r"First inference time cost:", 1.0)
    if first:
        result = replace(result, warmup=Summary(1, mean_ms=first, first_ms=first))
    if samples and request.backend != "cpu" and not request.allow_fallback:
        # It would have failed otherwise.
        result = replace(result, achieved=Achieved.FULL)
    if problem or not samples:
        result = replace(result, samples_ms=(), error=problem or _complaint(text))
    return result


def _samples(rows: str | None, text: str) -> tuple[tuple[float, ...], str | None]:
    """Return the single inferences in ms, and what is wrong with their rows if something is."""
    found: list[tuple[int, float]] = []
    for line in (rows or "").splitlines():
        # A model's name may hold commas.
        cells = line.rsplit(",", _ROW_COMMAS)
        if len(cells) == _ROW_COMMAS + 1 and re.fullmatch(r"[0-9]{1,18}", cells[-1]):
            if not re.fullmatch(NUMBER, cells[1]):
                return (), f"its result file holds no time in {line!r}"
            found.append((int(cells[-1]), float(cells[1])))
    if not found:
        found = [(int(index), float(seconds)) for index, seconds in _ITERATION.findall(text)]
        start = found[0][0] if found else 0
        found = [(index - start, seconds) for index, seconds in found]
    if [index for index, _ in found] != list(range(len(found))):
        return (), "its result file is not of one launch: runs are missing or come twice"
    if any(seconds <= 0 for _, seconds in found):
        return (), "an inference took no time at all: its clock is too coarse"
    return tuple(seconds * MS_PER_S for _, seconds in found), None


def _summary(text: str, rows: str | None, samples: tuple[float, ...]) -> Summary | None:
    """Return the program's own figures; those that it does not print come of its samples."""
    told = dict(_LATENCY.findall(f"{text}\n{rows or ''}"))
    seconds = {name: float(value) * MS_PER_S for name, value in told.items()}
    count = _scaled(text, r"Total inference requests:", 1.0)
    mean = _scaled(text, r"Average inference time cost:", 1.0)
    if mean is None and not samples:
        return None
    return Summary(
        count=int(count or len(samples)),
        mean_ms=mean if mean is not None else statistics.fmean(samples),
        min_ms=seconds.get("Min") or min(samples, default=None),
        max_ms=seconds.get("Max") or max(samples, default=None),
        median_ms=seconds.get("P50") or (statistics.median(samples) if samples else None),
        p95_ms=seconds.get("P95"),
    )


def _scaled(text: str, label: str, factor: float) -> float | None:
    found = re.search(rf"{label} *({NUMBER})", text)
    return float(found[1]) * factor if found and float(found[1]) > 0 else None


def _complaint(text: str) -> str:
    """Return the line that most likely tells why it measured nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _COMPLAINT.search(line)]
    return (errors or lines or ["it printed nothing"])[0][:300]
