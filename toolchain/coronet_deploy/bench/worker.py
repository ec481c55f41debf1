"""One launch: a process that loads one artifact, warms it up and times its inferences.

    python -m coronet_deploy.bench.worker ARTIFACT --threads 2 --samples 30 --seconds 3

A process of its own, because runtimes keep thread pools, packed weights and memory arenas for as
long as they live: two of them in one process disturb each other's figures, and a crash would take
the others' samples with it. The answer is one JSON object on stdout; whatever native code prints
goes to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.bench.system import os_threads, peak_rss_mb, tool_versions
from coronet_deploy.errors import CoronetError, EnvironmentProblem
from coronet_deploy.memory import memory_told
from coronet_deploy.verify.runtimes import Session, open_session, runtime_of

# Warm-up has settled when the medians of the last two windows of inferences agree this well.
SETTLED_WITHIN = 0.03
SETTLE_WINDOW = 3
WARMUP_MOST = 30
WARMUP_SECONDS = 3.0
# However slow an artifact is, a median of fewer samples than this says little.
SAMPLES_LEAST = 5
_SEED = 20_240
_ALARM_MOST_S = 2**31 - 1  # 68 years, and all that alarm(2) takes here
_NS_PER_MS = 1e6
_TOOLS = ("coronet-deploy", "numpy", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True)
class Budget:
    """How long to sample: `samples` inferences, or fewer once `seconds` have passed.

    Never fewer than `SAMPLES_LEAST`, if `samples` allows as many.
    """

    samples: int
    seconds: float


def time_once(invoke: Callable[[], object]) -> float:
    """Return the milliseconds of one call, by the monotonic clock."""
    start = time.perf_counter_ns()
    invoke()
    return (time.perf_counter_ns() - start) / _NS_PER_MS


def has_settled(history_ms: Sequence[float]) -> bool:
    """Tell whether the last two windows of warm-up inferences have the same median, nearly."""
    if len(history_ms) < 2 * SETTLE_WINDOW:
        return False
    earlier = statistics.median(history_ms[-2 * SETTLE_WINDOW : -SETTLE_WINDOW])
    later = statistics.median(history_ms[-SETTLE_WINDOW:])
    return abs(later - earlier) <= SETTLED_WITHIN * earlier


def warm_up(invoke: Callable[[], object]) -> tuple[list[float], bool]:
    """Invoke until the times settle; returns them (ms) and whether they did within the bounds."""
    history_ms: list[float] = []
    end = time.monotonic() + WARMUP_SECONDS
    while len(history_ms) < WARMUP_MOST:
        history_ms.append(time_once(invoke))
        if has_settled(history_ms):
            return history_ms, True
        if time.monotonic() >= end and len(history_ms) >= SETTLE_WINDOW:
            break
    return history_ms, False


def take_samples(invoke: Callable[[], object], budget: Budget) -> list[float]:
    """Return the milliseconds of each inference within `budget`, in order."""
    samples_ms: list[float] = []
    least = min(SAMPLES_LEAST, budget.samples)
    end = time.monotonic() + budget.seconds
    while len(samples_ms) < budget.samples:
        if len(samples_ms) >= least and time.monotonic() >= end:
            break
        samples_ms.append(time_once(invoke))
    return samples_ms


def measure(path: Path, threads: int, budget: Budget) -> dict[str, object]:
    """Return one launch's figures as plain JSON values.

    Raises:
        CoronetError: the runtime is not installed or does not load the artifact.

    """
    runtime = runtime_of(path)
    rss_before_mb = peak_rss_mb()
    start = time.perf_counter_ns()
    with open_session(path, runtime, threads) as session:
        load_ms = (time.perf_counter_ns() - start) / _NS_PER_MS
        noise = np.random.default_rng(_SEED).uniform(-1, 1, session.input_shape)
        session.prepare(noise.astype(np.float32))
        gc.collect()
        gc.disable()
        warmup_ms, settled = warm_up(session.invoke)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        samples_ms = take_samples(session.invoke, budget)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        return {
            "samples_ms": samples_ms,
            "warmup_ms": warmup_ms,
            "load_ms": load_ms,
            "peak_rss_mb": peak_rss_mb(),
            "tools": tool_versions(*_TOOLS),
            "details": {
                "settled": settled,
                "involuntary_switches": switches,
                "os_threads": os_threads(),
                "rss_before_mb": rss_before_mb,
                **_placement(session),
            },
        }


def _placement(session: Session) -> dict[str, object]:
    """Return what part of the graph the runtime's fast path took."""
    partitions = session.partitions
    return {
        "providers": list(partitions.providers),
        "partitions": partitions.parts,
        "nodes_taken": partitions.taken,
        "nodes": partitions.total,
        "fully_accelerated": partitions.fully_accelerated,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m coronet_deploy.bench.worker")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--alarm", type=int, default=0, help="die after so many seconds")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, answer in one line, and return 0; 1 with an `error` in the answer."""
    args = _parser().parse_args(arguments)
    # Whoever started this enforces a deadline; should they be gone, nothing runs on for ever.
    signal.alarm(min(args.alarm, _ALARM_MOST_S))
    answer_to = os.dup(1)
    os.dup2(2, 1)
    status = 0
    try:
        with memory_told("measure"):
            answer = measure(args.artifact, args.threads, Budget(args.samples, args.seconds))
    except EnvironmentProblem as error:  # no fault of the artifact's, which no runtime refused
        os.write(2, f"{error}\n".encode(errors="replace"))
        return 1
    except CoronetError as error:
        answer, status = {"error": str(error)}, 1
    os.write(answer_to, (json.dumps(answer) + "\n").encode())
    return status


if __name__ == "__main__":
    sys.exit(main())
