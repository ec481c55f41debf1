"""What people write in a forward: other modes, writes in place, arithmetic, layers used twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import INPUT
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime
from lowering import is_one_partition, run_onnx, run_tflite, run_torch, smooth_picture

Forward = Callable[["_Net", Tensor], Any]


class _Net(nn.Module):
    """A network whose forward is written as `how` says, with layers for it."""

    def __init__(self, how: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.plane = nn.Parameter(torch.rand(1, 8, 12, 1))
        self.last = nn.Conv2d(8, 3, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.how(self, self.first(x)))
        return drawn


def _modes(net: _Net, h: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        h = net.second(h.float())
        with torch.enable_grad():
            h = F.relu(h, inplace=True)
    with torch.inference_mode(mode=False):
        return h * 2


def _written_through(net: _Net, h: Tensor) -> Any:
    y = F.leaky_relu(h, 0.2, inplace=True)  # as a U-Net's skips are, before they are joined
    return net.second(y) + h


def _written_in_another_mode(net: _Net, h: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        y = net.second(h.mul_(0.5))
    return y + h


def _all_in_place(net: _Net, h: Tensor) -> Any:
    return net.second(h).mul_(0.5).sub_(h).add_(1).sigmoid_().neg_().tanh_().relu_()


def _halves(net: _Net, h: Tensor) -> Any:
    one, other = h.chunk(2, 1)
    a, b, c = torch.split(net.second(h), [1, 3, 4], 1)
    (d, e) = net.second(h).split(4, 1)
    return torch.cat([one * d, torch.relu(other - e)], 1) + torch.cat([c, b, a], 1)


def _own_part(net: _Net, h: Tensor) -> Any:
    part = h[:, :4].relu_()  # nobody reads the rest of h any more
    return net.second(torch.cat([part, part], 1))


_TWO = torch.tensor([[[[1.0]], [[2.0]], [[3.0]], [[4.0]], [[5.0]], [[6.0]], [[7.0]], [[8.0]]]])

_WORKING: dict[str, Forward] = {
    "modes": _modes,
    "written through": _written_through,
    "written in another mode": _written_in_another_mode,
    "all in place": _all_in_place,
    "halves": _halves,
    "own part": _own_part,
    "copies": lambda net, h: net.second(h.clone().contiguous()).detach() + h,
    "arithmetic": lambda _, h: -(1 - h) / 2 + torch.rsub(h, 3, alpha=2) + torch.add(h, 2, alpha=3),
    "scaled sum": lambda net, h: torch.add(h, net.second(h), alpha=0.1),
    "learnt numbers": lambda net, h: net.scale * h + net.plane,
    "constants": lambda _, h: h * torch.tensor([0.5]) + _TWO,
    "idle dropout": lambda net, h: F.dropout(net.second(F.dropout(h, 0.0)), 0.5, training=False),
    "used thrice": lambda net, h: net.second(net.second(net.second(h))),
}


@pytest.mark.parametrize("how", _WORKING.values(), ids=_WORKING)
def test_the_graph_draws_what_a_forward_means(how: Forward) -> None:
    network, picture = _Net(how).eval(), smooth_picture(12, 16)
    expected = run_torch(network, picture)
    graph = capture(network, 12, 16)
    assert np.abs(interpret(graph, picture) - expected).max() < 1e-5
    for runtime, emit, run in (
        (Runtime.ONNX, emit_onnx, run_onnx),
        (Runtime.TFLITE, emit_tflite, run_tflite),
    ):
        lowered, _ = lower(graph, runtime)
        data = emit(lowered, DType.FP32, {})
        assert np.abs(run(data, picture) - expected).max() < 1e-5


def _written_beside(net: _Net, h: Tensor) -> Any:
    h[:, :4].relu_()
    return net.second(h)


def _written_under_a_slice(net: _Net, h: Tensor) -> Any:
    part = h[:, :4]
    h.relu_()
    return net.second(torch.cat([part, part], 1))


def _in_half(net: _Net, h: Tensor) -> Any:
    with torch.autocast("cpu"):
        return F.conv2d(h, net.second.weight).float()


_REFUSED: dict[str, tuple[Forward, str]] = {
    "written beside": (_written_beside, r"aten\.relu_.*read by another slice"),
    "written under a slice": (_written_under_a_slice, r"aten\.relu_.*read by another slice"),
    "half": (_in_half, "wrap_with_autocast.*bfloat16"),
    "double": (lambda _, h: h.double().float(), r"aten\.to.*float64"),
    "random": (lambda _, h: F.dropout(h, 0.5), r"aten\.dropout.*random in eval mode"),
    "division": (lambda net, h: h / (net.scale * 0), r"aten\.div.*divides by zero"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_forward_that_would_be_drawn_otherwise_is_refused_in_one_line(name: str) -> None:
    how, words = _REFUSED[name]
    with pytest.raises(ConversionFailed, match=words) as failure:
        capture(_Net(how), 12, 16)
    assert "\n" not in str(failure.value)


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        del x


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drawn = nn.Parameter(torch.zeros(1, 3, 12, 16))

    def forward(self, x: Tensor) -> Tensor:
        del x
        return self.drawn


@pytest.mark.parametrize(
    ("network", "words"), [(_Nothing(), "returns None"), (_Constant(), "returns a constant")]
)
def test_a_network_that_draws_nothing_is_said_to(network: nn.Module, words: str) -> None:
    with pytest.raises(ConversionFailed, match=words):
        capture(network, 12, 16)


def test_a_layer_used_thrice_has_its_weights_once() -> None:
    layer = nn.Conv2d(32, 32, 3, 1, 1)
    network = nn.Sequential(nn.Conv2d(3, 32, 1), layer, layer, nn.ReLU(), layer)
    graph = capture(network, 12, 16)
    assert graph.count()["conv2d"] == 4
    lowered, _ = lower(graph, Runtime.ONNX, prefer="size")
    file = emit_onnx(lowered, DType.FP32, {})
    assert len(file) < 1.2 * 4 * layer.weight.numel()


def test_many_values_joined_stay_in_one_partition() -> None:
    def joined(net: _Net, h: Tensor) -> Any:
        del net
        return torch.cat([h[:, i : i + 1] * (i + 1) for i in range(8)], 1)

    network, picture = _Net(joined).eval(), smooth_picture(12, 16)
    lowered, _ = lower(capture(network, 12, 16), Runtime.TFLITE)
    assert lowered.shapes[INPUT] == (1, 12, 16, 3)
    data = emit_tflite(lowered, DType.FP32, {})
    assert is_one_partition(data)
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-5


def test_one_value_joined_alone_is_that_value() -> None:
    """A dense block joins all values before each layer, and before the first there is one."""

    def dense(net: _Net, h: Tensor) -> Any:
        del net
        first = torch.cat([h[:, :4]], 1)
        second = torch.cat([first, torch.tanh(first)], 1)
        return torch.cat([second], 0)

    network, picture = _Net(dense).eval(), smooth_picture(12, 16)
    graph = capture(network, 12, 16)
    assert graph.count()["concat"] == 1
    lowered, _ = lower(graph, Runtime.TFLITE)
    data = emit_tflite(lowered, DType.FP32, {})
    assert is_one_partition(data)
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-5
