"""Tensors stacked and summed, lines of numbers, and what norms and filters go over them."""

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

_MIXED = [2, 0, 3, 1, 5, 4, 7, 6]


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    blur: Tensor
    gain: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.ways = nn.ModuleList(nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3, 5))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.PReLU())
        self.shares = nn.ModuleList(nn.Conv2d(4, 8, 1) for _ in range(3))
        self.along, self.deep = nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Conv1d(8, 8, 1)
        self.halves, self.each = nn.Conv1d(8, 8, 5, 1, 4, 2, 2), nn.Conv1d(8, 16, 3, 2, groups=8)
        self.scaled, self.rms = nn.BatchNorm1d(8), nn.RMSNorm(8)
        self.dense = nn.Linear(8, 8)
        self.register_buffer("gain", torch.linspace(-1, 1, 8).view(1, 8, 1, 1))
        self.register_buffer("blur", torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2) / 64)
        self.what = what
        with torch.no_grad():
            for norm in (self.scaled, self.rms):
                nn.init.uniform_(norm.weight, 0.5, 2)
            self.scaled.running_mean = torch.randn(8)
            self.scaled.running_var = torch.rand(8) + 0.5
            self.eval()(torch.zeros(1, 3, 24, 28))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _selected(n: _Own, x: Tensor) -> Tensor:
    """Selective kernels: Li et al. 2019, arXiv 1903.06586."""
    ways = torch.stack([way(x) for way in n.ways], 1)
    squeezed = n.squeeze(ways.sum(1))
    shares = torch.stack([share(squeezed) for share in n.shares], 1).softmax(1)
    return (ways * shares).sum(1)


def _fused(n: _Own, x: Tensor) -> Tensor:
    """As MIRNet has it, of two."""
    b, c, h, w = x.shape
    ways = torch.cat([way(x) for way in n.ways[:2]], 1).view(b, 2, c, h, w)
    squeezed = n.squeeze(ways.sum(1))
    shares = torch.cat([share(squeezed) for share in n.shares[:2]], 1).view(b, 2, c, 1, 1)
    return (ways * shares.softmax(1).expand_as(ways)).sum(1)


def _efficient(n: _Own, x: Tensor) -> Tensor:
    y = n.along(n.squeeze[0](x).squeeze(-1).transpose(-1, -2))
    drawn: Tensor = x * y.transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(x)
    return drawn


def _strided(n: _Own, x: Tensor) -> Tensor:
    y: Tensor = n.each(x.flatten(2))[..., :-1].mean(-1)
    return y.view(1, 16, 1, 1) + x[:, :1]


