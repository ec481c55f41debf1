"""Sums in float16: what they lose is simulated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint, bundled_pictures
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.half import draw_in_half
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.images import Array
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Runtime
from lowering import Does, run_torch

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


def test_the_bundled_generator_with_sums_in_float16() -> None:
    network = load_checkpoint(bundled_checkpoint()).generator()
    picture: Array = read_pictures(bundled_pictures(), 256, 256).values[1]
    graph, _ = lower(capture(network, 256, 256), Runtime.TFLITE, half=True)
    whole, halves = (
        psnr_db(run_torch(network, picture), draw_in_half(graph, picture, half_sums=sums))
        for sums in (False, True)
    )
    assert whole - 20 < halves < whole - 10
