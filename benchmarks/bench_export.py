"""Measures exported files beside other converters and runtimes; prints Markdown tables.

    python benchmarks/peers/setup.py              once: the peers, in environments of their own
    python benchmarks/bench_export.py             three generators and the bundled one
    python benchmarks/bench_export.py --quick     two rounds of few inferences
    python benchmarks/bench_export.py --plans 20  random pruned ResNet-9 plans
    python benchmarks/bench_export.py --time      how long six artifacts take, their peak memory
    python benchmarks/bench_export.py --prepare   convert only; what is converted is kept

Of two threads, how far the cores were from each other is printed (see bench/cores.py): in a virtual
machine it changes within a minute, and with it whatever waits for another thread often. `--near
400` counts launches only that had the cores that many nanoseconds apart at their start and end,
until twenty looks found them farther.

FP32, 256x256, one picture. Every launch is a process of its own with one runtime; a launch of each
is alive at a time, and they infer in turns, one inference each (see turns.py). A figure is the
median of the launches' medians. Each peer's
picture is compared with torch's first: below 60 dB its latency says nothing, and the row says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from bench_lowering import networks
from peers.setup import CACHE, python_of
from torch import nn
from turns import Played, play

from coronet_deploy.bench.cores import round_trip_ns
from coronet_deploy.bench.system import host_facts
from coronet_deploy.coronet.checkpoint import Header, Stage, load_checkpoint, save_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint, bundled_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.images import read_picture
from coronet_deploy.networks.cost import macs
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture, ChannelPlan, DType, Runtime

_SIZE = 256
_SAME_DB = 60.0
_HERE = Path(__file__).resolve().parent / "peers"
_HORSES = Path(__file__).resolve().parents[1] / "models" / "horse2zebra-resnet9"
_SHIPPED = tuple(_HORSES / f"horse2zebra-resnet9{which}.safetensors" for which in ("", "-long"))
_MOST_AGAIN = 20  # launches of one table that do not count because the cores were apart


@dataclass(frozen=True)
class Contender:
    """A row: what it is called, which environment and script run it, and its file, if it is one."""

    name: str
    environment: str | None
    script: str
    file: str = ""


OURS = "ours, TFLite"
CONTENDERS = (
    Contender(OURS, None, "run_session.py", "ours.tflite"),
    Contender("ours, ONNX in ONNX Runtime", None, "run_session.py", "ours.onnx"),
    Contender("torch.onnx.export in ONNX Runtime", None, "run_session.py", "plain.onnx"),
    Contender("litert-torch, least that converts", None, "run_session.py", "least.tflite"),
    Contender("ncnn (pnnx)", "ncnn", "run_ncnn.py"),
    Contender("MNN", "mnn", "run_mnn.py"),
)


@dataclass
class Row:
    """What was measured of one contender: launch medians in ms by threads, and its picture."""

    medians: dict[int, list[float]] = field(default_factory=dict)
    psnr_db: float = 0.0
    peak_mb: float = 0.0
    failed: str | None = None


def subjects(args: argparse.Namespace) -> Iterator[tuple[str, ChannelPlan, nn.Module]]:
    """Yield the networks: name, plan, generator in eval."""
    if args.plans:
        for seed in range(args.plans):
            yield f"resnet_9blocks, plan {seed}", *seeded(random_plan(seed))
        return
    plans = networks()
    for name in ("resnet_9blocks", "unet_256", "resnet_9blocks pruned"):
        if args.network in name:
            yield name, *seeded(plans[name])
    if args.network in "bundled":
        for path in (bundled_checkpoint(), *_SHIPPED):
            checkpoint = load_checkpoint(path)
            yield f"bundled: {checkpoint.id}", checkpoint.plan, checkpoint.generator()


def random_plan(seed: int) -> ChannelPlan:
    """Return a ResNet-9 plan that keeps between 0.1 and 0.6 of every group, drawn apart."""
    full, random = full_plan(Architecture.RESNET_9), np.random.default_rng(seed)
    kept = {g: max(1, int(n * random.uniform(0.1, 0.6))) for g, n in full.groups.items()}
    return replace(full, groups=kept)


def seeded(plan: ChannelPlan) -> tuple[ChannelPlan, nn.Module]:
    """Return a plan with its generator, seeded weights: they do not change the work."""
    torch.manual_seed(0)
    return plan, build_generator(plan).eval()


def prepare(plan: ChannelPlan, generator: nn.Module) -> Path:
    """Return the folder of one network with every file that could be made; kept between calls."""
    state = generator.state_dict()
    digest = hashlib.sha256(json.dumps(plan.as_json()).encode())
    for tensor in state.values():
        digest.update(tensor.numpy().tobytes())
    folder = CACHE / "networks" / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan.as_json()))
    torch.save(state, folder / "weights.pt")
    picture = read_picture(bundled_pictures()[0], _SIZE, _SIZE).transpose(2, 0, 1)[None].copy()
    np.save(folder / "picture.npy", picture)
    with torch.inference_mode():
        np.save(folder / "reference.npy", generator(torch.from_numpy(picture)).numpy())
    # Ours are made anew each time: they are what changes.
    graph = capture(generator, _SIZE, _SIZE)
    emit: Mapping[Runtime, Callable[..., bytes]] = {
        Runtime.TFLITE: emit_tflite,
        Runtime.ONNX: emit_onnx,
    }
    for runtime, write in emit.items():
        lowered, _ = lower(graph, runtime)
        (folder / f"ours{runtime.suffix}").write_bytes(write(lowered, DType.FP32, {}))
    converter, plan_file = str(python_of("litert-torch")), str(folder / "plan.json")
    convert = [converter, str(_HERE / "convert.py"), plan_file, str(folder)]
    _make(folder, "plain.onnx", convert)
    _make(folder, "least.tflite", [*convert, "--litert-torch"])
    # The program itself: the script beside it wants torch in that environment.
    programs = [*(CACHE / "ncnn").glob("lib/python*/site-packages/pnnx/pnnx"), Path("pnnx")]
    pnnx = [str(programs[0]), "traced.pt"]
    _make(folder, "traced.ncnn.param", [*pnnx, f"inputshape=[1,3,{_SIZE},{_SIZE}]f32", "fp16=0"])
    # The converter alone: the script around it installs packages wherever it finds a pip, and
    # tells its maker what was converted.
    bare = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"
    mnn = [str(python_of("mnn")), "-c", bare, "-f", "ONNX", "--modelFile", "plain.onnx"]
    _make(folder, "plain.mnn", [*mnn, "--MNNModel", "plain.mnn", "--bizCode", "x"])
    return folder


def _make(folder: Path, file: str, command: list[str]) -> None:
    """Run what makes `file`, if it is missing; say in one line why it could not."""
    if (folder / file).exists():
        return
    print(f"making {file} of {folder.name}", file=sys.stderr)
    started = time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        print(f"{file}: not made: {error}", file=sys.stderr)
        return
    if (folder / file).exists():
        print(f"{file}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    else:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        print(f"{file}: not made: {told[-1][:300]}", file=sys.stderr)


def command_of(one: Contender, folder: Path, threads: int) -> list[str]:
    """Return the command line of one contender's process."""
    python = python_of(one.environment) if one.environment else Path(sys.executable)
    return [str(python), str(_HERE / one.script), str(folder / one.file), str(threads)]


