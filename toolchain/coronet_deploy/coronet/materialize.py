"""The dense generator that a CoroNet generator is: its living channels as plain layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.generator import CoroNetGenerator, kept_channels
from coronet_deploy.coronet.hypernetwork import GroupBatchNorm, HyperConv
from coronet_deploy.networks.generator import build_generator


@torch.no_grad()
def materialize(generator: CoroNetGenerator) -> nn.Module:
    """Return the dense generator of the living channels, in eval, same dtype and device.

    In eval both compute the same function: the dead channels are masked in the one and absent
    from the other, so they differ by float rounding only.
    """
    latents = generator.latents
    dense = build_generator(latents.living_plan()).eval()
    reference = latents.vectors["input"]
    dense.to(reference.device, reference.dtype)
    targets = dict(dense.named_modules())
    for name, layer in generator.network.named_modules():
        target = targets[name]
        if isinstance(layer, HyperConv):
            _copy(layer, target)
        elif isinstance(layer, GroupBatchNorm):
            keep = kept_channels(latents, [layer.group])
            for key in layer.channel_axes():
                getattr(target, key).copy_(getattr(layer, key)[keep])
    return dense


def _copy(layer: HyperConv, target: nn.Module) -> None:
    """Copy the living part of a hypernetwork layer's weight and bias into a plain one."""
    sources = kept_channels(layer.latents, layer.sources)
    outputs = kept_channels(layer.latents, [layer.target])
    rows, columns = (sources, outputs) if layer.geometry.transposed else (outputs, sources)
    weight: Tensor = layer.masked_weight()[rows][:, columns]
    target.get_parameter("weight").copy_(weight)
    bias = layer.masked_bias()
    if bias is not None:
        target.get_parameter("bias").copy_(bias[outputs])
