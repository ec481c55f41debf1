"""`coronet-deploy train`: a recipe and pictures to a CoroNet checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli.bench import positive
from coronet_deploy.errors import BadInput, missing_package

if TYPE_CHECKING:
    from coronet_deploy.coronet.train import StepReport

HELP = "train a generator that is pruned while it trains, from a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", type=Path, help="recipe (TOML)")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and, for samples, val/"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for state, samples and result (default runs/<id>)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value of the recipe, such as search.target=0.25",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the output's state")
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's)")
    parser.add_argument("--save-every", type=positive, default=500, metavar="STEPS")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        import torch

        from coronet_deploy.coronet.recipe import read_recipe
        from coronet_deploy.coronet.train import Trainer
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "torch") from error
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"--device {args.device}: torch cannot use it here: {str(error).splitlines()[0]}"
        ) from error
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = read_recipe(args.recipe, args.overrides)
    output = args.output or Path("runs") / recipe.model.id
    trainer = Trainer(recipe, args.data, output, args.device)
    if args.resume:
        trainer.resume()
    path = trainer.run(_Progress(), args.save_every)
    last = trainer.rows[-1]
    if args.json:
        print(json.dumps({"checkpoint": str(path), "macs_ratio": last.ratio, "steps": last.steps}))
    else:
        print(f"{path}: {last.ratio:.4f} of the multiply-adds after {last.steps} steps")
    return 0


class _Progress:
    """A line on stderr: rewritten on a terminal, one in a hundred steps elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._recent: list[StepReport] = []
        self._shown = 0.0

    def __call__(self, row: StepReport) -> None:
        self._recent = [*self._recent[-99:], row]
        now = time.monotonic()
        if self._terminal and now - self._shown < 0.5:  # noqa: PLR2004 - seconds between redraws
            return
        if not self._terminal and (row.step + 1) % 100:
            return
        self._shown = now
        n = len(self._recent)
        mean = {k: sum(getattr(r, k) for r in self._recent) / n for k in ("d", "gan", "l1")}
        seconds = sum(r.seconds for r in self._recent) / n
        left = (row.steps - row.step - 1) * seconds / 60
        line = (
            f"{row.phase} {row.step + 1}/{row.steps}  MACs {row.ratio:.3f}  "
            f"D {mean['d']:.3f}  GAN {mean['gan']:.3f}  L1 {mean['l1']:.4f}  "
            f"{seconds:.2f} s/step  {left:.0f} min left"
        )
        end = "\r" if self._terminal and row.step + 1 < row.steps else "\n"
        print(f"\033[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)
