"""The layers a generator is made of, behind one small interface.

A generator names its layers by the channel groups they read and write; who makes the layers
decides what they are: plain convolutions of a given width here, hypernetwork layers in the
`coronet` room. Both kinds run the same `forward`, so there is one definition of each network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.vocabulary import ChannelPlan, Norm

INPUT, OUTPUT = "input", "output"


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm without affine, which in training leaves channels last where they are.

    Torch's own lays every picture out anew, channels first, and of a lone one the gradient is wrong
    on CPUs if what comes back has its channels last (2.13). The statistics of a picture alone are
    those of its batch, which BatchNorm takes as the numbers lie; converters know the other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each picture over its pixels, (N, C, H, W)."""
        last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if not (self.training and (last or len(x) == 1)):
            return super().forward(x)
        pictures = torch.split(x, 1)
        normed = [F.batch_norm(one, None, None, training=True, eps=self.eps) for one in pictures]
        return torch.cat(normed) if len(normed) > 1 else normed[0]


def mirrored(x: Tensor, border: int) -> Tensor:
    """Return `x` (N, C, H, W) with `border` pixels mirrored on all sides.

    Autocast on a CPU would compute that in float32, though no number changes.
    """
    sides = (border, border, border, border)
    if not torch.is_autocast_enabled(x.device.type):
        return F.pad(x, sides, "reflect")
    with torch.autocast(x.device.type, enabled=False):
        return F.pad(x, sides, "reflect")


class Layers(Protocol):
    """Makes the layers of a generator from the channel groups they read and write."""

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
        """Return a convolution from the concatenated `sources` to `target`."""

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
        """Return a transposed convolution of stride 2 from `sources` to `target`."""

    def norm(self, group: str) -> nn.Module:
        """Return the normalisation of the channels of `group`."""


class DenseLayers:
    """Plain layers whose widths come from a `ChannelPlan`."""

    def __init__(self, plan: ChannelPlan) -> None:
        self._plan = plan
        self._widths = {
            INPUT: plan.input_channels,
            OUTPUT: plan.output_channels,
            **plan.groups,
        }

    def _count(self, groups: Sequence[str]) -> int:
        return sum(self._widths[group] for group in groups)

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
        """Return an `nn.Conv2d`."""
        channels = self._count(sources), self._widths[target]
        return nn.Conv2d(*channels, kernel, stride, padding, bias=bias)

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
        """Return an `nn.ConvTranspose2d` of stride 2."""
        channels = self._count(sources), self._widths[target]
        return nn.ConvTranspose2d(*channels, kernel, 2, padding, output_padding, bias=bias)

    def norm(self, group: str) -> nn.Module:
        """Return an `InstanceNorm`, or an `nn.BatchNorm2d` with scale and shift."""
        channels = self._widths[group]
        if self._plan.norm is Norm.INSTANCE:
            return InstanceNorm(channels)
        return nn.BatchNorm2d(channels)
