"""Measures the C runner beside the Python runtimes on this host, in turns; a Markdown table.

    python benchmarks/bench_runner.py                      the bundled model, FP32 and INT8
    python benchmarks/bench_runner.py --rounds 2 --most 2 --samples 50 MODEL.tflite

Every launch is a process of its own. A launch of each is alive at a time, and while one infers the
others are stopped: turns of `--turn` seconds (A B A B), because a neighbour on the machine comes
and goes within a second, and would decide the ratio of launches that ran one after the other. The
inference that a stop cuts in two counts as a long one, for all alike. Milliseconds are the median
of launch medians, a ratio that of one round's launches, over all rounds. A row has rounds (a launch
of each) until the 95 % intervals of its ratios are no wider than `--precision` percent either way,
so that how long a row is measured depends on how noisy the machine is, not on what the ratio says.
What the runner measures stands for what the Python runtimes do here if it agrees with them within 5
%; where a row does not, the exit status is 1.

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
from numpy.typing import NDArray

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
RESAMPLES = 2000


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
    rounds: list[Mapping[str, Figures]] = []
    while len(rounds) < args.most:
        rounds.append(in_turns(commands, args.turn, folder))
        others = commands.keys() - {RUNNER}
        if len(rounds) >= args.rounds and all(
            Ratio.of(rounds, other).half_width * 100 <= args.precision for other in others
        ):
            break
    return rounds


@dataclass(frozen=True)
class Ratio:
    """The runner's median over another's, and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[Mapping[str, Figures]], other: str) -> Ratio:
        """Return the ratio of launch medians, its interval by resampling rounds.

        A round's launches took turns and share its noise, so each gives one ratio. Their
        pseudomedian (Hodges and Lehmann, 1963) is used, as in verdicts: launches have a fast and
        a slow mood, and where both are as frequent a median is one or the other by chance.
        """
        logs = np.array([np.log(one[RUNNER].median_ms / one[other].median_ms) for one in rounds])
        draws = np.random.default_rng(0).integers(len(logs), size=(RESAMPLES, len(logs)))
        low, high = np.percentile(_pseudomedian(logs[draws]), (2.5, 97.5))
        return cls(*np.exp([_pseudomedian(logs), low, high]).tolist())

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def off_percent(self) -> float:
        """How far the ratio is from 1."""
        return abs(self.value - 1) * 100

    def __str__(self) -> str:
        """Return the ratio and its interval, as a row shows them."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def _pseudomedian(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of the means of all pairs, each with itself too, of (..., n) values."""
    first, second = np.triu_indices(values.shape[-1])
    return np.median((values[..., first] + values[..., second]) / 2, axis=-1)


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
    parser.add_argument("--rounds", type=int, default=8, help="fewest launches of each")
    parser.add_argument("--most", type=int, default=40, help="most launches of each")
    parser.add_argument("--precision", type=float, default=2.0, help="percent either way")
    parser.add_argument("--samples", type=int, default=200, help="samples of a launch")
    parser.add_argument("--turn", type=float, default=0.12, help="seconds of a turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    worst = {SAME: 0.0, PACKAGE: 0.0}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        runner = build(Preset.HOST, folder)
        artifacts = args.artifacts or export(folder / "artifacts")
        print(
            "| Artifact | Threads | Runner, ms | Same library, ms | Ratio "
            "| Package, ms | Ratio | Rounds | Load, ms | Peak MB |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )
        for artifact in artifacts:
            for threads in args.threads:
                rounds = measure(runner, artifact, threads, args, folder)
                same = SAME if SAME in rounds[0] else PACKAGE
                native, twin, package = (
                    median_of(launch[name] for launch in rounds) for name in (RUNNER, same, PACKAGE)
                )
                ratios = {SAME: Ratio.of(rounds, same), PACKAGE: Ratio.of(rounds, PACKAGE)}
                for name, ratio in ratios.items():
                    worst[name] = max(worst[name], ratio.off_percent)
                print(
                    f"| {artifact.name} | {threads} | {native.median_ms:.2f} "
                    f"| {twin.median_ms:.2f} | {ratios[SAME]} "
                    f"| {package.median_ms:.2f} | {ratios[PACKAGE]} | {len(rounds)} "
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
