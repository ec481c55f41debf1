"""The 70x70 PatchGAN discriminator of pix2pix and CycleGAN (Isola et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from coronet_deploy.networks.layers import InstanceNorm
from coronet_deploy.vocabulary import Norm


class PatchGAN(nn.Module):
    """Judges overlapping patches: (N, C, H, W) to (N, 1, H/8 - 2, W/8 - 2) logits.

    Each logit sees 70x70 pixels with the usual three stride-2 layers.
    """

    def __init__(self, input_channels: int, norm: Norm, width: int = 64, strided: int = 3) -> None:
        super().__init__()
        bias = norm is Norm.INSTANCE
        channels = [width * min(2**i, 8) for i in range(strided + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(input_channels, channels[0], 4, 2, 1),
            nn.LeakyReLU(0.2),
        ]
        for i in range(1, strided + 1):
            stride = 2 if i < strided else 1
            layers += [
                nn.Conv2d(channels[i - 1], channels[i], 4, stride, 1, bias=bias),
                InstanceNorm(channels[i]) if norm is Norm.INSTANCE else nn.BatchNorm2d(channels[i]),
                nn.LeakyReLU(0.2),
            ]
        self.model = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, 1, 1))
        self.apply(normal_init)

    def forward(self, x: Tensor) -> Tensor:
        """Return the patches' logits."""
        logits: Tensor = self.model(x)
        return logits


def normal_init(module: nn.Module) -> None:
    """Isola et al. (2017), section 6.2: N(0, 0.02); norms' scales N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
