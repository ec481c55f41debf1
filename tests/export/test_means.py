"""Layers of torch that take means: norms over groups, and what weighs channels by their means."""

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
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime
from lowering import Does, difference, own_subject, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")

_LEAST_DB = {DType.FP32: 110, DType.FP16: 70, DType.INT8: 40, DType.INT8_FULL: 40}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


def _norm(groups: int, channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Return a norm with learnt numbers unlike each other."""
    norm = nn.GroupNorm(groups, channels, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (2, 6), (3, 6), (6, 6), (1, 1)])
def test_groups_of_channels_are_normed_together(groups: int, channels: int, affine: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 1), _norm(groups, channels, affine=affine))
    # Far from 0, where a mean that is taken carelessly shows.
    picture = 9 * smooth_picture(24, 14) + 50
    expected = network.double()(torch.from_numpy(picture.transpose(0, 3, 1, 2)).double())
    graph = capture(network.float(), 24, 14)
    drawn = interpret(graph, picture, np.float64)
    assert np.abs(drawn - expected.detach().numpy().transpose(0, 2, 3, 1)).max() < 1e-4
    assert graph.count().get("instance_norm", 0) == (groups == channels)


def test_a_norm_of_groups_adds_no_convolution_that_could_be_quantised() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), _norm(2, 8), nn.ReLU())
    for runtime in Runtime:
        lowered, _ = lower(capture(network, 24, 14), runtime, integer=True)
        assert lowered.count()["conv2d"] == 1


def _normed(groups: int, channels: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, channels, 3, 2, 1), _norm(groups, channels), nn.ReLU()),
        *(nn.Conv2d(channels, channels, 3, 1, 1), _norm(groups, channels), nn.ReLU()),
        *(nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh()),
    )


@pytest.mark.parametrize(("groups", "channels"), [(4, 16), (8, 24), (1, 12)])
@pytest.mark.parametrize(("runtime", "dtype"), list(product(Runtime, _LEAST_DB)))
def test_norms_of_groups_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, groups: int, channels: int, pictures: Pictures, tmp_path: Path
) -> None:
    _draws(_normed(groups, channels).eval(), runtime, dtype, pictures, tmp_path)


def _draws(
    network: nn.Module, runtime: Runtime, dtype: DType, pictures: Pictures, folder: Path
) -> None:
    """Assert that the artifact draws as torch does, whole on the fast path of its runtime."""
    graph = capture(network, 60, 88)
    built = build(graph, runtime, dtype, own_subject(network), pictures)
    path = folder / f"own{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, 1) as session:
        assert dtype is DType.INT8_FULL or session.partitions.fully_accelerated
        for picture in pictures.values:
            assert psnr_db(run_torch(network, picture), session.run(picture)) >= _LEAST_DB[dtype]


class _Weighed(nn.Module):
    """Weighs channels by what `excited` makes of them, as squeeze-and-excitation does."""

    def __init__(self, excited: Callable[[_Weighed, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.lines = nn.Sequential(
            *(nn.Linear(8, 4, bias=False), nn.ReLU(inplace=True)),
            *(nn.Linear(4, 8), nn.Sigmoid()),
        )
        self.convolved = nn.Sequential(
            *(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid())
        )
        self.gain, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.rand(8))
        self.excited = excited

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.excited(self, torch.relu(self.first(x))))
        return drawn.tanh()


def _by_hand(x: Tensor) -> Tensor:
    """Normalise each channel of what is spread over all pixels first, as CartoonGAN's ports do."""
    flat, n = x.view(*x.shape[:2], -1), x.shape[2] * x.shape[3]
    mean = flat.mean(2).unsqueeze(2).unsqueeze(3).expand_as(x)
    variance = flat.var(2).unsqueeze(2).unsqueeze(3).expand_as(x) * ((n - 1) / n)
    return (x - mean) / torch.sqrt(variance + 1e-5)


_EXCITED: dict[str, Callable[[_Weighed, Tensor], Tensor]] = {
    "convolved": lambda n, x: x * n.convolved(n.pool(x)),
    "viewed": lambda n, x: x * n.lines(n.pool(x).view(1, -1)).view(1, 8, 1, 1).expand_as(x),
    "flat": lambda n, x: x * n.lines(n.flat(n.pool(x))).reshape(-1, 8, 1, 1).expand(x.shape),
    "flattened": lambda _, x: x[:, :, :, :1] * x.view(1, 8, -1).mean(2)[..., None, None] + x,
    "indexed": lambda n, x: x * n.lines(x.mean((2, 3)))[:, :, None, None],
    "squeezed": lambda n, x: x * n.lines(n.pool(x).squeeze()).unsqueeze(-1).unsqueeze(-1),
    "tiled": lambda _, x: torch.cat(
        [x[:, :4], x.mean((2, 3), keepdim=True).expand_as(x)[:, :4]], 1
    ),
    "joined": lambda _, x: x * torch.cat([x.mean((2, 3))] * 2, 1)[:, :8, None, None],
    "axes": lambda _, x: (
        x.mean(1, keepdim=True)
        - x.mean() * x.sum((-1, 2), keepdim=True) * 0.01
        + x.mean(2, keepdim=True)
    ),
    "styled by itself": lambda n, x: (
        F.batch_norm(
            F.instance_norm(x, weight=n.lines(x.mean((2, 3)))[0], bias=n.shift),
            *(None, None, x.mean((2, 3)).view(-1), n.lines(x.amax((2, 3))).view(-1)),
            training=True,
        )
        + F.group_norm(x, 4, n.gain, x.mean((2, 3))[0])
    ),
    "by learnt ones": lambda n, x: (
        x * torch.lerp(n.gain, x.mean((2, 3)) * n.gain + n.shift, 0.8)[..., None, None]
    ),
    "beside a token": lambda n, x: (
        x
        * torch.cat([x.mean((2, 3))[:, None] - n.gain, n.shift[None, None]], 1).sum(1)[
            ..., None, None
        ]
    ),
    "by each learnt one": lambda n, x: (
        x * (n.shift[:, None] + x.mean((2, 3)) * n.gain).relu().sum(1)[:, None, None]
    ),
    "by each other": lambda _, x: (
        x * (x.mean((2, 3))[0, :, None] - x.mean((2, 3))).relu().sum(1)[:, None, None]
    ),
    # As many columns as channels: what it weighs is these.
    "columns": lambda _, x: x[..., :1].expand(1, 8, x.shape[2], 8) * x.mean((2, 3)),
    "of length one": lambda _, x: x * F.normalize(x.mean((2, 3)), dim=1)[..., None, None],
    "by magnitudes": lambda _, x: (
        F.normalize(x, p=1, dim=1)
        + F.normalize(x, p=float("inf"), dim=1)
        + x * F.normalize(x.mean((2, 3)), p=1, dim=1)[..., None, None]
        - x.flatten(2).norm(float("-inf"), dim=2)[..., None, None]
    ),
    "normed by hand": lambda n, x: _by_hand(x) * n.gain[None, :, None, None].expand_as(x) * 2,
    "normed": lambda _, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8),
}


