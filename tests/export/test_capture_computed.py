"""What a forward computes of learnt tensors alone, without the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime
from lowering import is_one_partition, run_tflite, run_torch, smooth_picture

Forward = Callable[["_Net", Tensor], Any]


class _Net(nn.Module):
    def __init__(self, how: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 1)
        self.scale = nn.Parameter(torch.rand(8))
        self.pair = nn.Parameter(torch.rand(2, 8, 1, 1))
        self.mean: Tensor
        self.register_buffer("mean", torch.rand(3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.how(self, self.first(x - self.mean.view(1, 3, 1, 1))))
        return drawn


def _copied_and_written(net: _Net, h: Tensor) -> Any:
    scale = net.scale.clone()
    first = h * scale[:, None, None]
    scale[:4].mul_(2)
    return first + h * scale[:, None, None]


def _in_another_mode(net: _Net, h: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        gain = net.scale.exp()
        h = h + 1
    return h * gain.reshape(1, -1, 1, 1)


def _modulated(net: _Net, h: Tensor) -> Any:
    gain, shift = net.pair.chunk(2)
    return F.conv2d(h * (1 + gain) + shift, torch.eye(8)[:, :, None, None] * net.scale.sum())


def _seen_by_itself(net: _Net, h: Tensor) -> Any:
    learnt = net.scale.view(1, 8, 1)
    return h * F.scaled_dot_product_attention(learnt, learnt, learnt).view(8, 1, 1)


_WORKING: dict[str, Forward] = {
    "viewed": lambda net, h: h * net.scale.view(1, -1, 1, 1) + torch.ones(8, 1, 1),
    "reciprocal": lambda net, h: h * (1 / (net.scale[:, None, None] + 1)),
    "scaled": lambda net, h: torch.add(h, net.scale[:, None, None], alpha=3),
    "copied and written": _copied_and_written,
    "in another mode": _in_another_mode,
    "modulated": _modulated,
    "a number": lambda net, h: h * net.scale.sum().item() + net.scale.max().item(),
    "not dropped": lambda net, h: h * F.dropout(net.scale, 0.5, training=False).view(8, 1, 1),
    "seen by itself": _seen_by_itself,
}


@pytest.mark.parametrize("how", _WORKING.values(), ids=_WORKING)
def test_torch_computes_it_once(how: Forward) -> None:
    network, picture = _Net(how).eval(), smooth_picture(12, 16)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph, expected = capture(network, 12, 16), run_torch(network, picture)
    assert np.abs(interpret(graph, picture) - expected).max() < 1e-5
    assert graph.constants.keys() >= {node.inputs[1] for node in graph.nodes if node.inputs[1:]} - {
        node.output for node in graph.nodes
    }
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm, spectral_norm],
    ids=["weight", "spectral", "older weight", "older spectral"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_normed_weights_are_those_that_torch_uses(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(norm(nn.Conv2d(3, 8, 3, 1, 1)), nn.ReLU()),
        *(norm(nn.ConvTranspose2d(8, 3, 4, 2, 1)), nn.Tanh()),
    ).eval()
    picture = smooth_picture(12, 16)
    graph = capture(network, 12, 16)
    assert graph.count() == {"conv2d": 1, "conv_transpose2d": 1, "relu": 1, "tanh": 1}
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 1e-4


def _counting(net: _Net, h: Tensor) -> Any:
    net.mean.add_(1)
    return h


_REFUSED: dict[str, tuple[Forward, str]] = {
    "noise": (lambda _, h: h + torch.randn(8, 1, 1), r"aten\.randn.*is random"),
    "noise by chance": (
        lambda n, h: h * F.dropout(n.scale, 0.5).sum(),
        r"aten\.dropout.*is random",
    ),
    "a number of the picture's": (lambda _, h: h * h.mean().item(), r"aten\.item.*as it is"),
    "counting": (_counting, r"aten\.add_.*changes a tensor of the network"),
    "batch": (lambda _, h: torch.cat([h, h], 0)[:1], r"aten\.cat.*makes a batch"),
    "picture as weights": (lambda _, h: h + F.conv2d(h, h[..., :1, :1]), "the picture goes into"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_no_constant_is_refused_in_one_line(name: str) -> None:
    how, words = _REFUSED[name]
    with pytest.raises(ConversionFailed, match=words) as failure:
        capture(_Net(how), 12, 16)
    assert "\n" not in str(failure.value)


def test_a_leaky_relu_without_a_leak_stays_in_the_one_partition() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.LeakyReLU(0.0), nn.Conv2d(8, 3, 1))
    picture = smooth_picture(12, 16)
    lowered, _ = lower(capture(network, 12, 16), Runtime.TFLITE)
    data = emit_tflite(lowered, DType.FP32, {})
    assert is_one_partition(data)
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-5
