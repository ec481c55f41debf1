"""Control of the proximal step, and the last exact cut: the wanted ratio is an input.

During the search the ratio, of MACs or of parameters, follows a path from 1 to just above the
target: the proximal step is as strong as it takes to be on the path, found by bisection on what
the masks would become; what would fall below the target is held. At the end the least latent
entries are cut until the ratio lies just under the target.
What counts, on the path too, are channels in the whole multiples that the cut will keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from coronet_deploy.coronet.latents import LatentVectors
from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.networks.cost import Measure
from coronet_deploy.vocabulary import ChannelPlan

WINDOW = 0.005
"""How far below the target the cut's ratio may lie, where the widths allow as much."""

_SPARE = 0.01  # how far above the target the search ends
_HAIR = 1e-6  # what is this share above the threshold is so in float32 too

Size = np.ndarray[tuple[int], np.dtype[np.float64]]
Magnitudes = Mapping[str, Size]


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

    @cached_property
    def _whole(self) -> int:
        return self.measure.of(self.full)

    def ratio(self, plan: ChannelPlan) -> float:
        """Return what `plan` has of the measure over what the unpruned plan has."""
        return self.measure.of(plan) / self._whole

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
        if self.ratio(self._count(sizes, latents.threshold)) <= goal:
            return 0.0
        # A hair more, so that the entry on the edge is below it in float32 too.
        return (self._edge(sizes, goal) - latents.threshold) * (1 + _HAIR) + 1e-7

    @torch.no_grad()
    def hold(self, latents: LatentVectors) -> None:
        """Raise the largest dead entries to the threshold where the ratio fell below the target.

        A dear group's multiple, and entries that waver about the threshold, can take it further
        down than the cut could make good.
        """
        sizes = _magnitudes(latents)
        plan = self._count(sizes, latents.threshold)
        there = {group: size.size for group, size in sizes.items()}
        held = dict[str, int]()
        while self.ratio(plan) < self.target and (best := self._largest(plan, sizes, there)):
            held[best] = plan.groups[best] + self.multiple
            plan = replace(plan, groups={**plan.groups, best: held[best]})
        for group, count in held.items():
            latents.lift(group, torch.from_numpy(_ranking(sizes[group])[:count].copy()))

    def cut(self, latents: LatentVectors) -> ChannelPlan:
        """Kill the least latent entries until the ratio is at most the target; return the plan.

        A global threshold comes first; then groups get back their largest killed entries, largest
        first, as far as the target allows; then, while that is not in the window, dear multiples
        for cheap ones. Only living entries can be kept, so that the kept part of the network stays
        as it was.

        Raises:
            GateFailed: what lives afterwards is not that plan.

        """
        sizes = _magnitudes(latents)
        living = {k: int((v >= latents.threshold).sum()) for k, v in sizes.items()}
        plan = self._count(sizes, latents.threshold)
        if self.ratio(plan) > self.target:
            above = self._edge(sizes, self.target) * (1 + _HAIR)
            plan = self._count(sizes, max(above, latents.threshold))
        plan = self._give_back(plan, sizes, living)
        while self.ratio(plan) < self.target - WINDOW:
            swapped = [
                self._swapped(plan, group, sizes, living)
                for group in plan.groups
                if plan.groups[group] + self.multiple <= living[group]
            ]
            nearest = max(swapped, key=self.ratio, default=plan)
            if self.ratio(nearest) <= self.ratio(plan):
                break
            plan = nearest
        for group, kept in plan.groups.items():
            latents.kill(group, torch.from_numpy(_ranking(sizes[group])[kept:].copy()))
        if latents.living_plan() != plan:
            raise GateFailed(f"the cut to {self.target:.6g} left {latents.living_plan().groups}")
        return plan

    def _edge(self, sizes: Magnitudes, goal: float) -> float:
        """Return the least magnitude which, dead with all that are less, leaves at most `goal`."""
        edges = np.unique(np.concatenate([*sizes.values()]))
        low, high = 0, edges.size - 1
        while low < high:
            middle = (low + high) // 2
            if self.ratio(self._count(sizes, float(edges[middle]) * (1 + _HAIR))) > goal:
                low = middle + 1
            else:
                high = middle
        return float(edges[high])

    def _give_back(
        self, plan: ChannelPlan, sizes: Magnitudes, living: Mapping[str, int]
    ) -> ChannelPlan:
        """Return `plan` with the largest left-out entries back, while the target allows it."""
        room = dict(living)
        while best := self._largest(plan, sizes, room):
            wider = {**plan.groups, best: plan.groups[best] + self.multiple}
            candidate = replace(plan, groups=wider)
            if self.ratio(candidate) <= self.target:
                plan = candidate
            else:
                room[best] = 0
        return plan

    def _largest(self, plan: ChannelPlan, sizes: Magnitudes, room: Mapping[str, int]) -> str | None:
        """Return the group with the largest entry that `plan` leaves out, if one has room."""
        open_groups = [k for k, n in plan.groups.items() if n + self.multiple <= room[k]]
        ranked = {k: sizes[k][_ranking(sizes[k])] for k in open_groups}
        return max(open_groups, key=lambda k: float(ranked[k][plan.groups[k]]), default=None)

    def _swapped(
        self, plan: ChannelPlan, group: str, sizes: Magnitudes, living: Mapping[str, int]
    ) -> ChannelPlan:
        """Return `plan` with a multiple more of `group`, for multiples of others of least size.

        None of them takes the ratio out of the window, if there are such. Where the others have
        too few to give, it is `plan` as it was: the target is not to be exceeded.
        """
        before = plan
        ranked = {k: np.sort(v)[::-1] for k, v in sizes.items()}
        plan = replace(plan, groups={**plan.groups, group: plan.groups[group] + self.multiple})
        while self.ratio(plan) > self.target:
            narrower = {
                k: replace(plan, groups={**plan.groups, k: n - self.multiple})
                for k, n in plan.groups.items()
                if k != group and n - self.multiple >= min(self._least(), sizes[k].size)
            }
            if not narrower:
                return before
            ratios = {k: self.ratio(one) for k, one in narrower.items()}
            small = [k for k, ratio in ratios.items() if ratio >= self.target - WINDOW]
            if small:
                least = min(small, key=lambda k: float(ranked[k][plan.groups[k] - self.multiple]))
            else:
                least = max(ratios, key=lambda k: ratios[k])
            plan = narrower[least]
        return self._give_back(plan, sizes, living)

    def _count(self, sizes: Magnitudes, threshold: float) -> ChannelPlan:
        """Return the plan of the entries of at least `threshold`, down to whole multiples."""
        groups = {}
        for group, size in sizes.items():
            kept = int(np.count_nonzero(size >= threshold))
            least = min(self._least(), size.size)
            groups[group] = max(kept // self.multiple * self.multiple, least)
        return replace(self.full, groups=groups)


def _ranking(size: Size) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the places of a group's entries, the largest first."""
    return np.argsort(-size, kind="stable")


def _magnitudes(latents: LatentVectors) -> Magnitudes:
    """Return each group's magnitudes, in one transfer from the device."""
    vectors = [latents.vectors[group].detach() for group in latents.plan.groups]
    # In this order: not every device has doubles.
    sizes = torch.cat(vectors).abs().cpu().double().numpy()
    ends = np.cumsum([vector.numel() for vector in vectors])[:-1]
    return dict(zip(latents.plan.groups, np.split(sizes, ends), strict=True))
