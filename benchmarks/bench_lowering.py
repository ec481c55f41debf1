"""Measures what the lowering buys: latency of one inference, in Markdown tables.

    python benchmarks/bench_lowering.py                    six networks, one and two threads
    python benchmarks/bench_lowering.py --ablation         the same lowering with one pass left out
    python benchmarks/bench_lowering.py --network resnet --threads 1 --rounds 3 --samples 3

Every launch is a process of its own with one runtime; a launch of every file is alive at a time,
and they infer in turns, one inference each (see turns.py), so that whatever happens on the machine
meets them all. A figure is the median over the launches of the median over a launch's inferences.
Compare ratios, not milliseconds.

The files of a network: "onnx, as captured" and "onnx, lowered" on ONNX Runtime; "tflite, minimal",
the least that TFLite can express (mirror padding, transposed convolutions cropped); "tflite, size"
and "tflite, speed", lowered. Weights are random: they do not change the work. The network
"enlarging" is the pruned ResNet-9 with enlarged pictures and convolutions of them for its
transposed convolutions, as many have against checkerboards; "blurred" blurs a picture before it
leaves pixels out, and when it puts zeros between them. Their GMACs are those of the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from peers.launch import serve
from torch import Tensor, nn
from torch.nn import functional as F
from turns import play

from coronet_deploy.bench.system import host_facts
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower, passes_for, run_passes
from coronet_deploy.export.passes.minimal import MINIMAL, CropTransposedConvolution
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.networks.cost import macs
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.runtimes import open_session, runtime_of
from coronet_deploy.vocabulary import Architecture, ChannelPlan, DType, Runtime

_SIZE = 256
_KEPT = 0.28  # of the channels, in the pruned networks


def networks() -> dict[str, ChannelPlan]:
    """Return the channel plans by name: two generators, whole and pruned to irregular widths."""
    plans = {}
    for name, architecture in (
        ("resnet_9blocks", Architecture.RESNET_9),
        ("unet_256", Architecture.UNET_256),
    ):
        plan = full_plan(architecture)
        random = np.random.default_rng(0)
        groups = {
            group: max(1, int(channels * _KEPT * random.uniform(0.6, 1.4)))
            for group, channels in plan.groups.items()
        }
        plans[name] = plan
        plans[f"{name} pruned"] = replace(plan, groups=groups)
    return plans


def enlarging(generator: nn.Module) -> nn.Module:
    """Return a ResNet with convolutions of enlarged pictures for its transposed convolutions."""
    for name in ("up1", "up2"):
        layer = cast("nn.ConvTranspose2d", generator.get_submodule(name))
        convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3)
        enlarged = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), convolution)
        generator.set_submodule(name, enlarged)
    return generator


class Blur(nn.Module):
    """Puts zeros between pixels, blurs, and keeps every so many-th pixel of (1, C, H, W)."""

    kernel: Tensor

    def __init__(self, channels: int, up: int = 1, down: int = 1) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = torch.outer(line, line) * up**2
        self.register_buffer("kernel", kernel.expand(channels, 1, 4, 4).contiguous())
        self.up, self.down = up, down

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture, `up` times as large and then a `down`-th of that."""
        _, channels, height, width = x.shape
        apart = F.pad(
            x.view(1, channels, height, 1, width, 1), [0, self.up - 1, 0, 0, 0, self.up - 1]
        )
        x = F.pad(apart.view(1, channels, height * self.up, width * self.up), [2, 1, 2, 1])
        return F.conv2d(x, self.kernel, groups=channels)[:, :, :: self.down, :: self.down]


def blurred(generator: nn.Module) -> nn.Module:
    """Return a ResNet that blurs where it changes size, as networks against aliasing do."""
    for name in ("down", "enter"):
        layer = cast("nn.Conv2d", generator.get_submodule(name))
        convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
        halved = nn.Sequential(convolution, Blur(layer.out_channels, down=2))
        generator.set_submodule(name, halved)
    for name in ("up1", "up2"):
        transposed = cast("nn.ConvTranspose2d", generator.get_submodule(name))
        inputs, outputs = transposed.in_channels, transposed.out_channels
        doubled = nn.Sequential(Blur(inputs, up=2), nn.Conv2d(inputs, outputs, 3, padding=1))
        generator.set_submodule(name, doubled)
    return generator


_CHANGED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "resnet_9blocks pruned, enlarging": enlarging,
    "resnet_9blocks pruned, blurred": blurred,
}


