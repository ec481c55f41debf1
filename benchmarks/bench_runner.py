"""Measures the C runner beside the Python runtimes on this host, in turns; a Markdown table.

    python benchmarks/bench_runner.py                      the bundled model, FP32 and INT8
    python benchmarks/bench_runner.py --rounds 2 --samples 50 MODEL.tflite

Every launch is a process of its own. A launch of each is alive at a time, and while one infers the
others are stopped: turns of `--turn` seconds (A B A B), because a neighbour on the machine comes
and goes within a second, and would decide the ratio of launches that ran one after the other. The
inference that a stop cuts in two counts as a long one, for all alike. A figure is the median of
launch medians. What the runner measures stands for what the Python runtimes do here if it agrees
with them within 5 %; where a row does not, the exit status is 1.

"Package" is the runtime as its Python package runs it, and "same library" the very library that the
runner loads, called from Python. ONNX Runtime's package is the same code; LiteRT's is another build
of its kernels (see peers/run_litert_c.py): where the two columns differ, the builds do.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.bench.launch import WORKER
from coronet_deploy.bench.runner import Preset, build, host_command, parse_lines
from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Runtime

BAR_PERCENT = 5.0
DTYPES = ("fp32", "int8")
RUNNER, PACKAGE, SAME = "runner", "package", "same"
LITERT_C = Path(__file__).parent / "peers" / "run_litert_c.py"
DEADLINE_S = 300.0
# What a launch is let run before the turns begin: loading and warm-up.
LOAD_S = 1.5


@dataclass(frozen=True)
class Figures:
    """One launch: its median, what loading took, and its peak memory."""

    median_ms: float
    load_ms: float
    peak_mb: float


def median_of(launches: Iterable[Figures]) -> Figures:
    """Return the median of each figure over launches."""
    columns = zip(*map(astuple, launches), strict=True)
    return Figures(*map(statistics.median, columns))


class Launch:
    """A process that measures, while it may run; what it prints goes into a file."""

    def __init__(self, command: Sequence[str], printed: Path) -> None:
        """Start it."""
        self._printed = printed
        with printed.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file)

    def run(self, seconds: float) -> bool:
        """Let it run for so long, or until it ends; tell whether it is still there."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGSTOP)
            return True
        return False

    def kill(self) -> None:
        """End it, if it is still there: a process that is stopped does not see Ctrl-C."""
        self._process.kill()
        self._process.wait()

    def lines(self) -> list[str]:
        """Return what it printed; subprocess.CalledProcessError if it did not end well."""
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)
        return self._printed.read_text().splitlines()


def in_turns(
    commands: Mapping[str, Sequence[str]], turn_s: float, folder: Path
) -> Mapping[str, Figures]:
    """Launch each, and let them infer in turns; what RUNNER prints is the runner's protocol."""
    launches: dict[str, Launch] = {}
    try:
        for name, command in commands.items():
            launches[name] = Launch(command, folder / name)
            launches[name].run(LOAD_S)
        there = list(launches.values())
        while there:
            there = [launch for launch in there if launch.run(turn_s)]
        return {name: figures(name, launch.lines()) for name, launch in launches.items()}
    finally:
        for launch in launches.values():
            launch.kill()


def figures(name: str, lines: Sequence[str]) -> Figures:
    """Return what one launch printed."""
    if name == RUNNER:
        told = parse_lines(lines)
        return Figures(
            statistics.median(told.samples_ms), told.load_ms or 0.0, told.peak_rss_mb or 0.0
        )
    worker = json.loads(lines[-1])
    return Figures(
        statistics.median(worker["samples_ms"]), worker["load_ms"], worker["peak_rss_mb"]
    )


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


def measure(
    runner: Path, artifact: Path, threads: int, args: argparse.Namespace, folder: Path
) -> list[Mapping[str, Figures]]:
    """Return every round: a launch of each."""
    given = noise(runner, artifact, folder)
    bounds = ("--samples", str(args.samples), "--seconds", str(DEADLINE_S))
    own = ("--runs", args.samples, "--seconds", DEADLINE_S, "--warmup-seconds", 3)
    more = ("--threads", threads, *own, "--warmup-runs", 30, "--input", given)
    commands: dict[str, Sequence[str]] = {
        RUNNER: host_command(runner, artifact, *more),
        PACKAGE: [*WORKER, str(artifact), "--threads", str(threads), *bounds],
    }
    if runtime_of(artifact) is Runtime.TFLITE:
        words = (sys.executable, LITERT_C, artifact, threads, args.samples, given)
        commands[SAME] = [str(word) for word in words]
    return [in_turns(commands, args.turn, folder) for _ in range(args.rounds)]


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
    parser.add_argument("--rounds", type=int, default=6, help="launches of each")
    parser.add_argument("--samples", type=int, default=200, help="samples of a launch")
    parser.add_argument("--turn", type=float, default=0.12, help="seconds of a turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    worst = {SAME: 0.0, PACKAGE: 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = build(Preset.HOST, folder)
        artifacts = args.artifacts or export(folder / "artifacts")
        print(
            "| Artifact | Threads | Runner, ms | Same library, ms | Ratio | Ratios of rounds "
            "| Package, ms | Ratio | Load, ms | Peak MB |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )
        for artifact in artifacts:
            for threads in args.threads:
                rounds = measure(runner, artifact, threads, args, folder)
                same = SAME if SAME in rounds[0] else PACKAGE
                native, twin, package = (
                    median_of(launch[name] for launch in rounds) for name in (RUNNER, same, PACKAGE)
                )
                ratio = native.median_ms / twin.median_ms
                ratios = [launch[RUNNER].median_ms / launch[same].median_ms for launch in rounds]
                to_package = native.median_ms / package.median_ms
                worst[SAME] = max(worst[SAME], abs(ratio - 1) * 100)
                worst[PACKAGE] = max(worst[PACKAGE], abs(to_package - 1) * 100)
                print(
                    f"| {artifact.name} | {threads} | {native.median_ms:.2f} "
                    f"| {twin.median_ms:.2f} | {ratio:.3f} "
                    f"| {min(ratios):.3f} to {max(ratios):.3f} | {package.median_ms:.2f} "
                    f"| {to_package:.3f} "
                    f"| {native.load_ms:.0f}, {package.load_ms:.0f} "
                    f"| {native.peak_mb:.0f}, {package.peak_mb:.0f} |",
                    flush=True,
                )
    print(
        f"\nFarthest from the same library: {worst[SAME]:.1f} %, from the package: "
        f"{worst[PACKAGE]:.1f} %; bar {BAR_PERCENT:g} %."
    )
    return int(max(worst.values()) > BAR_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
