"""Control of the proximal step, and the last exact cut: the wanted ratio is an input.

During the search the ratio, of MACs or of parameters, follows a path from 1 to just above the
target: the proximal step is as strong as it takes to be on the path, found by bisection on what
the masks would become. At the end the least latent entries are cut until the ratio lies just under
the target.
What counts, on the path too, are channels in the whole multiples that the cut will keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from coronet_deploy.coronet.latents import LatentVectors
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.cost import Measure
from coronet_deploy.vocabulary import ChannelPlan

_BISECTIONS = 40
_SPARE = 0.01  # how far above the target the search ends

Magnitudes = Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


@dataclass(frozen=True)
class Controller:
    """Steers a generator's latents to `target`, a ratio of its unpruned MACs or parameters.

    `reach` is the step by which the path is at the target; `multiple` what the channel counts
    are multiples of after the cut (phone kernels like 8), as far as `min_channels` allow.
    """

    full: ChannelPlan
    target: float
    reach: int
    min_channels: int
    multiple: int = 1
    measure: Measure = Measure.MACS

    def __post_init__(self) -> None:
        least = {k: min(n, self._least()) for k, n in self.full.groups.items()}
        floor = self.ratio(replace(self.full, groups=least))
        if not floor < self.target <= 1:
            if floor >= 1:
                raise BadInput(
                    f"min_channels {self.min_channels} and channel_multiple {self.multiple} leave "
                    "no channel to prune"
                )
            raise BadInput(
                f"target {self.target:.6g} is not in ({floor:.4f}, 1] of the "
                f"{self.measure.label}: {self._least()} channels a group is the least"
            )

    def _least(self) -> int:
        return -(-self.min_channels // self.multiple) * self.multiple

    def ratio(self, plan: ChannelPlan) -> float:
        """Return what `plan` has of the measure over what the unpruned plan has."""
        return self.measure.of(plan) / self.measure.of(self.full)

    def path(self, step: int) -> float:
        """Return the ratio to have reached at `step`: linear in the share of living channels.

        It ends a little above the target, so that the cut has something to choose from and to
        spare: an entry that died cannot be kept.
        """
        share = min(step / self.reach, 1.0) if self.reach else 1.0
        end = min(self.target + _SPARE, 1.0)
        return (1 + (math.sqrt(end) - 1) * share) ** 2

    def shrinkage(self, latents: LatentVectors, step: int) -> float:
        """Return the soft threshold that brings the masks onto the path of `step`, or 0."""
        sizes = _magnitudes(latents)
        goal = self.path(step)

        def ratio_after(shrinkage: float) -> float:
            return self.ratio(self._count(sizes, latents.threshold + shrinkage))

        if ratio_after(0) <= goal:
            return 0.0
        low, high = 0.0, max(float(size.max()) for size in sizes.values())
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if ratio_after(middle) > goal else (low, middle)
        # A hair more, so that the entry on the edge is below it in float32 too.
        return high * (1 + 1e-6) + 1e-7

    def cut(self, latents: LatentVectors) -> ChannelPlan:
        """Kill the least latent entries until the ratio is at most the target; return the plan.

        A global threshold is bisected first; then groups get back their largest killed entries,
        largest first, as far as the target allows. Only living entries can be kept, so that the
        kept part of the network stays as it was.
        """
        sizes = _magnitudes(latents)
        living = {k: int((v >= latents.threshold).sum()) for k, v in sizes.items()}
        low, high = 0.0, max(float(size.max()) for size in sizes.values()) + 1
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            plan = self._count(sizes, max(middle, latents.threshold))
            low, high = (middle, high) if self.ratio(plan) > self.target else (low, middle)
        plan = self._count(sizes, max(high, latents.threshold))
        plan = self._give_back(plan, sizes, living)
        for group, kept in plan.groups.items():
            order = np.argsort(-sizes[group], kind="stable")
            latents.kill(group, torch.from_numpy(order[kept:].copy()))
        return plan

    def _give_back(
        self, plan: ChannelPlan, sizes: Magnitudes, living: Mapping[str, int]
    ) -> ChannelPlan:
        """Return `plan` with the largest left-out entries back, while the target allows it."""
        ranked = {k: np.sort(v)[::-1] for k, v in sizes.items()}
        closed: set[str] = set()
        while open_groups := [
            k for k, n in plan.groups.items() if k not in closed and n + self.multiple <= living[k]
        ]:
            best = max(open_groups, key=lambda k: float(ranked[k][plan.groups[k]]))
            wider = {**plan.groups, best: plan.groups[best] + self.multiple}
            candidate = replace(plan, groups=wider)
            if self.ratio(candidate) <= self.target:
                plan = candidate
            else:
                closed.add(best)
        return plan

    def _count(self, sizes: Magnitudes, threshold: float) -> ChannelPlan:
        """Return the plan of the entries of at least `threshold`, down to whole multiples."""
        groups = {}
        for group, size in sizes.items():
            kept = int((size >= threshold).sum())
            least = min(self._least(), size.size)
            groups[group] = max(kept // self.multiple * self.multiple, least)
        return replace(self.full, groups=groups)


def _magnitudes(latents: LatentVectors) -> Magnitudes:
    return {
        group: latents.vectors[group].detach().abs().double().cpu().numpy()
        for group in latents.plan.groups
    }
