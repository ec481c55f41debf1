"""The CoroNet generator: a generator of hypernetwork layers and the latents they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coronet_deploy.coronet.hypernetwork import (
    EMBEDDING,
    CoroNetLayers,
    Form,
    GroupBatchNorm,
    GroupInstanceNorm,
    HyperConv,
)
from coronet_deploy.coronet.latents import MIN_CHANNELS, THRESHOLD, LatentVectors
from coronet_deploy.networks.generator import build_generator
from coronet_deploy.networks.layers import INPUT, OUTPUT
from coronet_deploy.vocabulary import ChannelPlan


class CoroNetGenerator(nn.Module):
    """A generator whose weights come from latent vectors; maps (N, 3, H, W) in [-1, 1] to the same.

    `plan` holds the channels that exist now, `total` those before any were sliced out.
    """

    def __init__(
        self,
        plan: ChannelPlan,
        total: Mapping[str, int] | None = None,
        *,
        form: Form = Form.PUBLISHED,
        embedding: int = EMBEDDING,
        threshold: float = THRESHOLD,
        min_channels: int = MIN_CHANNELS,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.form, self.embedding = form, embedding
        self.latents = LatentVectors(plan, total, threshold=threshold, min_channels=min_channels)
        layers = CoroNetLayers(self.latents, form, embedding)
        self.network = build_generator(plan, layers, dropout)

    @property
    def plan(self) -> ChannelPlan:
        """The channels that exist now, dead ones included."""
        return self.latents.plan

    def forward(self, x: Tensor) -> Tensor:
        """Translate pictures, dead channels masked."""
        with self.latents.held():
            y: Tensor = self.network(x)
        return y


def kept_channels(latents: LatentVectors, groups: Iterable[str]) -> Tensor:
    """Return the indices of the living channels of `groups`, concatenated in order."""
    groups = list(groups)
    keep = {group: latents.keep(group).nonzero().flatten() for group in groups}
    return _concatenated(latents, keep, groups)


def _concatenated(
    latents: LatentVectors, keep: Mapping[str, Tensor], groups: Iterable[str]
) -> Tensor:
    """Return the indices that each of `groups` keeps, as those of all of them one after another."""
    offset, indices = 0, []
    for group in groups:
        indices.append(keep[group] + offset)
        offset += latents.vectors[group].numel()
    return torch.cat(indices)


@torch.no_grad()
def slice_dead(generator: CoroNetGenerator, optimizer: Optimizer | None = None) -> ChannelPlan:
    """Cut the dead channels out of latents, hypernetworks and norms, in place; return the plan.

    The function that the generator computes in eval stays the same up to float rounding, and
    parameters stay the same objects; their moments in `optimizer` are cut with them, so that
    what lives trains on as if nothing had happened.
    """
    latents = generator.latents
    plan = latents.living_plan()
    if plan == latents.plan:
        return plan
    keep = {group: kept_channels(latents, [group]) for group in (INPUT, OUTPUT, *plan.groups)}
    for module in generator.modules():
        if not isinstance(module, HyperConv | GroupBatchNorm | GroupInstanceNorm):
            continue
        for name, axes in module.channel_axes().items():
            tensor = getattr(module, name)
            for axis, groups in axes.items():
                _cut(tensor, axis, _concatenated(latents, keep, groups), optimizer)
        if not isinstance(module, HyperConv):
            module.num_features = plan.groups[module.group]
    for group, indices in keep.items():
        _cut(latents.vectors[group], 0, indices, optimizer)
    latents.plan = replace(plan)
    return plan


def _cut(tensor: Tensor, axis: int, indices: Tensor, optimizer: Optimizer | None) -> None:
    """Keep `indices` of `tensor` along `axis`, in place, and of its moments in `optimizer`."""
    length = tensor.shape[axis]
    if indices.numel() == length:
        return
    shape = tensor.shape
    tensor.grad = None
    tensor.data = _selected(tensor.data, axis, indices)
    for key, value in (optimizer.state.get(tensor, {}) if optimizer else {}).items():
        if isinstance(value, Tensor) and value.shape == shape:
            optimizer.state[tensor][key] = _selected(value, axis, indices)  # type: ignore[union-attr] # only reached with an optimizer


def _selected(tensor: Tensor, axis: int, indices: Tensor) -> Tensor:
    """Return `indices` of `tensor` along `axis`, its axes in the same order in memory."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    picked = tensor.permute(order).index_select(order.index(axis), indices)
    return picked.permute([order.index(i) for i in range(tensor.dim())])
