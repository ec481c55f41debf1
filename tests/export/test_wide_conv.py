"""Wide convolutions by minimal filtering against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.wide_conv import conv3x3, is_wide

_ERROR = 1e-5  # of the result's size; float32's own convolution is at 3e-7


def _layer(inputs: int, outputs: int, *pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn(*pixels, inputs, generator=seeded)
    weight = torch.randn(outputs, 3, 3, inputs, generator=seeded) / (3 * inputs**0.5)
    return x, weight, torch.randn(outputs, generator=seeded)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    planes, kernels = x.double().permute(0, 3, 1, 2), weight.double().permute(0, 3, 1, 2)
    return F.conv2d(planes, kernels, bias.double()).permute(0, 2, 3, 1)


def _apart(one: Tensor, reference: Tensor) -> float:
    return float((one - reference).norm() / reference.norm())


@pytest.mark.parametrize(
    "pixels", [(1, 34, 34), (1, 35, 41), (2, 37, 33), (1, 3, 520), (1, 132, 515)]
)
def test_it_is_torchs_convolution_at_any_size(pixels: tuple[int, int, int]) -> None:
    x, weight, bias = _layer(144, 130, *pixels)

    y = conv3x3(x, weight, bias)

    assert y.shape == (pixels[0], pixels[1] - 2, pixels[2] - 2, 130)
    assert _apart(y, _by_torch(x, weight, bias)) < _ERROR
    assert torch.equal(conv3x3(x, weight) + bias, y)


def test_its_gradient_is_torchs() -> None:
    x, weight, bias = _layer(128, 160, 1, 35, 38)
    signs = torch.randn(1, 33, 36, 160, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()

    (ours,) = torch.autograd.grad(conv3x3(x, weight, bias), x, signs)
    (theirs,) = torch.autograd.grad(_by_torch(x, weight, bias), x, signs.double())

    assert _apart(ours, theirs) < _ERROR


def test_only_what_is_wide_enough_is_filtered() -> None:
    x, weight, _ = _layer(128, 128, 1, 34, 34)

    assert is_wide(x, weight)
    assert not is_wide(x.double(), weight.double())
    assert not is_wide(x[:, :33], weight)
    assert not is_wide(x[..., :120], weight[..., :120])
    assert not is_wide(x, weight[:, :1])


def test_a_wide_network_is_drawn_as_torch_draws_it() -> None:
    torch.manual_seed(0)
    # A padded layer, one that is not, one that skips pixels.
    layers = [
        nn.Conv2d(3, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 140, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(140, 128, 3),
        nn.Conv2d(128, 128, 3, dilation=2),
        nn.Conv2d(128, 3, 3, stride=2),
    ]
    network = nn.Sequential(*layers).eval()
    graph = capture(network, 42, 45)
    x = torch.randn(1, 42, 45, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        reference = network.double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    drawn = torch.from_numpy(interpret(graph, x.numpy()))

    assert _apart(drawn, reference) < _ERROR
