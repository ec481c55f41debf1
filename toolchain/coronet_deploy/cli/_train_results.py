"""What `coronet-deploy train` says at its end: the results, as lines or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.coronet.recipe import Recipe
    from coronet_deploy.coronet.tuning import Gains
    from coronet_deploy.vocabulary import ChannelPlan


@dataclass(frozen=True)
class Tuned:
    """A tuned checkpoint, and what came of its tuning."""

    path: Path
    steps: int
    gains: Gains

    def __str__(self) -> str:
        before, after, moved = self.gains
        return (
            f"{self.path}: eight bits draw what float draws to {after:.1f} dB, "
            f"{before:.1f} before (simulated);\nits float pictures are those of before to "
            f"{moved:.1f} dB"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        simulated = {
            "before": round(self.gains.before, 2),
            "after": round(self.gains.after, 2),
            "float_moved": round(self.gains.moved, 2),
        }
        return {
            "checkpoint": str(self.path),
            "steps": self.steps,
            "simulated_psnr_db": simulated,
        }


def print_results(
    recipe: Recipe, results: Sequence[Checkpoint], tuned: Sequence[Tuned], *, as_json: bool
) -> None:
    """Print a training's results, and on stderr what is further below the target than meant."""
    from coronet_deploy.coronet.controller import WINDOW
    from coronet_deploy.networks.cost import Measure

    def share(plan: ChannelPlan, measure: Measure = recipe.search.measure) -> float:
        return measure.of(plan) / measure.of(recipe.full)

    for result in results:
        ratio = share(result.plan)
        if recipe.prunes and ratio < recipe.target_ratio - WINDOW:
            print(
                f"{result.path}: {ratio:.4f} is further than {WINDOW:g} below the target, "
                f"{recipe.target_ratio:.4g}: whole multiples of {recipe.search.channel_multiple} "
                "channels left nothing nearer",
                file=sys.stderr,
            )
    if as_json:
        paths = [str(result.path) for result in results]
        summary: dict[str, Any] = {"checkpoint": paths[0], "checkpoints": paths}
        summary["steps"] = recipe.steps
        for measure in Measure:
            shares = [share(result.plan, measure) for result in results]
            summary[f"{measure}_ratio"] = sum(shares) / len(shares)
        if tuned:
            summary["qat"] = [one.as_json() for one in tuned]
        print(json.dumps(summary))
        return
    counted = recipe.search.measure.label
    for result in results:
        print(
            f"{result.path}: {share(result.plan):.4f} of the {counted} after {recipe.steps} steps"
        )
    for one in tuned:
        print(one)
