"""Does `compare` see five percent? Builds a network and a twin with 5 % more work, and compares.

    python benchmarks/slower_twin.py                    both formats, one thread, some minutes
    python benchmarks/slower_twin.py --runtime tflite --threads 1 --most 20

The network is a chain of equal 3x3 convolutions; its twin has one more in twenty, so its
multiply-adds, and all that surrounds them, are 5 % more. The installed command then compares the
network with itself and with the twin. The exit status is 0 if it calls the twin slower and the
network itself not: `--most 20` helps where the machine is noisy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from coronet_deploy.vocabulary import Runtime

LAYERS = 20


def build(folder: Path, runtime: Runtime, layers: int, *, channels: int, size: int) -> Path:
    """Write a chain of so many equal convolutions on (size, size) pictures; returns its path."""
    import torch
    from torch import nn

    from coronet_deploy.export.capture import capture
    from coronet_deploy.export.onnx import emit_onnx
    from coronet_deploy.export.passes import lower
    from coronet_deploy.export.tflite import emit_tflite
    from coronet_deploy.vocabulary import DType

    torch.manual_seed(1)
    inner: list[nn.Module] = []
    for _ in range(layers):
        inner += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    # One-by-one at both ends: next to nothing beside a layer of the chain.
    net = nn.Sequential(nn.Conv2d(3, channels, 1), *inner, nn.Conv2d(channels, 3, 1), nn.Tanh())
    graph, _ = lower(capture(net.eval(), size, size), runtime)
    emit = emit_onnx if runtime is Runtime.ONNX else emit_tflite
    path = folder / f"{layers}-layers{runtime.suffix}"
    path.write_bytes(emit(graph, DType.FP32, {}))
    return path


def multiply_adds(layers: int, *, channels: int, size: int) -> int:
    """Return the multiply-adds of `build`'s network for one picture."""
    ends = 2 * 3 * channels * size * size
    return ends + layers * 9 * channels * channels * size * size


def compare(base: Path, candidate: Path, folder: Path, flags: list[str]) -> dict[str, Any]:
    """Run the installed `coronet-deploy compare` and return its JSON.

    Raises:
        RuntimeError: it gave none.

    """
    command = [str(Path(sys.executable).with_name("coronet-deploy")), "compare"]
    line = [*command, str(base), str(candidate), "--json", "--output", str(folder), *flags]
    done = subprocess.run(line, check=False, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise RuntimeError(f"{' '.join(line)} ended with status {done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> int:
    """Parse the flags, compare, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runtimes = [runtime.value for runtime in Runtime]
    parser.add_argument("--runtime", choices=runtimes, nargs="+", default=runtimes)
    parser.add_argument("--channels", type=int, default=32, help="of each layer (default: 32)")
    parser.add_argument("--size", type=int, default=128, help="of the picture (default: 128)")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--most", default="10", help="launches a side at most (default: 10)")
    parser.add_argument("--seconds", default="2", help="of a launch's samples (default: 2)")
    parser.add_argument("--max-load", help="see `compare`")
    args = parser.parse_args()
    flags = ["--threads", args.threads, "--most", args.most, "--seconds", args.seconds]
    flags += ["--max-load", args.max_load] if args.max_load else []
    shape = {"channels": args.channels, "size": args.size}
    work = [multiply_adds(layers, **shape) for layers in (LAYERS, LAYERS + 1)]
    print(f"{work[0] / 1e9:.2f} and {work[1] / 1e9:.2f} G multiply-adds: {work[1] / work[0]:.4f}\n")
    print("| candidate | threads | ratio | 90 % interval | launches | verdict |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    fine = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for runtime in map(Runtime, args.runtime):
            base, twin = (build(folder, runtime, n, **shape) for n in (LAYERS, LAYERS + 1))
            for candidate in (base, twin):
                for row in compare(base, candidate, folder / "runs", flags)["rows"]:
                    told = row["verdict"]
                    fine = fine and (told == "slower") == (candidate is twin) and told != "invalid"
                    print(_line(row, "itself" if candidate is base else "5 % more work"))
    return 0 if fine else 1


def _line(row: dict[str, Any], what: str) -> str:
    interval = "-"
    if row["low"] is not None:
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
    runtime = Path(row["artifact"]).suffix.removeprefix(".")
    reason = f": {row['reason']}" if row["reason"] else ""
    cells = (
        f"{runtime}, {what}",
        row["threads"],
        ratio,
        interval,
        row["launches"][1],
        f"{row['verdict']}{reason}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
