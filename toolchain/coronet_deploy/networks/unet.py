"""The U-Net generator of pix2pix (Isola et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.networks.layers import INPUT, OUTPUT, Layers
from coronet_deploy.vocabulary import ChannelPlan, Norm

_WIDE_FROM = 4  # levels from here on have as many channels as there will be
_WIDEST = 8  # channels stop growing at 8 times the first layer's


class UNetGenerator(nn.Module):
    """Maps (N, 3, H, W) in [-1, 1] to the same; H and W are multiples of 2**downs.

    Level i halves the picture with `downs[i]` and doubles it with `ups[i]`; what `downs[i]` made
    is concatenated, skip first, to what came up from level i + 1. The first and the innermost
    convolution have no norm, and neither has the last transposed one.
    """

    def __init__(self, plan: ChannelPlan, layers: Layers, dropout: float = 0.5) -> None:
        super().__init__()
        n = plan.architecture.downs
        bias = plan.norm is Norm.INSTANCE
        down = [INPUT, *(f"down{i + 1}" for i in range(n))]
        up = [OUTPUT, *(f"up{i + 1}" for i in range(1, n))]
        self.downs = nn.ModuleList(
            layers.conv([down[i]], down[i + 1], 4, 2, 1, bias=bias) for i in range(n)
        )
        self.down_norms = nn.ModuleList(
            layers.norm(down[i + 1]) if 0 < i < n - 1 else nn.Identity() for i in range(n)
        )
        self.ups = nn.ModuleList(
            layers.deconv(
                [down[i + 1], up[i + 1]] if i < n - 1 else [down[n]],
                up[i],
                4,
                1,
                bias=bias or i == 0,
            )
            for i in range(n)
        )
        self.up_norms = nn.ModuleList(
            layers.norm(up[i]) if i > 0 else nn.Identity() for i in range(n)
        )
        # Isola et al. drop half of the activations in the widest levels but the innermost.
        self.dropouts = nn.ModuleList(
            nn.Dropout(dropout) if _WIDE_FROM <= i < n - 1 else nn.Identity() for i in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Translate pictures: (N, 3, H, W) in [-1, 1] to the same."""
        skips = []
        for i, (conv, norm) in enumerate(zip(self.downs, self.down_norms, strict=True)):
            x = norm(conv(F.leaky_relu(x, 0.2) if i else x))
            skips.append(x)
        for i in reversed(range(len(self.ups))):
            if i < len(self.ups) - 1:
                x = torch.cat([skips[i], x], 1)
            x = self.dropouts[i](self.up_norms[i](self.ups[i](F.relu(x))))
        return F.tanh(x)


def unet_groups(downs: int, width: int) -> dict[str, int]:
    """Return the channel groups of an unpruned U-Net whose first convolution has `width`."""
    widths = [width * min(2**i, _WIDEST) for i in range(downs)]
    down = {f"down{i + 1}": channels for i, channels in enumerate(widths)}
    up = {f"up{i + 1}": widths[i - 1] for i in reversed(range(1, downs))}
    return {**down, **up}
