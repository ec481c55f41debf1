"""What a channel plan costs: parameters and multiply-adds (MACs), in both conventions.

A real multiply-add count takes a transposed convolution by its input pixels. The published one
(GAN Compression and those after it) takes it by its output pixels, which counts the inserted
zeros as work. Norms, activations and biases count nothing, in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import torch
from torch import Tensor, nn

from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.networks.layers import INPUT, OUTPUT, DenseLayers
from coronet_deploy.vocabulary import Architecture, ChannelPlan, Norm


class Measure(StrEnum):
    """What a wanted compression is a share of: multiply-adds of a picture, or parameters."""

    MACS = "macs"
    PARAMETERS = "parameters"

    @property
    def label(self) -> str:
        """What it is called where it is shown."""
        return "MACs" if self is Measure.MACS else "parameters"

    def of(self, plan: ChannelPlan) -> int:
        """Return how much of it the dense generator of `plan` has."""
        return macs(plan) if self is Measure.MACS else parameters(plan)


@dataclass(frozen=True)
class ConvCost:
    """One convolution: the groups it joins, its weights a channel pair, its biases, its pixels."""

    sources: tuple[str, ...]
    target: str
    kernel_area: int
    bias: bool
    pixels: int
    pixels_published: int


class _Recorder(DenseLayers):
    """Plain layers that remember which groups each convolution joins."""

    def __init__(self, plan: ChannelPlan) -> None:
        super().__init__(plan)
        self.joined: dict[nn.Module, tuple[tuple[str, ...], str]] = {}
        self.normed: list[str] = []

    def conv(
        self,
        sources: Sequence[str],
        target: str,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool,
    ) -> nn.Module:
        layer = super().conv(sources, target, kernel, stride, padding, bias=bias)
        self.joined[layer] = tuple(sources), target
        return layer

    def deconv(
        self,
        sources: Sequence[str],
        target: str,
        kernel: int,
        padding: int,
        output_padding: int = 0,
        *,
        bias: bool,
    ) -> nn.Module:
        layer = super().deconv(sources, target, kernel, padding, output_padding, bias=bias)
        self.joined[layer] = tuple(sources), target
        return layer

    def norm(self, group: str) -> nn.Module:
        self.normed.append(group)
        return super().norm(group)


@cache
def conv_costs(
    architecture: Architecture, norm: Norm, height: int = 256, width: int = 256
) -> tuple[ConvCost, ...]:
    """Return the convolutions of an architecture at a picture size, in order of the forward pass.

    Pixels do not depend on the channels, so this is measured once, on the narrowest network. That
    draws a picture, which takes less than the packages that torch imports for shapes alone.
    """
    plan = full_plan(architecture, norm, width=1)
    costs: list[ConvCost] = []
    with torch.device("cpu"), torch.random.fork_rng(devices=()), torch.inference_mode():
        recorder = _Recorder(plan)
        generator = build_generator(plan, recorder).eval()

        def record(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            sources, target = recorder.joined[layer]
            out_pixels = output.shape[2] * output.shape[3]
            in_pixels = inputs[0].shape[2] * inputs[0].shape[3]
            kernel = layer.get_parameter("weight").shape[2:].numel()
            real = in_pixels if isinstance(layer, nn.ConvTranspose2d) else out_pixels
            bias = getattr(layer, "bias", None) is not None
            costs.append(ConvCost(sources, target, kernel, bias, real, out_pixels))

        for layer in recorder.joined:
            layer.register_forward_hook(record)
        generator(torch.zeros(1, plan.input_channels, height, width))
    return tuple(costs)


def macs(plan: ChannelPlan, height: int = 256, width: int = 256, *, published: bool = False) -> int:
    """Return the multiply-adds of one picture, real ones unless `published` (module docstring)."""
    channels = {INPUT: plan.input_channels, OUTPUT: plan.output_channels, **plan.groups}
    return sum(
        (cost.pixels_published if published else cost.pixels)
        * cost.kernel_area
        * sum(channels[source] for source in cost.sources)
        * channels[cost.target]
        for cost in conv_costs(plan.architecture, plan.norm, height, width)
    )


def parameters(plan: ChannelPlan) -> int:
    """Return the learnable numbers of the dense generator of `plan`."""
    channels = {INPUT: plan.input_channels, OUTPUT: plan.output_channels, **plan.groups}
    convolutions = sum(
        (cost.kernel_area * sum(channels[source] for source in cost.sources) + cost.bias)
        * channels[cost.target]
        for cost in conv_costs(plan.architecture, plan.norm)
    )
    if plan.norm is Norm.INSTANCE:
        return convolutions
    return convolutions + 2 * sum(channels[g] for g in _normed(plan.architecture, plan.norm))


@cache
def _normed(architecture: Architecture, norm: Norm) -> tuple[str, ...]:
    """Return the groups of an architecture's normalisations."""
    plan = full_plan(architecture, norm, width=1)
    with torch.device("cpu"), torch.random.fork_rng(devices=()):
        recorder = _Recorder(plan)
        build_generator(plan, recorder)
    return tuple(recorder.normed)
