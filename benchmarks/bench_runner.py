"""Measures the C runner beside the Python runtimes on this host, in turns; a Markdown table.

    python benchmarks/bench_runner.py                      the bundled model, FP32 and INT8
    python benchmarks/bench_runner.py --rounds 2 --seconds 1 MODEL.tflite

The same library runs the same file in both, on the same noise; each launch is a process of its
own, and the two take turns (A B A B). A figure is the median of launch medians. What the runner
measures stands for what a bench on this host does if they agree: within 5 %, or the exit status
is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.bench.launch import WORKER
from coronet_deploy.bench.runner import Preset, build, host_command, run_runner

BAR_PERCENT = 5.0
DTYPES = ("fp32", "int8")
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Figures:
    """One launch: its median, what loading took, and its peak memory."""

    median_ms: float
    load_ms: float
    peak_mb: float


def by_runner(command: Sequence[str]) -> Figures:
    """Launch the runner once."""
    told = run_runner(command, DEADLINE_S)
    return Figures(statistics.median(told.samples_ms), told.load_ms or 0.0, told.peak_rss_mb or 0.0)


def by_python(command: Sequence[str]) -> Figures:
    """Launch the host bench's worker once."""
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout)
    return Figures(statistics.median(told["samples_ms"]), told["load_ms"], told["peak_rss_mb"])


def noise(runner: Path, artifact: Path, folder: Path) -> Path:
    """Write uniform noise as the artifact's input holds it, and return the file."""
    ended = subprocess.run(
        host_command(runner, artifact, "--runs", 1, "--warmup-runs", 0),
        capture_output=True,
        text=True,
        check=True,
    )
    tensor = json.loads(ended.stdout.splitlines()[0])["input"]
    draw = np.random.default_rng(20_240)
    path = folder / "noise"
    if tensor["dtype"] == "float32":
        draw.uniform(-1, 1, tensor["shape"]).astype(np.float32).tofile(path)
    else:
        path.write_bytes(draw.bytes(tensor["bytes"]))
    return path


def take_turns(
    runner: Path, artifact: Path, threads: int, args: argparse.Namespace, folder: Path
) -> Mapping[str, list[Figures]]:
    """Return every launch of both, in order."""
    bounds = ("--samples", str(args.samples), "--seconds", str(args.seconds))
    python = [*WORKER, str(artifact), "--threads", str(threads), *bounds]
    own = ("--runs", args.samples, "--seconds", args.seconds, "--warmup-seconds", 3)
    warmup = ("--warmup-runs", 30, "--input", noise(runner, artifact, folder))
    native = host_command(runner, artifact, "--threads", threads, *own, *warmup)
    taken: dict[str, list[Figures]] = {"runner": [], "python": []}
    for _ in range(args.rounds):
        taken["runner"].append(by_runner(native))
        taken["python"].append(by_python(python))
    return taken


def middle(launches: Sequence[Figures], figure: str) -> float:
    """Return the median of one figure over launches."""
    return float(statistics.median(getattr(launch, figure) for launch in launches))


def export(folder: Path) -> list[Path]:
    """Export the bundled model in both formats."""
    for dtype in DTYPES:
        words = ("export", "--dtype", dtype, "--runtime", "all", "--output", str(folder))
        subprocess.run([sys.executable, "-m", "coronet_deploy", *words], check=True)
    return sorted(path for path in folder.iterdir() if path.suffix in {".onnx", ".tflite"})


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="*", type=Path, help="default: the bundled model's")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--samples", type=int, default=50, help="most samples of a launch")
    parser.add_argument("--seconds", type=float, default=5.0, help="most seconds of a launch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = build(Preset.HOST, folder)
        artifacts = args.artifacts or export(folder / "artifacts")
        print(
            "| Artifact | Threads | Runner, ms | Python, ms | Ratio | Ratios of rounds "
            "| Load, ms (runner, Python) | Peak MB (runner, Python) |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )
        for artifact in artifacts:
            for threads in args.threads:
                taken = take_turns(runner, artifact, threads, args, folder)
                native, python = taken["runner"], taken["python"]
                ratio = middle(native, "median_ms") / middle(python, "median_ms")
                ratios = [a.median_ms / b.median_ms for a, b in zip(native, python, strict=True)]
                worst = max(worst, abs(ratio - 1) * 100)
                print(
                    f"| {artifact.name} | {threads} | {middle(native, 'median_ms'):.2f} "
                    f"| {middle(python, 'median_ms'):.2f} | {ratio:.3f} "
                    f"| {min(ratios):.3f} to {max(ratios):.3f} "
                    f"| {middle(native, 'load_ms'):.0f}, {middle(python, 'load_ms'):.0f} "
                    f"| {middle(native, 'peak_mb'):.0f}, {middle(python, 'peak_mb'):.0f} |",
                    flush=True,
                )
    print(f"\nFarthest apart: {worst:.1f} %, bar {BAR_PERCENT:g} %.")
    return int(worst > BAR_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
