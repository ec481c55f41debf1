"""What a search takes, from its first step to its cut, beside training the unpruned generator.

    python benchmarks/bench_search.py [--steps 50] [--targets 0.5 0.25 0.1 0.05] [--threads 1]

A generator of full width learns the bundled pictures by their L1 distance, in the collapsed form,
with the recipes' settings, sliced up to fifty times on the way; discriminators are left out: they
are the same beside every generator. Dense steps are taken on the way, one in ten after one that is
not timed, so that both meet the same machine. "before the cut" is the ratio that the proximal steps
alone reached; "steps to target" is how many it took to within a point of the target; the time is
the whole search's, slicing and cutting included, over as many dense steps: means on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench_training import ARCHITECTURES
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.bench.system import host_facts
from coronet_deploy.coronet.allocator import keep_freed_memory
from coronet_deploy.coronet.pupil import Pupil
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.images import read_picture
from coronet_deploy.vocabulary import Architecture

_DENSE_EVERY = 10
_WITHIN = 0.01
_SIZE = 256  # where pictures are small, making the weights is most of a step
_SLICES = 50


@dataclass(frozen=True)
class Searched:
    """What one search gave.

    `search_s` are the seconds of each step with the slicing that followed it, `cut_s` those of the
    cut, `dense_s` those of the dense steps that were taken on the way.
    """

    before: float
    achieved: float
    reached: int | None
    search_s: list[float]
    cut_s: float
    dense_s: list[float]

    @property
    def share(self) -> float:
        """The whole search's time over as many dense steps."""
        return (statistics.fmean(self.search_s) + self.cut_s / len(self.search_s)) / (
            statistics.fmean(self.dense_s)
        )


def pupil(architecture: Architecture, target: float, steps: int) -> Pupil:
    """Return a generator of full width that is to be searched, or a plain one if `target` is 1."""
    recipe = {
        "model": {
            "id": "bench",
            "title": "bench",
            "architecture": architecture,
            "norm": ARCHITECTURES[architecture],
            "dropout": 0.0 if architecture.is_resnet else 0.5,
        },
        "search": {
            "steps": steps,
            "target": target,
            "form": "collapsed",
            "latent_lr_factor": 5.0,
            "slice_every": max(steps // _SLICES, 1),
        },
        "finetune": {"steps": 0},
    }
    torch.manual_seed(0)
    return Pupil(Recipe.model_validate(recipe), "bench", torch.device("cpu"))


def stepper(one: Pupil, pictures: Tensor) -> Callable[[int], None]:
    """Return what takes training step number so much of `one`, and slices when it is time."""

    def take(step: int) -> None:
        picture = pictures[step % len(pictures)][None]
        loss: Tensor = F.l1_loss(one.network(picture), picture)
        one.optimizer.zero_grad()
        torch.autograd.backward(loss)
        one.optimizer.step()
        one.prune(step)
        if (step + 1) % one.recipe.search.slice_every == 0:
            one.slice()

    return take


def search(architecture: Architecture, target: float, steps: int) -> Searched:
    """Search once and cut."""
    read = (read_picture(path, _SIZE, _SIZE) for path in bundled_pictures())
    pictures = torch.stack([torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in read])
    one, dense = pupil(architecture, target, steps), pupil(architecture, 1.0, steps)
    take, take_dense = stepper(one, pictures), stepper(dense, pictures)
    search_s, dense_s, reached = [], [], None
    take_dense(0)  # the few that are timed would show what the first one prepares
    for step in range(steps):
        if step % _DENSE_EVERY == 0:
            dense_s.append(_timed(take_dense, step))
        search_s.append(_timed(take, step))
        if reached is None and one.ratio <= target + _WITHIN:
            reached = step + 1
        if sys.stderr.isatty():
            print(f"\r{architecture} {target:g}: {step + 1}/{steps}", end="", file=sys.stderr)
    before = one.ratio
    cut_s = _timed(one.cut)
    return Searched(before, one.ratio, reached, search_s, cut_s, dense_s)


def _timed(do: Callable[..., object], *arguments: int) -> float:
    started = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - started


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="of each search (default: 50)")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.25, 0.1, 0.05])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--architecture", choices=[*ARCHITECTURES], type=Architecture)
    args = parser.parse_args()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(args.threads)
    where = f"{host_facts()['cpu']}, {args.threads} thread(s), {_SIZE}x{_SIZE}"
    print(f"{where}, batch 1, {args.steps} steps\n")
    print("| generator | target | before the cut | achieved | steps to target | time of dense |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for architecture in [args.architecture] if args.architecture else ARCHITECTURES:
        for target in args.targets:
            done = search(architecture, target, args.steps)
            cells = (
                architecture.value,
                f"{target:g}",
                f"{done.before:.4f}",
                f"{done.achieved:.4f}",
                done.reached or "not reached",
                f"{done.share:.2f}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
