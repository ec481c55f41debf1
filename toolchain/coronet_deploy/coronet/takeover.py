"""A search that begins with a trained generator: hypernetworks that make its weights, exactly.

A hypernetwork layer with Z = z_in z_out^T makes the weight W by

    collapsed   A = W / Z, C = 0
    published   W1 of -1 and 1, W2 = W E^T / |E|^2 with E = W1 Z, and B0 = B1 = B2 = 0

whatever the latents are, so that the proximal step, which takes a channel's latent to zero, fades
the channel out. Which channels go first is for the latents to say: those of a group get the
magnitudes that N(0, 1) would have drawn, in the order of how much the picture changes where a
channel fades, which is measured on pictures of the task: for the output y and noise r of variance
1, the mean of (d<y, r> / d log z)^2 is the square of how far y moves, |dy / d log z|^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.data import Told, untold
from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import Form, GroupBatchNorm, HyperConv
from coronet_deploy.networks.layers import INPUT

_NOISES = 2  # a picture
_LEAST = 0.1  # magnitude by a channel's place alone
_ROOM = 2.0  # between the least latent and the threshold: at the start every channel lives


def take_over(
    generator: CoroNetGenerator, dense: nn.Module, pictures: Sequence[Tensor], told: Told = untold
) -> None:
    """Have `generator` compute what `dense`, a plain generator of its plan, computes in eval.

    The latents are found on `pictures`, each (1, 3, H, W) in [-1, 1].
    """
    latents = generator.latents
    dense.to(latents.vectors[INPUT].device, latents.vectors[INPUT].dtype)
    with torch.no_grad():
        for vector in latents.vectors.values():
            vector.fill_(1.0)
        _make_all(generator, dense)
    use = _use(generator, pictures, told)
    with torch.no_grad():
        for group in latents.plan.groups:
            latents.vectors[group].copy_(_magnitudes(use[group], latents.threshold))
        _make_all(generator, dense)


def _use(generator: CoroNetGenerator, pictures: Sequence[Tensor], told: Told) -> dict[str, Tensor]:
    """Return, by group, how far the picture moves as each channel fades, (C,), in no unit.

    BatchNorm takes the statistics of the pictures, as in training: of a channel that fades
    it makes what it made before, so that only what the next layers see of it counts.
    """
    vectors = generator.latents.vectors
    learning = [p for p in generator.parameters() if p.requires_grad]
    generator.requires_grad_(requires_grad=False)
    generator.latents.requires_grad_()
    generator.eval()
    for module in generator.modules():
        if isinstance(module, GroupBatchNorm):
            module.train()
    squares = {group: torch.zeros_like(vector) for group, vector in vectors.items()}
    drawn = torch.Generator().manual_seed(0)
    for i, x in enumerate(pictures):
        for _ in range(_NOISES):
            y = generator(x)
            noise = torch.randn(y.shape, generator=drawn).to(y)
            moved = torch.autograd.grad((y * noise).sum(), list(vectors.values()))
            for group, one in zip(vectors, moved, strict=True):
                squares[group] += one.square()
        told("pictures to see which channels matter", i + 1, len(pictures))
    generator.eval()
    generator.requires_grad_(requires_grad=False)
    for parameter in learning:
        parameter.requires_grad_()
    return {group: square.sqrt() for group, square in squares.items()}


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


def _make_all(generator: CoroNetGenerator, dense: nn.Module) -> None:
    """Have each layer make what the plain one of its name has, of the latents of this moment."""
    for name, plain in dense.named_modules():
        layer = generator.network.get_submodule(name)
        if isinstance(layer, GroupBatchNorm):
            layer.load_state_dict(plain.state_dict())
        elif isinstance(layer, HyperConv):
            weight = plain.get_parameter("weight").flatten(2)
            _make(layer, layer.geometry.turned(weight))
            if layer.bias is not None:
                layer.bias.copy_(plain.get_parameter("bias"))


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
