"""Tensors permuted, viewed and flattened on the way: norms of channels last, shuffles, tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.norm, self.wide = nn.LayerNorm(8), nn.Linear(8, 20)
        self.narrow, self.depthwise = nn.Linear(20, 8), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.gamma = nn.Parameter(torch.rand(8))
        self.what = what
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)
            self(torch.zeros(1, 3, 24, 28))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _convnext(n: _Own, x: Tensor) -> Tensor:
    y: Tensor = n.depthwise(x).permute(0, 2, 3, 1)
    y = n.narrow(F.gelu(n.wide(n.norm(y))))
    return x + (n.gamma * y).permute(0, 3, 1, 2)


def _responses(n: _Own, x: Tensor) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    response: Tensor = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
    share = response / (response.mean(dim=-1, keepdim=True) + 1e-6)
    return (n.gamma * (y * share) + n.norm.bias + y).permute(0, 3, 1, 2)


def _tokens(n: _Own, x: Tensor) -> Tensor:
    _, c, h, w = x.shape
    y: Tensor = x.flatten(2).transpose(1, 2)
    y = y + n.narrow(F.silu(n.wide(n.norm(y))))
    return y.transpose(1, 2).reshape(1, c, h, w)


def _unshuffled(_: _Own, x: Tensor) -> Tensor:
    c, h, w = x.shape[1:]
    x = x.view(1, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    x = torch.relu(x.reshape(1, 4 * c, h // 2, w // 2))
    return x.view(1, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(1, c, h, w)


def _of_all(_: _Own, x: Tensor) -> Tensor:
    mean, std = x.view(-1).mean().view(1, 1, 1, 1), x.view(-1).std().view(1, 1, 1, 1)
    return (x - mean) * torch.rsqrt(std * std + 1e-5)


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "convnext": _convnext,
    "responses": _responses,
    "tokens": _tokens,
    "unshuffled": _unshuffled,
    "of all": _of_all,
    "shuffled": lambda _, x: (
        x.view(1, 2, 4, *x.shape[2:]).transpose(1, 2).contiguous().view(1, 8, *x.shape[2:])
    ),
    "native shuffle": lambda _, x: F.relu(nn.ChannelShuffle(4)(x)),
    "reversed": lambda _, x: x[:, [2, 1, 0, 3, 4, 5, 7, 6]] + x.flip(1),
    "picked": lambda _, x: x[:, torch.tensor([5, 5, 0])] + x[:, 1:7:2],
    "narrowed": lambda _, x: torch.cat([x.narrow(1, 3, 5), *x.tensor_split(3, 1)[:1]], 1),
    "selected": lambda _, x: x.index_select(1, torch.tensor([7, 0, 1, 2, 3])),
    "pooled": lambda n, x: x * torch.sigmoid(n.norm(x.flatten(2).mean(2))).view(1, 8, 1, 1),
    "repeated": lambda _, x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    "shuffled pixels": lambda _, x: F.pixel_shuffle(F.relu(x), 2),
    "there and back": lambda _, x: (2 * x.movedim(1, -1)).movedim(-1, 1).transpose(2, 3).mT,
    "whole": lambda _, x: F.layer_norm(x, x.shape[1:]),
    "turned in place": lambda _, x: (x * 2).transpose_(1, 2).mul(2).transpose_(1, 2) + x,
    "lines": lambda _, x: F.layer_norm(x, x.shape[-1:]),
    "of one type": lambda n, x: x.mT.type_as(n.gamma).mT * n.gamma.type_as(x)[:, None, None],
}
_NO_INTEGERS = {"responses", "of all"}
_IN_ALL_NUMBERS = (
    "convnext",
    "responses",
    "tokens",
    "unshuffled",
    "of all",
    "shuffled",
    "reversed",
)


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    # As many lines and columns as channels too, where one axis passes for another.
    for height, width in ((24, 28), (16, 16), (16, 20)):
        picture = smooth_picture(height, width)
        graph = capture(network, height, width)
        assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
        for runtime in Runtime:
            assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize("name", _IN_ALL_NUMBERS)
@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [
        pair
        for pair in product(Runtime, LEAST_DB)
        if pair not in {(Runtime.TFLITE, DType.A16W8), (Runtime.ONNX, DType.INT16X8)}
    ],
)
def test_moved_numbers_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), pictures)
    if dtype in INTEGER and name in _NO_INTEGERS:
        with pytest.raises(ConversionFailed, match="computes in no integers"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert dtype in INTEGER or whole
    assert least >= LEAST_DB[dtype]


def test_channels_last_cost_no_transpose() -> None:
    graph = capture(_Own(_convnext), 24, 28)
    assert not {"transpose", "reshape"} & set(graph.count())
    assert graph.count()["conv2d"] == 3


_MIXED = torch.tensor([5, 1, 7, 0, 3, 2, 6, 4])


def _written_through(_: _Own, x: Tensor) -> Tensor:
    x.permute(0, 2, 3, 1).relu_()
    return x


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda n, x: n.depthwise(x[:, :, _MIXED]), "in an order that no picture has"),
        (lambda _, x: x + x[:, :, _MIXED], "in unlike orders"),
        (lambda _, x: F.layer_norm(x[:, :, _MIXED], (8, 8)), "no whole axes"),
        (lambda n, x: n.wide(x[:, :, :, _MIXED]), "no whole axes"),
        (lambda _, x: x.permute(0, 2, 3, 1).double().float(), "gives torch.float64"),
        (lambda n, x: x.type_as(n.gamma.double()).float(), "gives torch.float64"),
        (lambda _, x: x[:, x.mean((0, 2, 3)).argsort()], "is not supported"),
        (
            lambda n, x: (x.flatten(2) + n.gamma.view(1, 1, 8, 1))[0, :, :, None].view_as(x),
            "takes a learnt tensor of shape [1, 1, 8, 1] beside (1, 8, 64)",
        ),
        (_written_through, "in place into memory that is read by another slice"),
    ],
)
def test_what_stands_for_no_picture_is_refused_in_one_line(
    what: Callable[[_Own, Tensor], Tensor], reason: str
) -> None:
    network = _Own(lambda _, x: x)
    network.what = what
    with pytest.raises(ConversionFailed) as caught:
        capture(network, 16, 16)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("leaving", "shape"),
    [
        (lambda x: x.permute(0, 2, 3, 1), "(1, 12, 16, 3)"),
        (lambda x: x[0], "(3, 12, 16)"),
        (lambda x: x.flatten(1), "(1, 576)"),
        (lambda x: x.mean((2, 3)), "(1, 3)"),
    ],
)
def test_a_network_that_returns_no_picture_says_what_it_returns(
    leaving: Callable[[Tensor], Tensor], shape: str
) -> None:
    class Leaving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return leaving(self.only(x))

    with pytest.raises(ConversionFailed) as caught:
        capture(Leaving(), 12, 16)
    assert f"the network returns {shape}, which stands for no picture" in str(caught.value)
