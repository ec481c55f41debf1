"""The ResNet generator of CycleGAN (Zhu et al. 2017; Johnson et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.networks.layers import INPUT, OUTPUT, Layers, mirrored
from coronet_deploy.vocabulary import ChannelPlan, Norm


class ResNetBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions around a residual stream.

    Between them training drops a share of the activations, as Isola et al. do.
    """

    def __init__(
        self, layers: Layers, stream: str, inner: str, *, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1 = layers.conv([stream], inner, 3, bias=bias)
        self.norm1 = layers.norm(inner)
        self.conv2 = layers.conv([inner], stream, 3, bias=bias)
        self.norm2 = layers.norm(stream)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the block's residual, (N, C, H, W)."""
        y: Tensor = F.relu(self.norm1(self.conv1(mirrored(x, 1))))
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        y = self.norm2(self.conv2(mirrored(y, 1)))
        return x + y


class ResNetGenerator(nn.Module):
    """Maps (N, 3, H, W) in [-1, 1] to the same shape and range; H and W are multiples of 4."""

    def __init__(self, plan: ChannelPlan, layers: Layers, dropout: float = 0.5) -> None:
        super().__init__()
        bias = plan.norm is Norm.INSTANCE
        self.stem = layers.conv([INPUT], "stem", 7, bias=bias)
        self.stem_norm = layers.norm("stem")
        self.down = layers.conv(["stem"], "down", 3, 2, 1, bias=bias)
        self.down_norm = layers.norm("down")
        self.enter = layers.conv(["down"], "stream", 3, 2, 1, bias=bias)
        self.enter_norm = layers.norm("stream")
        self.blocks = nn.ModuleList(
            ResNetBlock(layers, "stream", f"block{i + 1}", bias=bias, dropout=dropout)
            for i in range(plan.architecture.blocks)
        )
        self.up1 = layers.deconv(["stream"], "up1", 3, 1, 1, bias=bias)
        self.up1_norm = layers.norm("up1")
        self.up2 = layers.deconv(["up1"], "up2", 3, 1, 1, bias=bias)
        self.up2_norm = layers.norm("up2")
        self.tail = layers.conv(["up2"], OUTPUT, 7, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Translate pictures: (N, 3, H, W) in [-1, 1] to the same."""
        x = F.relu(self.stem_norm(self.stem(mirrored(x, 3))))
        x = F.relu(self.down_norm(self.down(x)))
        x = F.relu(self.enter_norm(self.enter(x)))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.up1_norm(self.up1(x)))
        x = F.relu(self.up2_norm(self.up2(x)))
        return F.tanh(self.tail(mirrored(x, 3)))


def resnet_groups(blocks: int, width: int) -> dict[str, int]:
    """Return the channel groups of an unpruned ResNet generator whose stem has `width`."""
    inner = {f"block{i + 1}": 4 * width for i in range(blocks)}
    return {
        "stem": width,
        "down": 2 * width,
        "stream": 4 * width,
        **inner,
        "up1": 2 * width,
        "up2": width,
    }