def _blurred(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = F.pad(x, (2, 1, 2, 1)).reshape(-1, 1, h + 3, w + 3)
    return F.conv2d(y, n.blur[None, None]).view(b, c, h, w)


def _filtered(n: _Own, x: Tensor) -> Tensor:
    """Each pixel by weights of its own, as Jia et al. 2016 have it (arXiv 1605.09673)."""
    b, c, h, w = x.shape
    weights = n.ways[1](x).repeat(1, 2, 1, 1)[:, :9].softmax(1)
    around = F.unfold(x, 3, padding=1).view(b, c, 9, h, w)
    drawn: Tensor = (around * weights.unsqueeze(1)).sum(2)
    return drawn


def _unit(style: Tensor) -> Tensor:
    """Return numbers of a mean square of 1, less their sum (arXiv 1710.10196 has the former)."""
    unit = style * torch.rsqrt(style.square().mean(1, keepdim=True) + 1e-4)
    return unit - style.sum(-1, keepdim=True) + style.var(1, keepdim=True) * style.amax(1)


def _with_a_token(n: _Own, x: Tensor) -> Tensor:
    """Have a class token beside the pixels, as vision transformers do (arXiv 2010.11929)."""
    pixels = x.flatten(2).transpose(1, 2)
    joined = n.dense(torch.cat([n.gain.view(1, 1, 8), pixels], 1))
    joined = torch.cat([joined.softmax(-1), joined], 2)
    return joined[:, 1:].transpose(1, 2).reshape(1, 16, *x.shape[2:])


def _power(_: _Own, x: Tensor) -> Tensor:
    flat = x.view(*x.shape[:2], -1)
    most = flat.max(dim=2, keepdim=True)[0]
    sizes = most + (flat - most).exp().sum(2, keepdim=True).log()
    return x * (F.lp_pool2d(x, 2, (x.shape[2], x.shape[3])) / 99 + sizes.unsqueeze(3)).sigmoid()


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "selected": _selected,
    "fused": _fused,
    "mean": lambda n, x: torch.stack([way(x) for way in n.ways]).mean(0),
    "maximum": lambda n, x: torch.stack([way(x) for way in n.ways], -1).max(-1)[0],
    "minimum": lambda n, x: torch.stack([way(x) for way in n.ways], 2).amin(2),
    "interleaved": lambda _, x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2),
    "lines between": lambda _, x: torch.stack((x, x.relu()), 3).flatten(2, 3),
    "beside what is learnt": lambda n, x: torch.stack(
        [n.gain.expand_as(x), x, torch.ones_like(x)], 2
    ).flatten(1, 2),
    "summed with what is learnt": lambda _, x: torch.stack([x, torch.ones_like(x)]).sum(0),
    "with a token": _with_a_token,
    "of a vector": lambda _, x: x * _unit(x.mean((2, 3)))[..., None, None],
    "efficient": _efficient,
    "of pixels": lambda n, x: (n.deep(x.flatten(2)) + n.halves(x.flatten(2))).view_as(x),
    "every second": lambda n, x: (
        n.each(x.flatten(2))[..., :-1].mean(-1).view(1, 16, 1, 1) + x[:, :1]
    ),
    "normalised": lambda n, x: n.scaled(x.flatten(2)).reshape_as(x),
    "gated": lambda n, x: (
        x * n.scaled(n.dense(F.adaptive_avg_pool1d(x.flatten(2), 1).view(1, 8)))[..., None, None]
    ),
    "root mean square": lambda n, x: n.rms(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "blurred": _blurred,
    "power": _power,
    "filtered": _filtered,
    "unfolded": lambda n, x: n.deep(F.unfold(x, 2, 2, 1, 1)[:, :8]).view(
        1, 8, x.shape[2], x.shape[3]
    ),
    "logarithms": lambda _, x: x - x.logsumexp(1, keepdim=True) + F.log_softmax(x, 1).exp(),
    "neighbours": lambda _, x: F.local_response_norm(x * 4, 5, 0.5, 0.75, 2.0),
    "few neighbours": lambda _, x: nn.LocalResponseNorm(2, k=0.7)(x),
    "normed lines": lambda _, x: (
        F.group_norm(x.flatten(2), 2) + F.instance_norm(x.flatten(2))
    ).view_as(x),
    "normed in turn": lambda _, x: F.group_norm(x.permute(0, 3, 1, 2), 1).permute(0, 2, 3, 1),
    "of some": lambda _, x: x + F.group_norm(x.flatten(2)[:, 1:7], 3).mean((1, 2)),
    "averaged lines": lambda _, x: (
        F.avg_pool1d(x.flatten(2), 3, 1, 1)
        - F.avg_pool1d(x.flatten(2), 5, 1, 2, ceil_mode=True, count_include_pad=False)
    ).view_as(x),
    "largest of lines": lambda _, x: (
        F.max_pool1d(x.flatten(2), 3, 1, 1).view_as(x)
        - x * F.max_pool1d(x.flatten(2), 4, 3, 2, ceil_mode=True).mean(2)[..., None, None]
        + F.max_pool1d(x.mean((2, 3))[:, None], 2, 1).mean()
    ),
    "averaged every way": lambda _, x: (
        F.avg_pool3d(x, (3, 1, 3), (1, 1, 1), (1, 0, 1)) - F.avg_pool3d(x[None], 1, 1)[0]
    ),
    "dark": lambda _, x: x - x.min(1, keepdim=True)[0] + x.amin((2, 3), keepdim=True) - x.min(),
}
_NO_INTEGERS = {"selected", "power", "filtered", "with a token", "neighbours"}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    # As many lines and columns as channels too, where one axis passes for another.
    for height, width in ((24, 28), (16, 16), (8, 8)):
        picture = smooth_picture(height, width)
        graph = capture(network, height, width)
        assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
        for runtime in Runtime:
            assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize(
    "name",
    [
        *("selected", "fused", "maximum", "efficient", "root mean square", "power", "filtered"),
        *("beside what is learnt", "with a token", "neighbours", "normed lines"),
        "largest of lines",
    ],
)
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_stacks_and_lines_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), odd_pictures)
    if dtype in INTEGER and name in _NO_INTEGERS:
        with pytest.raises(ConversionFailed, match="computes in no integers"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def test_what_is_stacked_to_be_summed_is_not_joined() -> None:
    graph = capture(_Own(_WHAT["mean"]), 24, 28)
    assert not {"concat", "slice", "permute"} & set(graph.count())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (
            lambda n, x: (
                x
                * F.conv2d(
                    x,
                    (x.mean((2, 3)) @ n.ways[1].weight.flatten(1)).view_as(n.ways[1].weight[:1]),
                ).mean()
            ),
            "takes weights that the picture goes into; scale its channels before and after instead",
        ),
        (lambda _, x: F.adaptive_avg_pool1d(x.flatten(2), 2)[..., None], "only to one"),
        (lambda n, x: x * n.along(x.mean((2, 3))[:, None, _MIXED]).view(1, 8, 1, 1), "no line"),
    ],
)
def test_what_is_no_line_says_why(what: Callable[[_Own, Tensor], Tensor], reason: str) -> None:
    network = _Own(lambda _, x: x)
    network.what = what
    with pytest.raises(ConversionFailed) as caught:
        capture(network, 24, 28)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
