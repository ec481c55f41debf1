"""Every so many-th pixel of what convolutions make, and activations and sums of: only these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.cost import graph_macs
from coronet_deploy.export.passes.strides import StrideConvolutions
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, artifacts, difference, furthest, trained

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels, and draws in half the size."""

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.LazyConv2d(3, 3, padding=1)
        self.inner, self.beside = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.grouped, self.each = (nn.Conv2d(8, 8, 5, 1, 2, groups=n) for n in (2, 8))
        self.norm, self.slopes = nn.BatchNorm2d(8), nn.PReLU(8)
        self.plane = nn.Parameter(torch.randn(1, 1, 40, 48))
        self.rows = nn.Parameter(torch.randn(1, 8, 40, 1))
        self.what = what
        with torch.no_grad():
            self.slopes.weight.uniform_(0, 1)
            trained(self)(torch.zeros(1, 3, 40, 48))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, x))
        return drawn.tanh()


def _halved(x: Tensor) -> Tensor:
    return x[:, :, ::2, ::2]


def _chosen(y: Tensor) -> Tensor:
    return torch.where((y > 0.1) | ~(y.abs() >= 1), F.selu(y), y.sign() * y.floor())


def _read_twice(n: _Own, x: Tensor) -> Tensor:
    y = n.inner(n.first(x))
    drawn: Tensor = _halved(F.silu(n.grouped(y) + y)) + n.each(y).amax((2, 3), keepdim=True)
    return drawn


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "activation": lambda n, x: _halved(n.inner(n.first(x)).relu()),
    "several": lambda n, x: _halved(
        (n.slopes(n.norm(n.inner(n.first(x)))) * n.plane + n.rows).clamp(-1, 1)
    ),
    "sum": lambda n, x: _halved((n.inner(n.first(x)) + n.beside(x)).relu()),
    "sum with a picture": lambda n, x: _halved(F.gelu(n.inner(n.first(x))) - x[:, :1]),
    "weighed": lambda n, x: _halved(
        n.inner(n.first(x)).sigmoid() * n.beside(x).mean((2, 3))[..., None, None]
    ),
    "groups": lambda n, x: _halved(n.grouped(n.first(x)).tanh()),
    "each": lambda n, x: _halved(F.hardswish(n.each(n.first(x)))),
    "nearest": lambda n, x: F.interpolate(F.gelu(n.inner(n.first(x))), scale_factor=0.5),
    "pool of one": lambda n, x: F.max_pool2d(F.leaky_relu(n.inner(n.first(x)), 0.2), 1, 2),
    "columns": lambda n, x: F.elu(n.inner(n.first(x)))[..., ::3],
    "swish": lambda n, x: _halved(F.silu(n.inner(n.first(x)))),
    "mish": lambda n, x: _halved(F.mish(n.inner(n.first(x)))),
    "chosen": lambda n, x: _halved(_chosen(n.inner(n.first(x)))),
    "read twice": _read_twice,
}
"""How networks read every so many-th pixel."""


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    assert furthest(_Own(_WHAT[name]), 40, 48) < 3e-6


_PIXELS = 40 * 48
_INNER = 8 * 8 * 9


@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        ("activation", _INNER * _PIXELS * 3 // 4),
        ("several", _INNER * _PIXELS * 3 // 4),
        ("sum", (_INNER + 3 * 8) * _PIXELS * 3 // 4),
        ("sum with a picture", _INNER * _PIXELS * 3 // 4),
        ("weighed", _INNER * _PIXELS * 3 // 4),
        ("groups", 8 * 4 * 25 * _PIXELS * 3 // 4),
        ("each", 8 * 25 * _PIXELS * 3 // 4),
        ("nearest", _INNER * _PIXELS * 3 // 4),
        ("pool of one", _INNER * _PIXELS * 3 // 4),
        ("columns", _INNER * _PIXELS * 2 // 3),
        ("swish", _INNER * _PIXELS * 3 // 4),
        ("mish", _INNER * _PIXELS * 3 // 4),
        ("chosen", _INNER * _PIXELS * 3 // 4),
        ("read twice", 8 * 4 * 25 * _PIXELS * 3 // 4),
    ],
)
def test_what_nothing_reads_is_not_computed(name: str, fewer: int) -> None:
    graph = capture(_Own(_WHAT[name]), 40, 48)
    after = StrideConvolutions().run(graph)
    assert difference(graph, after) < 1e-12
    saved = graph_macs(graph) - graph_macs(after)
    assert fewer <= saved <= fewer + 8 * _PIXELS  # and no pixel is picked by a kernel of one tap


@pytest.mark.parametrize("name", ["several", "sum with a picture", "groups"])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_fewer_pixels_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, tmp_path: Path
) -> None:
    pictures = read_pictures(bundled_pictures()[:3], 40, 48)
    least, whole = shared(name, lambda: _Own(_WHAT[name]), pictures).draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER
