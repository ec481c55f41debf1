"""A search that begins with a trained generator: hypernetworks that make its weights, exactly.

A hypernetwork layer with Z = z_in z_out^T makes the weight W by

    collapsed   A = W / Z, C = 0
    published   W1 of -1 and 1, W2 = W E^T / |E|^2 with E = W1 Z, and B0 = B1 = B2 = 0

whatever the latents are, so that the proximal step, which takes a channel's latent to zero, fades
the channel out. Which channels go first is for the latents to say: those of a group get the
magnitudes that N(0, 1) would have drawn, in the order of how much the next layers use a channel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import (
    Form,
    GroupBatchNorm,
    GroupInstanceNorm,
    HyperConv,
)
from coronet_deploy.networks.layers import INPUT

_LEAST = 0.1  # magnitude by a channel's place alone
_ROOM = 2.0  # between the least latent and the threshold: at the start every channel lives


@torch.no_grad()
def take_over(generator: CoroNetGenerator, dense: nn.Module) -> None:
    """Have `generator` compute what `dense`, a plain generator of its plan, computes in eval."""
    latents = generator.latents
    dense.to(latents.vectors[INPUT].device, latents.vectors[INPUT].dtype)
    layers, kernels = dict[str, HyperConv](), dict[str, Tensor]()
    for name, plain in dense.named_modules():
        layer = generator.network.get_submodule(name)
        if isinstance(layer, GroupBatchNorm):
            layer.load_state_dict(plain.state_dict())
        elif isinstance(layer, HyperConv):
            layers[name] = layer
            kernels[name] = layer.geometry.turned(plain.get_parameter("weight").flatten(2))
            if layer.bias is not None:
                layer.bias.copy_(plain.get_parameter("bias"))
    use = _use(generator, layers, kernels)
    for group, vector in latents.vectors.items():
        whole = group not in latents.plan.groups  # the picture's own channels
        vector.copy_(
            torch.ones_like(vector) if whole else _magnitudes(use[group], latents.threshold)
        )
    for name, layer in layers.items():
        _make(layer, kernels[name])


def _use(
    generator: CoroNetGenerator, layers: Mapping[str, HyperConv], kernels: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return how much of each channel the next layers use, by group, (C,), in no unit.

    That is the norm of what a layer's weight has for a channel, over the mean of its channels,
    summed over the layers that read the group, times how large the channel comes: BatchNorm's
    scale, 1 behind an InstanceNorm, and where there is no norm that of the weights that make it.
    """
    vectors = generator.latents.vectors
    read = {group: torch.zeros_like(vector) for group, vector in vectors.items()}
    made = {group: torch.zeros_like(vector) for group, vector in vectors.items()}
    for name, layer in layers.items():
        lengths = [vectors[source].numel() for source in layer.sources]
        parts = torch.split(kernels[name], lengths)
        for source, part in zip(layer.sources, parts, strict=True):
            norm = part.square().sum((1, 2)).sqrt()
            read[source] += norm / norm.mean().clamp(min=1e-30)
        made[layer.target] += kernels[name].square().sum((0, 2))
    scales = dict[str, Tensor]()
    for module in generator.network.modules():
        if isinstance(module, GroupBatchNorm):
            scale = module.weight.square()
            scales[module.group] = scale + scales.get(module.group, torch.zeros_like(scale))
        elif isinstance(module, GroupInstanceNorm):
            scales[module.group] = torch.ones_like(vectors[module.group])
    return {group: read[group] * scales.get(group, made[group]).sqrt() for group in vectors}


def _magnitudes(use: Tensor, threshold: float) -> Tensor:
    """Return the magnitudes of N(0, 1) in the order of `use`, (C,), all that live.

    What is hardly used at all is less than what the order alone would make it.
    """
    count = use.numel()
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    magnitudes = torch.empty_like(use)
    magnitudes[use.sort(stable=True).indices] = torch.special.ndtri(0.5 + shares / 2).to(use)
    magnitudes = magnitudes.clamp(min=_LEAST)
    magnitudes *= (use / use.mean().clamp(min=1e-30)).clamp(max=1.0)
    return magnitudes.clamp(min=_ROOM * threshold)


def _make(layer: HyperConv, kernel: Tensor) -> None:
    """Have `layer` make `kernel`, (n, c, k*k), of the latents of this moment."""
    numbers = dict(layer.named_parameters(recurse=False))
    numbers["b0"].zero_()
    z = layer.pairs()[:, :, None]
    if layer.form is Form.COLLAPSED:
        numbers["a"].copy_(kernel / z)
        numbers["c"].zero_()
        return
    w1 = numbers["w1"]
    w1.copy_(torch.where(w1 < 0, -1.0, 1.0))
    embedded = w1 * z
    embedded /= embedded.square().sum(2, keepdim=True)
    numbers["w2"].copy_(kernel[:, :, :, None] * embedded[:, :, None])
    for name in ("b1", "b2"):
        numbers[name].zero_()
