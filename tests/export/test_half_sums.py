"""Sums in float16: what they lose is simulated, and long ones are computed in halves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint, bundled_pictures
from coronet_deploy.export import operators as ops
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.half import draw_in_half
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.long_sums import SplitLongSums
from coronet_deploy.images import Array
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Runtime
from lowering import Does, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")
STUCK = 2048  # to which float16 cannot add one


def _ones(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    return module


ADDING: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "conv2d": (lambda: nn.Conv2d(750, 8, 2, bias=False), 750, 2),
    "of more outputs than pixels": (lambda: nn.Conv2d(750, 16, 2, bias=False), 750, 2),
    "grouped_conv2d": (lambda: nn.Conv2d(1500, 8, 2, groups=2, bias=False), 1500, 2),
    "depthwise_conv2d": (lambda: nn.Conv2d(4, 8, 55, groups=4, bias=False), 4, 55),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3000, 8, 2, 2, bias=False), 3000, 2),
    "matmul": (lambda: Does(lambda x: (x.flatten(2) @ x.flatten(2).mT)[..., None]), 3, 55),
}


@pytest.mark.parametrize("kind", ADDING)
def test_ones_add_up_to_what_float16_can_count_to(kind: str) -> None:
    make, channels, side = ADDING[kind]
    graph = capture(_ones(make()).eval(), side, side, channels)
    ones = np.ones((1, side, side, channels), np.float32)
    exact = interpret(graph, ones)
    assert exact.min() >= 3000
    assert (np.abs(draw_in_half(graph, ones) - exact) <= 1).all()
    assert (draw_in_half(graph, ones, half_sums=True) == STUCK).all()


EXACT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "strided, padded": (lambda: nn.Conv2d(3, 5, (3, 4), (2, 1), (1, 2)), 3),
    "dilated": (lambda: nn.Conv2d(3, 90, 3, dilation=(1, 3)), 3),
    "many outputs": (lambda: nn.Conv2d(3, 200, 5, 3), 3),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), 6),
    "groups without bias": (lambda: nn.Conv2d(6, 4, 3, groups=2, bias=False), 6),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=4), 4),
    "depthwise, two each": (lambda: nn.Conv2d(4, 8, 3, dilation=2, groups=4), 4),
    "transposed": (lambda: nn.ConvTranspose2d(4, 5, 3, 2, 1, 1), 4),
    "transposed, other sides": (lambda: nn.ConvTranspose2d(4, 5, (2, 5), (3, 1), (0, 2)), 4),
    "relu": (lambda: nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()), 4),
    "products": (
        lambda: Does(lambda x: (x.flatten(2)[:, :, :4] @ x.flatten(2)).view(x.shape)),
        4,
    ),
}


@pytest.mark.parametrize("what", EXACT)
def test_whole_numbers_add_up_as_in_float32(what: str) -> None:
    make, channels = EXACT[what]
    network, random = make().eval(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randint(-3, 4, parameter.shape, generator=random).float()
    graph = capture(network, 14, 17, channels)
    picture = np.random.default_rng(0).integers(-3, 4, (1, 14, 17, channels)).astype(np.float32)
    exact = interpret(graph, picture)
    assert 0 < np.abs(exact).max() <= STUCK
    assert (draw_in_half(graph, picture, half_sums=True) == exact).all()


class _Encoder(nn.Module):
    """A long sum whose bias takes back what its products add up to, as behind a folded norm."""

    def __init__(self, channels: int = 44, stride: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 1)
        self.long = nn.Conv2d(channels, 24, 4, stride, 1)
        self.last = nn.Conv2d(24, 3, 1)
        with torch.no_grad():
            self.long.weight.abs_()
            self.first.bias.fill_(2)  # type: ignore[union-attr]
            self.long.bias.copy_(-2 * self.long.weight.sum((1, 2, 3)))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.long(torch.relu(self.first(x)))))
        return y


def _network(channels: int = 44, stride: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return _Encoder(channels, stride).eval()


def _convolutions(graph: Graph) -> int:
    return sum(isinstance(node.op, ops.Conv2d) for node in graph.nodes)


def test_a_long_sum_is_computed_in_halves() -> None:
    before = capture(_network(), 32, 48)
    after = SplitLongSums().run(before)
    assert _convolutions(after) == _convolutions(before) + 1
    assert difference(before, after) < 1e-6
    kernels = [after.constants[n.inputs[1]] for n in after.nodes if isinstance(n.op, ops.Conv2d)]
    assert [kernel.shape[3] for kernel in kernels] == [3, 20, 24, 24]
    lowered, reports = lower(before, Runtime.TFLITE, half=True)
    assert "split_long_sums" in [report.name for report in reports if report.changed]
    assert difference(before, lowered) < 1e-2  # weights are rounded for float16


def test_halves_lose_less_in_float16() -> None:
    before, picture = capture(_network(), 32, 48), smooth_picture(32, 48)
    exact = interpret(before, picture)

    def drawn(graph: Graph, *, half_sums: bool) -> float:
        return psnr_db(exact, draw_in_half(graph, picture, half_sums=half_sums))

    after = SplitLongSums().run(before)
    assert drawn(after, half_sums=True) > drawn(before, half_sums=True) + 4
    assert drawn(before, half_sums=False) > drawn(after, half_sums=True)


def test_short_sums_and_other_artifacts_are_left_alone() -> None:
    for network in (_network(channels=36), _network(stride=1)):
        graph = capture(network, 32, 48)
        assert SplitLongSums().run(graph).nodes == graph.nodes
    graph = capture(_network(), 32, 48)
    for runtime in Runtime:
        for half in (True, False) if runtime is Runtime.ONNX else (False,):
            lowered, reports = lower(graph, runtime, half=half)
            assert _convolutions(lowered) == _convolutions(graph)
            assert "split_long_sums" not in [report.name for report in reports]


def test_the_bundled_generator_with_sums_in_float16() -> None:
    network = load_checkpoint(bundled_checkpoint()).generator()
    picture: Array = read_pictures(bundled_pictures(), 256, 256).values[1]
    graph, _ = lower(capture(network, 256, 256), Runtime.TFLITE, half=True)
    whole, halves = (
        psnr_db(run_torch(network, picture), draw_in_half(graph, picture, half_sums=sums))
        for sums in (False, True)
    )
    assert whole - 20 < halves < whole - 10
    assert halves > 61.5