def keep(row: Row, told: Played | str, threads: int) -> None:
    """Add what one launch told to its row."""
    if isinstance(told, str):
        row.failed = told
        return
    row.psnr_db, row.peak_mb = told.last["psnr_db"], max(row.peak_mb, told.last["peak_mb"])
    if row.psnr_db < _SAME_DB:
        row.failed = f"another picture: {row.psnr_db:.1f} dB"
    else:
        row.medians.setdefault(threads, []).append(told.median_ms)


@dataclass
class Distances:
    """How far two cores were from each other, in ns by number of threads, and who may be."""

    most_ns: float
    seen: dict[int, list[float]] = field(default_factory=dict)
    again: int = 0

    def near(self, threads: int) -> bool:
        """Look, and return whether a launch counts."""
        if threads == 1 or (now := round_trip_ns()) is None:
            return True
        if now > self.most_ns and self.again < _MOST_AGAIN:
            self.again += 1
            time.sleep(1)
            return False
        self.seen.setdefault(threads, []).append(now)
        return True

    def __str__(self) -> str:
        told = [
            f"{n} threads: cores {min(ns):.0f} to {max(ns):.0f} ns apart"
            for n, ns in self.seen.items()
        ]
        if self.again:
            then = ", and counted from then on" if self.again == _MOST_AGAIN else ""
            told.append(f"{self.again} looks found them farther apart{then}")
        return "\n".join(told)


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Row], Distances]:
    """Return what each contender did, all of them in turns; one that failed is not tried again."""
    rows, apart = {one.name: Row() for one in CONTENDERS}, Distances(args.near)
    for one in CONTENDERS:
        if one.file and not (folder / one.file).exists():
            rows[one.name].failed = "not converted"
    for threads in args.threads:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        counted = 0
        while counted < args.rounds:
            if not apart.near(threads):
                continue
            commands = {
                one.name: command_of(one, folder, threads)
                for one in CONTENDERS
                if rows[one.name].failed is None
            }
            launched = play(commands, args.warmup, args.samples, env)
            if apart.near(threads):
                counted += 1
                for name, told in launched.items():
                    keep(rows[name], told, threads)
    return rows, apart


def figure(row: Row, threads: int) -> float | None:
    """Return the median of the launches' medians, in ms."""
    return statistics.median(row.medians[threads]) if row.medians.get(threads) else None


