"""Convolutions whose weights a style scales that the picture gives, as StyleGAN2's and GFPGAN's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, artifacts, furthest

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size, and to the picture's own style."""

    def __init__(self, what: Callable[[_Own, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.style, self.scales = nn.Linear(8, 6), nn.Linear(6, 8)
        self.weight, self.each = (nn.Parameter(torch.randn(1, n, 8, 3, 3)) for n in (12, 8))
        self.grouped = nn.Parameter(torch.randn(1, 12, 4, 3, 3))
        self.bias = nn.Parameter(torch.randn(12))
        self.what = what
        with torch.no_grad():
            self.scales.bias.add_(1)
            self.eval()(torch.zeros(1, 3, 24, 28))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        style = F.normalize(self.style(y.mean((2, 3))), dim=1)
        drawn: Tensor = self.last(self.what(self, y, self.scales(style)))
        return drawn.tanh()


def _demodulated(weight: Tensor) -> Tensor:
    """Return weights (1, O, I, H, W) of which the squares that make each channel are 1 in all."""
    squares = weight.pow(2).sum([2, 3, 4]) + 1e-8
    return weight * torch.rsqrt(squares).view(1, weight.shape[1], 1, 1, 1)


def _drawn(n: _Own, x: Tensor, style: Tensor, stride: int = 1) -> Tensor:
    b, c, h, w = x.shape
    weight = _demodulated(n.weight * style.view(b, 1, c, 1, 1)).view(b * 12, c, 3, 3)
    y = F.conv2d(x.view(1, b * c, h, w), weight, stride=stride, padding=1, groups=b)
    return y.view(b, 12, *y.shape[2:])


def _enlarged(n: _Own, x: Tensor, style: Tensor) -> Tensor:
    b, c = x.shape[:2]
    weight = _demodulated(0.1 * n.weight * style.view(b, 1, c, 1, 1)).view(b * 12, c, 3, 3)
    weight = weight.view(b, 12, c, 3, 3).transpose(1, 2).reshape(b * c, 12, 3, 3)
    return F.conv_transpose2d(x, weight.to(x.dtype).contiguous(), n.bias, stride=2, groups=b)


def _beside(n: _Own, x: Tensor, style: Tensor) -> Tensor:
    """Scale the picture, and what comes of it by what the weights would be."""
    w = n.weight[0].unsqueeze(0) * style.reshape(1, 1, -1, 1, 1)
    scales = (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
    y = F.conv2d(x * style.reshape(1, -1, 1, 1), n.weight[0], padding=1)
    return y * scales.reshape(1, -1, 1, 1)


def _in_groups(n: _Own, x: Tensor, style: Tensor) -> Tensor:
    """Two groups of four channels, whose styles lie as the weights of a group do."""
    weight = n.grouped.view(1, 2, 6, 4, 3, 3) * style.view(1, 2, 1, 4, 1, 1)
    return F.conv2d(x, _demodulated(weight.view(1, 12, 4, 3, 3))[0], n.bias, 1, 1, 1, 2)


def _each_channel(n: _Own, x: Tensor, style: Tensor) -> Tensor:
    weight = n.each[:, :, :1] * style.view(1, 8, 1, 1, 1)
    weight = weight / (torch.linalg.vector_norm(weight, dim=(2, 3, 4), keepdim=True) + 1e-4)
    return F.conv2d(x, weight[0], padding=1, groups=8)


def _divided(n: _Own, x: Tensor, style: Tensor) -> Tensor:
    weight = (
        n.weight * (style / style.abs().amax()).view(1, 1, 8, 1, 1) / 3 * n.bias.view(12, 1, 1, 1)
    )
    weight = weight / weight.square().mean((2, 3, 4), keepdim=True).sqrt()
    return F.conv2d(x, weight.flatten(0, 1).contiguous(), style.repeat(1, 2)[0, :12], padding=1)


def _twelve(x: Tensor) -> Tensor:
    return torch.cat([x, x[:, :4]], 1)


_WHAT: dict[str, Callable[[_Own, Tensor, Tensor], Tensor]] = {
    "drawn": _drawn,
    "made smaller": lambda n, x, style: _drawn(n, x, style, stride=2),
    "enlarged": _enlarged,
    "beside": _beside,
    "in groups": _in_groups,
    "each channel": _each_channel,
    "divided": _divided,
    "not demodulated": lambda n, x, style: F.conv2d(x, n.weight[0] * style[:, :, None, None]),
    "twice": lambda n, x, style: F.conv2d(
        x, (n.each * style.view(1, 1, 8, 1, 1) * style.sigmoid().view(1, 8, 1, 1, 1))[0]
    ),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    for height, width in ((24, 28), (16, 16), (30, 26)):  # as many lines as channels too
        assert furthest(network, height, width) < 3e-6


@pytest.mark.parametrize("name", ["drawn", "enlarged", "each channel"])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_weights_that_a_style_scales_are_one_part_in_every_float_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), odd_pictures)
    if dtype in INTEGER:
        with pytest.raises(ConversionFailed, match="computes in no integers"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole


def test_no_weight_is_made_while_a_picture_is_drawn() -> None:
    graph = capture(_Own(_drawn).eval(), 32, 48)
    assert max(graph.shapes[node.output][0] for node in graph.nodes) == 1
    pixels = {graph.shapes[n.output][1:3] for n in graph.nodes if n.op.kind == "conv2d"}
    assert pixels == {(1, 1), (16, 24)}  # of vectors and of pictures


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (
            lambda n, x, style: F.conv2d(x, (n.weight * style.view(1, 1, 8, 1, 1))[0] + 1),
            "takes weights that the picture scales, which convolutions alone do",
        ),
        (
            lambda n, x, style: F.conv2d(x, (n.weight * style[:, :3].view(1, 1, 1, 1, 3))[0]),
            "takes weights that the picture scales tap by tap",
        ),
        (
            lambda n, x, style: _twelve(
                F.conv2d(x, (n.each * (style[:, :, None] * style).view(1, 8, 8, 1, 1))[0])
            ),
            "takes weights that the picture scales for each two channels",
        ),
        (
            lambda n, x, style: F.conv2d(x, (n.weight * style.view(1, 1, 8, 1, 1))[0].relu_()),
            "changes weights that the picture scales in place",
        ),
        (
            lambda n, x, style: F.conv2d(
                x, (n.weight * style.view(1, 1, 8, 1, 1))[0].double().float()
            ),
            "takes weights that the picture scales, which convolutions alone do",
        ),
        (
            lambda n, x, style: F.conv2d(
                x[:, :1], (style @ n.weight.view(8, 108)).view(12, 1, 3, 3)
            ),
            "the picture goes into; scale its channels before and after instead, or add up",
        ),
    ],
    ids=["shifted", "by taps", "by pairs", "in place", "double", "mixed"],
)
def test_other_weights_of_the_picture_are_refused_in_one_line(
    what: Callable[[_Own, Tensor, Tensor], Tensor], reason: str
) -> None:
    network = _Own(_drawn)
    network.what = what
    with pytest.raises(ConversionFailed) as caught:
        capture(network, 16, 24)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
