"""Windows laid over one another, numbers gathered by known places, and cosines between pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, artifacts, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

SIZE = 24, 28
Window = tuple[int, int]


class _Own(nn.Module):
    """Does `what` to a few channels of half the picture's size."""

    mixed: Tensor
    wanted: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, 2, 1), nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.tokens, self.narrow = nn.Linear(8 * 16, 8 * 16), nn.Linear(8 * 9, 8 * 9)
        self.register_buffer("mixed", torch.tensor([2, 0, 3, 1, 5, 4, 7, 6]))
        self.register_buffer("wanted", torch.randn(1, 8, 1, 1))
        self.what = what
        with torch.no_grad():
            self.eval()(torch.zeros(1, 3, *SIZE))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _folding(
    window: Window, stride: Window, padding: Window = (0, 0), dilation: Window = (1, 1)
) -> Callable[[_Own, Tensor], Tensor]:
    def what(_: _Own, x: Tensor) -> Tensor:
        held = F.unfold(x, window, dilation, padding, stride).relu() / 2
        return x + F.fold(held, x.shape[2:], window, dilation, padding, stride)

    return what


def _tokens(n: _Own, x: Tensor) -> Tensor:
    """Patches side by side as tokens, and back."""
    held = F.unfold(x, 4, stride=4).transpose(1, 2)
    return F.fold(n.tokens(held).transpose(1, 2), x.shape[2:], 4, stride=4)


def _soft_composition(n: _Own, x: Tensor) -> Tensor:
    """Tokens that overlap are summed and divided by how many (Liu et al. 2021, 2109.02974)."""
    of = {"kernel_size": 3, "stride": 2, "padding": 1}
    held = n.narrow(F.unfold(x, **of).transpose(1, 2)).transpose(1, 2)
    often = F.fold(F.unfold(torch.ones_like(x), **of), x.shape[2:], **of)
    return F.fold(held, x.shape[2:], **of) / often


FOLDED: dict[str, tuple[Callable[[_Own, Tensor], Tensor], int]] = {
    "side by side": (_folding((2, 2), (2, 2)), 8),
    "oblong": (_folding((3, 7), (3, 7)), 8),
    "everywhere": (_folding((3, 3), (1, 1), (1, 1)), 8),
    "overlapping": (_folding((5, 5), (2, 2), (2, 2)), 8),
    "large": (_folding((7, 7), (3, 3), (3, 3)), 8),
    "apart": (_folding((2, 2), (3, 3), (1, 1)), 8),
    "dilated": (_folding((3, 3), (1, 1), (2, 2), (2, 2)), 8),
    "of two strides": (_folding((3, 5), (1, 2), (1, 2)), 12),
    "of many channels": (_folding((3, 3), (2, 2), (1, 1)), 20),
    "everywhere, of many channels": (_folding((2, 2), (1, 1)), 20),
    "tokens": (_tokens, 8),
    "soft composition": (_soft_composition, 8),
}
OTHERS: dict[str, tuple[Callable[[_Own, Tensor], Tensor], int]] = {
    "gathered": (lambda n, x: x.gather(1, n.mixed.view(1, 8, 1, 1).expand_as(x)), 8),
    "some gathered": (
        lambda n, x: x.gather(1, n.mixed[:3].view(1, 3, 1, 1).expand(1, 3, *x.shape[2:])),
        8,
    ),
    "taken": (lambda n, x: torch.take_along_dim(x, n.mixed.view(1, 8, 1, 1), 1), 8),
    "cosine": (lambda _, x: x * F.cosine_similarity(x, x.roll(1, 2), dim=1)[:, None], 8),
    "cosine to what is learnt": (
        lambda n, x: x * F.cosine_similarity(x, n.wanted, dim=1, eps=1e-6).unsqueeze(1),
        8,
    ),
    "learnt first": (lambda n, x: x + F.cosine_similarity(n.wanted, x).unsqueeze(1), 8),
    "cosine of lines": (lambda _, x: x * F.cosine_similarity(x, x.flip(1), dim=-1)[..., None], 8),
    "cosine with nothing": (lambda _, x: x + F.cosine_similarity(x, x * 0)[:, None], 8),
    "randomized leaky": (lambda _, x: F.rrelu(x, 0.1, 0.3), 8),
}


@pytest.mark.parametrize("name", [*FOLDED, *OTHERS])
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(*(FOLDED | OTHERS)[name]).eval()
    picture = smooth_picture(*SIZE)
    graph = capture(network, *SIZE)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
    for runtime in Runtime:
        assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize(
    "name", ["side by side", "overlapping", "of many channels", "soft composition", "gathered",
             "cosine", "cosine to what is learnt"],
)  # fmt: skip
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_they_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(*(FOLDED | OTHERS)[name]), odd_pictures)
    if dtype in INTEGER and name.startswith("cosine"):
        with pytest.raises(ConversionFailed, match="computes in no integers"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def test_windows_side_by_side_only_move() -> None:
    sums = {name: capture(_Own(*FOLDED[name]), *SIZE).count() for name in FOLDED}
    assert sums["side by side"]["add"] == 1  # the network's own
    assert sums["everywhere"]["add"] == 1 + 2 * (3 - 1)  # three taps along each axis


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda _, x: x.gather(1, x.argsort(1)), "argsort"),
        (lambda _, x: x + F.rrelu(x, training=True), "is random in eval mode too"),
        (
            lambda _, x: x * F.cosine_similarity(x, x[:, :, :1], dim=2)[:, :, None],
            "only pictures that are as long there",
        ),
        (
            lambda _, x: x.gather(3, (torch.arange(14) * 5 % 14).expand_as(x)),
            "in an order that no picture",
        ),
    ],
)
def test_what_cannot_be_says_why(what: Callable[[_Own, Tensor], Tensor], reason: str) -> None:
    network = _Own(lambda _, x: x)
    network.what = what
    with pytest.raises(ConversionFailed) as caught:
        capture(network, *SIZE)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