def table(rows: Mapping[str, Row], threads: list[int]) -> None:
    """Print one network's rows; ratios are to our TFLite file."""
    columns = "".join(f" {n}T ms | {n}T ratio |" for n in threads)
    print(f"| runtime |{columns} PSNR dB | peak MB |")
    print(f"| --- |{' --: | --: |' * len(threads)} --: | --: |")
    for name, row in rows.items():
        cells = [name]
        for n in threads:
            value, ours = figure(row, n), figure(rows[OURS], n)
            cells += [f"{value:.1f}", f"{value / ours:.2f}"] if value and ours else ["", ""]
        if row.failed:
            cells[1:3] = [f"not measured: {row.failed}", ""]
        cells += [f"{row.psnr_db:.1f}", f"{row.peak_mb:.0f}"] if row.peak_mb else ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


def best_ratio(rows: Mapping[str, Row], threads: int) -> tuple[float, str] | None:
    """Return our latency over the fastest other contender's, and its name."""
    ours = figure(rows[OURS], threads)
    others = {
        name: value
        for name, row in rows.items()
        if not name.startswith("ours") and (value := figure(row, threads))
    }
    if ours is None or not others:
        return None
    best = min(others, key=others.__getitem__)
    return ours / others[best], best


def compare(args: argparse.Namespace) -> None:
    """Print the tables of latency."""
    print(f"FP32, {_SIZE}x{_SIZE}, {host_facts()['cpu']}")
    ratios: dict[int, list[float]] = {n: [] for n in args.threads}
    for name, plan, generator in subjects(args):
        folder = prepare(plan, generator)
        if args.prepare:
            continue
        rows, apart = measure(folder, args)
        print(f"\n### {name}, {macs(plan, _SIZE, _SIZE) / 1e9:.2f} GMACs\n")
        table(rows, args.threads)
        print()
        if told := str(apart):
            print(told)
        for n in args.threads:
            if best := best_ratio(rows, n):
                ratios[n].append(best[0])
                print(f"{n} thread(s): {best[0]:.2f} of the best other's time ({best[1]})")
    for n, found in ratios.items():
        if len(found) > 1:
            ahead = sum(ratio < 1 for ratio in found)
            print(
                f"\n{n} thread(s): ours ahead of the best other in {ahead} of {len(found)}; "
                f"ratio {min(found):.2f} to {max(found):.2f}, median {statistics.median(found):.2f}"
            )


def time_exports(args: argparse.Namespace) -> None:
    """Print how long `export --dtype all` takes and the most memory that it holds."""
    print("| generator | artifacts | s | of which CPU | peak MB |\n| --- | --: | --: | --: | --: |")
    for name, plan, generator in subjects(args):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generator.safetensors"
            header = Header(
                format_version=1,
                stage=Stage.DENSE,
                id="generator",
                title=name,
                task="timing",
                plan=plan.as_json(),
                total=dict(plan.groups),
            )
            tensors = {f"network.{key}": value for key, value in generator.state_dict().items()}
            save_checkpoint(path, header, tensors)
            command = [str(Path(sys.executable).with_name("coronet-deploy")), "export", str(path)]
            # Random weights quantise badly; what is asked here is how long it takes.
            command += ["--dtype", "all", "--output", folder, "--json", "--min-psnr", "1"]
            told = watched(command)
        cells = (told["artifacts"], f"{told['s']:.1f}", f"{told['cpu_s']:.1f}", f"{told['mb']:.0f}")
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


def watched(command: list[str]) -> dict[str, float]:
    """Run `command` and return how many artifacts it made and what it used.

    Its peak is what the system tells last before it ends: a count that only grows.
    """
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_kb, pattern = 0, re.compile(r"VmHWM:\s*(\d+) kB")
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdout=output) as process,
    ):
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            if found := pattern.search(status.read_text()):
                peak_kb = int(found[1])
            time.sleep(0.02)
        output.seek(0)
        said = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "artifacts": len(json.loads(said)["artifacts"]) if said else 0,
        "s": time.monotonic() - started,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "mb": peak_kb / 1024,
    }


def main() -> None:
    """Parse the flags and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="", help="only networks whose name contains this")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="launches of each contender")
    parser.add_argument("--warmup", type=int, default=3, help="inferences before the turns")
    parser.add_argument("--samples", type=int, default=8, help="measured inferences of a launch")
    parser.add_argument("--near", type=float, default=math.inf, help="most ns between two cores")
    parser.add_argument("--plans", type=int, default=0, help="random pruned ResNet-9 plans")
    parser.add_argument("--prepare", action="store_true", help="convert, measure nothing")
    parser.add_argument("--time", action="store_true", help="time of export, and its peak memory")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 1 and 2 inferences")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.warmup, args.samples = 2, 1, 2
    if args.time:
        time_exports(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