@pytest.mark.parametrize("name", _EXCITED)
@pytest.mark.parametrize("runtime", Runtime)
def test_channels_weighed_by_their_means_are_drawn_as_torch_draws_them(
    runtime: Runtime, name: str, pictures: Pictures, tmp_path: Path
) -> None:
    network = _Weighed(_EXCITED[name]).eval()
    for dtype in (DType.FP32, DType.FP16):
        _draws(network, runtime, dtype, pictures, tmp_path)


def test_what_is_spread_over_all_pixels_is_computed_once() -> None:
    graph = capture(_Weighed(_EXCITED["normed by hand"]), 32, 48)
    (root,) = (node for node in graph.nodes if node.op.kind == "rsqrt")
    assert graph.shapes[root.output] == (1, 1, 1, 8)


_OF_ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "mean and deviation": lambda x: (x - x.view(-1).mean()) / (x.view(-1).std() + 1e-5),
    "both": lambda x: x - torch.var_mean(x.flatten(1), 1)[1],
    "magnitudes": lambda x: (
        x / (x.norm(1) / x.numel() + 1) + torch.linalg.vector_norm(x, torch.inf)
    ),
    "largest": lambda x: x - x.view(-1).max() + x[0].min(0)[0],
    "sums": lambda x: x + x[0].sum(0) * x[0].mean((1, 2)).view(1, -1, 1, 1),
    "groups": lambda x: F.group_norm(x.flatten(2), 2).view_as(x) * F.group_norm(x, 1),
}


@pytest.mark.parametrize("name", _OF_ALL)
@pytest.mark.parametrize("side", [8, 32])
def test_lines_of_one_pixel_or_of_more_are_reduced_as_torch_does(side: int, name: str) -> None:
    down, up = nn.Conv2d(3, 8, 8, 8), nn.ConvTranspose2d(8, 3, 8, 8)
    network = nn.Sequential(down, Does(_OF_ALL[name]), up).eval()
    picture = smooth_picture(side, side)
    graph = capture(network, side, side)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
    for runtime in Runtime:
        assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT8_FULL])
@pytest.mark.parametrize(("runtime", "name"), list(product(Runtime, ["convolved", "viewed"])))
def test_channels_weighed_by_their_means_stand_eight_bits(
    runtime: Runtime, name: str, dtype: DType, pictures: Pictures, tmp_path: Path
) -> None:
    _draws(_Weighed(_EXCITED[name]).eval(), runtime, dtype, pictures, tmp_path)


@pytest.mark.parametrize(
    ("excited", "reason"),
    [
        (lambda _, x: x * F.adaptive_max_pool2d(x, 2).mean(), "pools 8x7 pixels to 2x2, in unlike"),
        (lambda _, x: x.mean((2, 3)).view(1, 1, 1, 8) * x[..., :1], "in unlike orders"),
    ],
    ids=["pooled", "turned"],
)
def test_what_is_no_number_a_channel_is_refused(
    excited: Callable[[_Weighed, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Weighed(excited), 16, 14)
    assert reason in str(caught.value)


def test_norms_of_other_orders_are_refused() -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Weighed(lambda _, x: F.normalize(x, p=3, dim=1)), 16, 14)
    assert "takes the norm of order 3; only of 1, 2, inf and -inf" in str(caught.value)
