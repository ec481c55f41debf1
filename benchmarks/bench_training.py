"""Time and memory of a generator's training step: dense, at the search's start, and sliced.

One step is forward, backward of an L1 distance, the optimiser's step and, while searching, the
proximal step of a path that falls at every step, as it does until the target is reached.
Discriminators are left out: they are the same in every row. The variants take turns in one process;
peak memory is each one's own, in a process of its own, over what the process held before the
network was built, counted from when the network stands, sliced or not.

    python benchmarks/bench_training.py [--size 256] [--rounds 5] [--threads 1] [--clock cpu]
    python benchmarks/bench_training.py --variants dense 'dense, bf16, channels last'
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.bench.system import host_facts
from coronet_deploy.coronet.allocator import keep_freed_memory
from coronet_deploy.coronet.pupil import Pupil
from coronet_deploy.coronet.recipe import Precision, Recipe
from coronet_deploy.vocabulary import Architecture, Norm

ARCHITECTURES = {
    Architecture.RESNET_9: Norm.INSTANCE,
    Architecture.UNET_256: Norm.BATCH,
}
# name: (form of the hypernetworks or none, ratio that is left)
VARIANTS: dict[str, tuple[str | None, float]] = {
    "dense": (None, 1.0),
    "search, published": ("published", 1.0),
    "search, collapsed": ("collapsed", 1.0),
    "sliced to 0.5": ("collapsed", 0.5),
    "sliced to 0.25": ("collapsed", 0.25),
    "sliced to 0.1": ("collapsed", 0.1),
}
# what follows a variant's name: the recipe's table `machine`
MACHINES: dict[str, dict[str, str | bool]] = {
    "": {},
    ", channels last": {"channels_last": True},
    ", bf16": {"precision": "bf16"},
    ", bf16, channels last": {"precision": "bf16", "channels_last": True},
}

_FALLS_TO = 0.8  # share of what is left that the path ends at


def main() -> None:
    """Print one table an architecture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: this process's own time, for a machine that does other work meanwhile",
    )
    parser.add_argument("--architecture", choices=[*ARCHITECTURES], type=Architecture)
    every = [name + machine for machine in MACHINES for name in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=every, default=[*VARIANTS])
    parser.add_argument("--memory-of", choices=every, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(peak_bytes(args.architecture, args.memory_of, args.size)))
        return
    print(f"{host_facts()['cpu']}, {args.threads} thread(s), {args.size}x{args.size}, batch 1\n")
    for architecture in [args.architecture] if args.architecture else ARCHITECTURES:
        print_table(architecture, args)


def print_table(architecture: Architecture, args: argparse.Namespace) -> None:
    """Measure one architecture's variants in turns and print them."""
    steps = {name: make_step(architecture, name, args.size) for name in args.variants}
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        for name, (step, _) in steps.items():
            started = clock()
            step()
            if number:  # the first round warms up
                taken[name].append(clock() - started)
    ratios = {name: ratio for name, (_, ratio) in steps.items()}
    del steps
    memory = {name: measured_apart(architecture, name, args) for name in taken}
    medians = {name: statistics.median(times) for name, times in taken.items()}
    base = next(iter(medians))
    print(f"| {architecture.value} | MACs | step ms | of {base} | peak MB | of {base} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, seconds in medians.items():
        print(
            f"| {name} | {ratios[name]:.3f} | {seconds * 1e3:.0f} | {seconds / medians[base]:.2f} "
            f"| {memory[name] / 1e6:.0f} | {memory[name] / memory[base]:.2f} |"
        )
    print(flush=True)


def make_step(architecture: Architecture, name: str, size: int) -> tuple[Callable[[], None], float]:
    """Return a function that takes one training step, and the ratio of MACs that is left."""
    variant = next(one for one in VARIANTS if name.startswith(one))
    (form, ratio), machine = VARIANTS[variant], MACHINES[name.removeprefix(variant)]
    # Below what is left, so that the path has somewhere to fall to.
    target = 1.0 if form is None else ratio * _FALLS_TO
    recipe = Recipe.model_validate(
        {
            "model": {
                "id": "bench",
                "title": "bench",
                "architecture": architecture,
                "norm": ARCHITECTURES[architecture],
                "dropout": 0.0 if architecture.is_resnet else 0.5,
            },
            "search": {"steps": 1000, "target": target, "form": form or "collapsed"},
            "finetune": {"steps": 0},
            "machine": machine,
        }
    )
    torch.manual_seed(0)
    pupil = Pupil(recipe, "bench", torch.device("cpu"))
    controller = pupil.controller
    if form and ratio < 1:
        replace(controller, target=ratio).cut(pupil.network.latents)  # type: ignore[arg-type] # searching
        pupil.slice()
    left = pupil.ratio
    # From where the path has come to what is left, on.
    falling = (n for n in range(controller.reach + 1) if controller.path(n) < left)
    numbers = itertools.count(next(falling) if form else 0)
    x, truth = torch.rand(2, 1, 3, size, size) * 2 - 1
    if recipe.machine.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    bf16 = recipe.machine.precision is Precision.BF16

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            drawn = pupil.network(x)
        loss: Tensor = F.l1_loss(drawn.float(), truth)
        pupil.optimizer.zero_grad()
        torch.autograd.backward(loss)
        pupil.optimizer.step()
        if form:
            pupil.prune(next(numbers))

    return step, left


def peak_bytes(architecture: Architecture, name: str, size: int) -> int:
    """Return how much this process's peak grew by two training steps of a variant."""
    torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 1, 1))
    before = _peak_kilobytes()
    step, _ = make_step(architecture, name, size)
    _forget_peak()
    step()
    step()
    return (_peak_kilobytes() - before) * 1024


def _forget_peak() -> None:
    """Give back what is free, and let the peak start from what is held: slicing began larger."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak_kilobytes() -> int:
    """Return the most memory this process has held; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index] # Linux has it


def measured_apart(architecture: Architecture, name: str, args: argparse.Namespace) -> int:
    """Return `peak_bytes` of a variant, measured in a process of its own."""
    line = [sys.executable, __file__, "--architecture", architecture, "--memory-of", name]
    line += ["--size", str(args.size), "--threads", str(args.threads)]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    return int(json.loads(result.stdout))


if __name__ == "__main__":
    main()
