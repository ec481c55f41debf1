"""Latent vectors: one per channel group, shrunk by a proximal step, thresholded into masks.

The channels of a group that live are the entries of its latent vector that are not small. After
DHP (Li et al., ECCV 2020), which CoroNet-GAN applies to generators; unlike there, the masks act
in every forward pass (see `hypernetwork`), so that what is searched is what will be shipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from coronet_deploy.networks.layers import INPUT, OUTPUT
from coronet_deploy.vocabulary import ChannelPlan

THRESHOLD = 5e-3
MIN_CHANNELS = 4


class LatentVectors(nn.Module):
    """The latent vectors of a generator's channel groups.

    `plan` gives the groups and how many channels of each are held now; `total` how many there
    were before any were sliced out. The latents of the picture's own channels ("input",
    "output") exist, and are never shrunk or masked.
    """

    def __init__(
        self,
        plan: ChannelPlan,
        total: Mapping[str, int] | None = None,
        *,
        threshold: float = THRESHOLD,
        min_channels: int = MIN_CHANNELS,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.total = dict(total or plan.groups)
        self.threshold = threshold
        self.min_channels = min_channels
        widths = {INPUT: plan.input_channels, OUTPUT: plan.output_channels, **plan.groups}
        self.vectors = nn.ParameterDict({k: nn.Parameter(_drawn(n)) for k, n in widths.items()})

    def concatenated(self, groups: Iterable[str]) -> Tensor:
        """Return the latents of `groups` one after another, (C,)."""
        return torch.cat([self.vectors[group] for group in groups])

    def keep(self, group: str) -> Tensor:
        """Return which channels of `group` live, (C,) bool.

        An entry lives if |v| >= min(threshold, the min_channels-th largest |v|).
        """
        size = self.vectors[group].detach().abs()
        if group in {INPUT, OUTPUT}:
            return torch.ones_like(size, dtype=torch.bool)
        least = min(self.min_channels, size.numel())
        floor = size.topk(least).values[-1]
        living: Tensor = size >= floor.clamp(max=self.threshold)
        return living

    def mask(self, groups: Iterable[str]) -> Tensor:
        """Return the masks of `groups` one after another, (C,) of 0 and 1."""
        vector = self.vectors[INPUT]
        return torch.cat([self.keep(group) for group in groups]).to(vector.dtype)

    def living_plan(self) -> ChannelPlan:
        """Return the plan of the channels that live."""
        living = {group: int(self.keep(group).sum()) for group in self.plan.groups}
        return replace(self.plan, groups=living)

    @torch.no_grad()
    def proximal_step(self, shrinkage: float) -> None:
        """Soft-threshold: v <- sign(v) max(|v| - shrinkage, 0), the proximal operator of L1.

        A vector that is down to `min_channels` living entries is left alone.
        """
        for group in self.plan.groups:
            vector = self.vectors[group]
            if int((vector.abs() >= self.threshold).sum()) > self.min_channels:
                vector.copy_(vector.sign() * (vector.abs() - shrinkage).clamp(min=0))

    @torch.no_grad()
    def kill(self, group: str, channels: Tensor) -> None:
        """Set the latent entries of `channels` (indices) of `group` to zero."""
        self.vectors[group][channels] = 0


def _drawn(length: int) -> Tensor:
    """Return z ~ N(0, 1), (`length`,), as in DHP."""
    vector = torch.empty(length)
    # Drawing nothing on the meta device takes torch seconds of imports.
    return vector if vector.is_meta else vector.normal_()
