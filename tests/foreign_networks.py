"""Networks as pytorch-CycleGAN-and-pix2pix builds them: generators, and its 70x70 discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coronet_deploy.vocabulary import Norm


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm is Norm.BATCH else nn.InstanceNorm2d(channels)


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return] # a Tensor


class Block(nn.Module):
    def __init__(self, channels: int, norm: Norm, *, dropout: bool) -> None:
        super().__init__()
        bias = norm is Norm.INSTANCE
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)  # type: ignore[no-any-return] # a Tensor


def resnet(blocks: int, norm: Norm, width: int, *, dropout: bool) -> nn.Module:
    bias, w = norm is Norm.INSTANCE, width
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7, bias=bias), norm_layer(norm, w), nn.ReLU(),
    ]  # fmt: skip
    for a, b in ((w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=bias), norm_layer(norm, b), nn.ReLU()]
    layers += [Block(4 * w, norm, dropout=dropout) for _ in range(blocks)]
    for a, b in ((4 * w, 2 * w), (2 * w, w)):
        layers += [
            nn.ConvTranspose2d(a, b, 3, 2, 1, 1, bias=bias), norm_layer(norm, b), nn.ReLU(),
        ]  # fmt: skip
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
    return Wrapped(nn.Sequential(*layers))


class Skip(nn.Module):
    def __init__(
        self, outer: int, inner: int, norm: Norm, sub: nn.Module | None, *, outermost: bool = False
    ) -> None:
        super().__init__()
        self.outermost = outermost
        bias = norm is Norm.INSTANCE
        down = nn.Conv2d(3 if outermost else outer, inner, 4, 2, 1, bias=bias)
        joined = inner if sub is None else 2 * inner
        up = nn.ConvTranspose2d(joined, outer, 4, 2, 1, bias=bias or outermost)
        if outermost:
            layers = [down, sub, nn.ReLU(), up, nn.Tanh()]
        elif sub is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(norm, outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2), down, norm_layer(norm, inner), sub, nn.ReLU(), up,
                norm_layer(norm, outer),
            ]  # fmt: skip
        self.model = nn.Sequential(*layers)  # type: ignore[arg-type] # sub is given when outermost

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


def unet(downs: int, norm: Norm, width: int) -> nn.Module:
    block: nn.Module = Skip(8 * width, 8 * width, norm, None)
    for _ in range(downs - 5):
        block = Skip(8 * width, 8 * width, norm, block)
    for k in (4, 2, 1):
        block = Skip(k * width, 2 * k * width, norm, block)
    return Wrapped(Skip(3, width, norm, block, outermost=True))


def judge(channels: int, norm: Norm, width: int) -> nn.Module:
    bias = norm is Norm.INSTANCE
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, stride in ((1, 2), (2, 2), (3, 1)):
        before, after = width * 2 ** (i - 1), width * 2**i
        layers += [
            nn.Conv2d(before, after, 4, stride, 1, bias=bias),
            norm_layer(norm, after),
            nn.LeakyReLU(0.2),
        ]
    return Wrapped(nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1)))
