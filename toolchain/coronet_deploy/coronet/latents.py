"""Latent vectors: one per channel group, shrunk by a proximal step, thresholded into masks.

The channels of a group that live are the entries of its latent vector that are not small. After
DHP (Li et al., ECCV 2020), which CoroNet-GAN applies to generators; unlike there, the masks act
in every forward pass (see `hypernetwork`), so that what is searched is what will be shipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from coronet_deploy.networks.layers import INPUT, OUTPUT
from coronet_deploy.vocabulary import ChannelPlan

THRESHOLD = 5e-3
MIN_CHANNELS = 4
_HAIR = 1e-6  # what is this share above the threshold is so in float32 too
_Known = TypeVar("_Known")


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
        self._known: dict[object, Any] | None = None  # while they are held

    def concatenated(self, groups: Iterable[str]) -> Tensor:
        """Return the latents of `groups` one after another, (C,)."""
        return _joined([self.vectors[group] for group in groups])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Look once which channels of a group live: while no latent changes, for a pass or several.

        Layers ask for each group several times; looking anew took a twentieth of a step.
        """
        if self._known is not None:
            yield
            return
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def known(self, what: object, make: Callable[[], _Known]) -> _Known:
        """Return what `make` does, which follows from the latents: once while they are held."""
        if self._known is None:
            return make()
        if what not in self._known:
            self._known[what] = make()
        found: _Known = self._known[what]
        return found

    def keep(self, group: str) -> Tensor:
        """Return which channels of `group` live, (C,) bool, not to be written to.

        An entry lives if |v| >= threshold, or if it is one of the `min_channels` largest: of
        equal ones the first.
        """
        return self.known(group, lambda: self._living(group))

    def _living(self, group: str) -> Tensor:
        size = self.vectors[group].detach().abs()
        if group in {INPUT, OUTPUT}:
            return torch.ones_like(size, dtype=torch.bool)
        living: Tensor = size >= self.threshold
        living[self._largest(size)] = True
        return living

    def _largest(self, size: Tensor) -> Tensor:
        """Return the places of the `min_channels` largest entries of a group, (min_channels,)."""
        return size.sort(descending=True, stable=True).indices[: self.min_channels]

    def kept(self, groups: Iterable[str]) -> Tensor:
        """Return which channels of `groups` live, one group after another, (C,) bool."""
        return _joined([self.keep(group) for group in groups])

    def mask(self, groups: Iterable[str]) -> Tensor:
        """Return the masks of `groups` one after another, (C,) of 0 and 1."""
        vector = self.vectors[INPUT]
        return self.kept(groups).to(vector.dtype)

    def living_plan(self) -> ChannelPlan:
        """Return the plan of the channels that live, in one transfer from the device."""
        counts = torch.stack([self.keep(group).sum() for group in self.plan.groups])
        living = zip(self.plan.groups, counts.cpu().tolist(), strict=True)
        return replace(self.plan, groups=dict(living))

    @torch.no_grad()
    def proximal_step(self, shrinkage: float) -> None:
        """Soft-threshold: v <- sign(v) max(|v| - shrinkage, 0), the proximal operator of L1.

        A vector that is down to `min_channels` living entries is left alone; one that a strong
        step would take further keeps its largest just alive.
        """
        if not shrinkage:
            return
        for group in self.plan.groups:
            vector = self.vectors[group]
            size = vector.abs()
            least = torch.zeros_like(size)
            least[self._largest(size)] = self.threshold * (1 + _HAIR)
            shrunk = vector.sign() * (size - shrinkage).clamp(min=least)
            # To ask which it is would make the host wait for the device.
            spare = (size >= self.threshold).sum() > self.min_channels
            vector.copy_(torch.where(spare, shrunk, vector))

    @torch.no_grad()
    def kill(self, group: str, channels: Tensor) -> None:
        """Set the latent entries of `channels` (indices) of `group` to zero."""
        self.vectors[group][channels] = 0

    @torch.no_grad()
    def lift(self, group: str, channels: Tensor) -> None:
        """Raise the latent entries of `channels` (indices) of `group` that are dead, to living.

        An entry of zero becomes a positive one.
        """
        vector, least = self.vectors[group], self.threshold * (1 + _HAIR)
        held = vector[channels]
        vector[channels] = torch.where(held < 0, -1.0, 1.0) * held.abs().clamp(min=least)


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    """Return vectors one after another; a lone one itself."""
    return vectors[0] if len(vectors) == 1 else torch.cat(list(vectors))


def _drawn(length: int) -> Tensor:
    """Return z ~ N(0, 1), (`length`,), as in DHP."""
    vector = torch.empty(length)
    # Drawing nothing on the meta device takes torch seconds of imports.
    return vector if vector.is_meta else vector.normal_()