def forms(graph: Graph) -> Iterator[tuple[str, str, bytes]]:
    """Yield what to compare with the first one: name, suffix, file."""
    yield "onnx, as captured", ".onnx", emit_onnx(graph, DType.FP32, {})
    lowered, _ = lower(graph, Runtime.ONNX)
    yield "onnx, lowered", ".onnx", emit_onnx(lowered, DType.FP32, {})
    minimal, _ = run_passes(graph, MINIMAL)
    yield "tflite, minimal", ".tflite", emit_tflite(minimal, DType.FP32, {})
    small, _ = lower(graph, Runtime.TFLITE, prefer="size")
    yield "tflite, size", ".tflite", emit_tflite(small, DType.FP32, {})
    fast, _ = lower(graph, Runtime.TFLITE)
    yield "tflite, speed", ".tflite", emit_tflite(fast, DType.FP32, {})


def ablations(graph: Graph) -> Iterator[tuple[str, str, bytes]]:
    """Yield the whole lowering, then the same without each pass that TFLite can do without."""
    passes = passes_for(Runtime.TFLITE)
    whole, _ = run_passes(graph, passes)
    yield "all passes", ".tflite", emit_tflite(whole, DType.FP32, {})
    needed = {step.name for step in MINIMAL}
    for left_out in passes:
        if left_out.name in needed:
            continue
        crop = (CropTransposedConvolution(),) if left_out.name == "subpixel_convolution" else ()
        rest = tuple(step for kept in passes for step in (crop if kept is left_out else (kept,)))
        lowered, _ = run_passes(graph, rest)
        if lowered.nodes != whole.nodes:
            yield f"without {left_out.name}", ".tflite", emit_tflite(lowered, DType.FP32, {})


def run_launch(path: Path, threads: int) -> None:
    """Be a process that infers when told."""
    with open_session(path, runtime_of(path), threads) as session:
        shape = session.input_shape
        session.prepare(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
        serve(session.invoke)


def measure(paths: list[Path], args: argparse.Namespace, threads: int) -> list[float]:
    """Return the latency of each file in ms: the median of its launches' medians."""
    own = [sys.executable, __file__, "--threads", str(threads), "--launch"]
    medians: dict[str, list[float]] = {path.name: [] for path in paths}
    for _ in range(args.rounds):
        commands = {path.name: [*own, str(path)] for path in paths}
        for name, told in play(commands, args.warmup, args.samples).items():
            if isinstance(told, str):
                raise SystemExit(f"{name}: {told}")
            medians[name].append(told.median_ms)
    return [statistics.median(launches) for launches in medians.values()]


def table(
    generator: nn.Module,
    compared: Callable[[Graph], Iterator[tuple[str, str, bytes]]],
    args: argparse.Namespace,
) -> None:
    """Print one network's table."""
    graph = capture(generator, _SIZE, _SIZE)
    columns = "".join(f" {n}T ms | {n}T ratio |" for n in args.threads)
    print(f"| file | MB |{columns}\n| --- | --: |{' --: | --: |' * len(args.threads)}")
    with tempfile.TemporaryDirectory() as folder:
        names, paths = [], []
        for index, (name, suffix, data) in enumerate(compared(graph)):
            names.append(name)
            paths.append(Path(folder) / f"{index}{suffix}")
            paths[-1].write_bytes(data)
        latencies = [measure(paths, args, threads) for threads in args.threads]
        for index, name in enumerate(names):
            cells = [name, f"{paths[index].stat().st_size / 1e6:.1f}"]
            for by_file in latencies:
                cells += [f"{by_file[index]:.1f}", f"{by_file[index] / by_file[0]:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `measure` reads."""
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="launches of each file")
    parser.add_argument("--warmup", type=int, default=3, help="inferences before the turns")
    parser.add_argument("--samples", type=int, default=8, help="measured inferences of a launch")


def main() -> None:
    """Parse the flags and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="", help="only networks whose name contains this")
    add_flags(parser)
    parser.add_argument("--ablation", action="store_true", help="leave out one pass at a time")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.launch:
        run_launch(args.launch, args.threads[0])
        return
    print(f"FP32, {_SIZE}x{_SIZE}, {host_facts()['cpu']}")
    plans = networks()
    names = [*plans, *_CHANGED]
    for name in (name for name in names if args.network in name):
        plan = plans[name.partition(",")[0]]
        torch.manual_seed(0)
        generator = build_generator(plan)
        print(f"\n### {name}, {macs(plan, _SIZE, _SIZE) / 1e9:.2f} GMACs\n")
        if name in _CHANGED:
            generator = _CHANGED[name](generator)
        table(generator, ablations if args.ablation else forms, args)


if __name__ == "__main__":
    main()
