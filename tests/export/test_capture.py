"""What a captured graph draws, and what cannot be captured."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import warm
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture, Norm
from lowering import Does, run_torch, smooth_picture, trained


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("architecture", [Architecture.RESNET_6, Architecture.UNET_128])
def test_the_graph_draws_what_the_network_draws(architecture: Architecture, norm: Norm) -> None:
    network = trained(build_generator(full_plan(architecture, norm, width=6)))
    picture = smooth_picture(128, 256)
    graph = capture(network, 128, 256)
    assert graph.input_shape == graph.output_shape == (1, 128, 256, 3)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 1e-4


def test_commands_start_after_a_capture_as_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no command would be forked any more once a test has captured in its own process."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = dict(os.environ)
    capture(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), 4, 4)
    assert warm.starts_alike(os.environ, before)


class _Everything(nn.Module):
    """Uses the layers and functions that the generators do not."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
        self.same = nn.Conv2d(6, 5, (3, 2), padding="same")
        self.affine = nn.InstanceNorm2d(5, affine=True)
        self.running = nn.InstanceNorm2d(5, track_running_stats=True)
        self.mirror = nn.ReflectionPad2d((1, 2, 3, 0))
        self.zeros = nn.ZeroPad2d((0, 1, 2, 0))
        self.dropout = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.same(self.depthwise(x)))
        x = self.dropout(self.running(self.affine(x)))
        x = self.zeros(self.mirror(x))
        return torch.cat([x, -0.5 * x + 1 - x * x], 2)[:, 1:4, :-1, 2:]


def test_every_layer_and_its_options() -> None:
    network, picture = _Everything(), smooth_picture(18, 14)
    with torch.no_grad():
        network.affine.weight.uniform_(0.5, 2)
        network.affine.bias.uniform_(-1, 1)
        assert network.running.running_mean is not None
        network.running.running_mean.uniform_(-1, 1)
    network.eval()
    graph = capture(network, 18, 14)
    # In float64 on both sides: values near 10 leave float32 no room for a tight bound.
    precise = picture.transpose(0, 3, 1, 2).astype(np.float64)
    expected = network.double()(torch.from_numpy(precise)).detach().numpy().transpose(0, 2, 3, 1)
    assert np.abs(interpret(graph, picture, np.float64) - expected).max() < 1e-11
    assert graph.count()["depthwise_conv2d"] == 1


def test_layers_idle_in_eval_mode_vanish_and_modes_stay_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.Identity(), nn.ReLU())
    network.train()
    network[1].eval()
    graph = capture(network, 8, 8)
    assert graph.count() == {"conv2d": 1, "relu": 1}
    assert [layer.training for layer in network] == [True, False, True, True]


def test_training_on_does_not_change_a_captured_graph() -> None:
    network, picture = nn.Conv2d(3, 4, 1), smooth_picture(8, 8)
    graph, expected = capture(network, 8, 8), run_torch(network, picture)
    with torch.no_grad():
        network.weight.zero_()
        assert network.bias is not None
        network.bias.zero_()
    assert np.abs(interpret(graph, picture) - expected).max() < 1e-5


def test_values_are_named_by_their_layers() -> None:
    graph = capture(build_generator(full_plan(Architecture.RESNET_6, width=1)), 16, 16)
    names = [node.output for node in graph.nodes]
    assert "blocks.5.conv2/conv2d" in names
    assert names[-1] == "output"


def test_an_unsupported_operator_is_named_with_its_layer_and_what_is_supported() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), Does(torch.erfinv)))
    with pytest.raises(ConversionFailed) as failure:
        capture(network, 8, 8)
    for part in ("aten.erfinv", "'1.1'"):
        assert part in str(failure.value)
    assert {"conv2d", "instance_norm"} < set(re.split(r"[,\s]+", " ".join(failure.value.listing)))
    assert "\n" not in str(failure.value)
    assert failure.value.exit_status == 4


def test_supported_operators_are_named_where_names_are_alike_and_listed_where_that_helps() -> None:
    with pytest.raises(ConversionFailed) as failure:
        capture(Does(lambda x: F.max_pool3d(x[:, None], 2)), 8, 8)
    assert "(supported ones of like names: max_pool2d, " in str(failure.value)
    assert failure.value.listing
    with pytest.raises(ConversionFailed) as failure:
        capture(Does(lambda x: F.max_pool2d(x, 2, dilation=2)), 8, 8)
    assert "aten.max_pool2d" in str(failure.value)
    assert not failure.value.listing


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class _Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (build_generator(full_plan(Architecture.UNET_128, width=1)), "at 40x40"),
        (nn.Conv2d(4, 4, 1), "4 channels"),
        (nn.Conv2d(3, 4, 1).double(), "double"),
        (nn.ConstantPad2d(1, float("inf")), "inf"),
        (nn.Identity(), "unchanged"),
        (_Branching(), "data-dependent"),
        (_Two(), "return one"),
    ],
)
def test_what_cannot_be_captured_says_why(network: nn.Module, reason: str) -> None:
    with pytest.raises(ConversionFailed, match=reason):
        capture(network, 40, 40)
