"""Norms, gates and labels written by hand: roots, quotients, variances, maxima, joined vectors."""

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
from lowering import Share, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")

_FLOATS = {DType.FP32: 110, DType.FP16: 60, DType.INT8: 40}
_INTEGERS = {DType.INT8_FULL: 34, DType.INT16X8: 45, DType.A16W8: 45}


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

    label: Tensor
    std: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        self.excite, self.seen = nn.Linear(8, 16), nn.Conv2d(2, 1, 7, padding=3)
        self.labelled = nn.Conv2d(13, 8, 3, padding=1)
        self.style = nn.Parameter(torch.randn(1, 16))
        self.slope = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.register_buffer("label", torch.tensor([[1.0, 0, 0, 1, 1]]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first((x + 1) / 2 / self.std)))
        return drawn.tanh()


def _layer_norm(_: _Own, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


def _instance_and_layer_norm(n: _Own, x: Tensor) -> Tensor:
    one, all_ = (2, 3), (1, 2, 3)
    instance, layer = (
        (x - x.mean(d, keepdim=True)) / torch.sqrt(x.var(d, keepdim=True) + 1e-5)
        for d in (one, all_)
    )
    rho = n.slope.expand(x.shape[0], -1, -1, -1)
    return rho * instance + (1 - rho) * layer


def _adaptive(n: _Own, x: Tensor) -> Tensor:
    scale, shift = n.style.chunk(2, 1)
    mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
    return (x - mean) / (std + 1e-5) * scale[..., None, None] + shift.view(1, 8, 1, 1)


def _attended(n: _Own, x: Tensor) -> Tensor:
    largest, mean = x.max(1)[0].unsqueeze(1), x.mean(1).unsqueeze(1)
    return x * torch.sigmoid(n.seen(torch.cat((largest, mean), 1)))


def _excited(n: _Own, x: Tensor) -> Tensor:
    excited: Tensor = n.excite(x.amax((2, 3)))
    scale, shift = torch.split(excited, 8, dim=1)
    scale = torch.cat([scale[:, 4:], scale[:, :4]], dim=1)
    drawn: Tensor = x * scale.view(1, -1, 1, 1) + shift[:, :, None, None]
    return drawn


def _labelled(n: _Own, x: Tensor) -> Tensor:
    planes = n.label.view(1, 5, 1, 1).repeat(1, 1, x.size(2), x.size(3))
    drawn: Tensor = n.labelled(torch.cat([x, planes], 1))
    return drawn


def _by_second_names(_: _Own, x: Tensor) -> Tensor:
    y = torch.multiply(torch.clip(x, -1, 0.5), 2).clip_(max=0.8)
    y = torch.subtract(y, torch.true_divide(x, 3)) + torch.absolute(torch.negative(x))
    y = torch.concat([y[:, :4], torch.special.expit(y[:, 4:])], 1)
    y = y * torch.divide(x, torch.special.log1p(y.abs()) + 1) + torch.special.erf(y)
    y = torch.where(torch.greater(y, x), y, x) + torch.where(torch.less_equal(y, 0), 0 * y, y)
    y = y * torch.sgn(y)
    return torch.concatenate([y[:, 4:], y[:, :4]], 1).ravel().view(x.shape)


def _added(_: _Own, x: Tensor) -> Tensor:
    y = torch.addcmul(x, x.mean((2, 3), keepdim=True), x.relu(), value=0.5)
    return y.mT.contiguous().addcdiv(x.mT, x.mT.square() + 1, value=-0.5).mT


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "by second names": _by_second_names,
    "added": _added,
    "layer norm": _layer_norm,
    "instance and layer norm": _instance_and_layer_norm,
    "batch of one": lambda n, x: F.batch_norm(
        x, None, None, n.style[0, :8], n.style[0, 8:], training=True
    ),
    "adaptive": _adaptive,
    "attended": _attended,
    "excited": _excited,
    "labelled": _labelled,
    "normalised": lambda _, x: F.normalize(x, dim=1),
    "larger": lambda n, x: torch.maximum(x, n.slope * x) + torch.max(x, torch.zeros_like(x)),
    "smaller": lambda _, x: torch.minimum(x.abs(), torch.tensor(0.5)) - x.min(x * x),
    "soft sign": lambda _, x: F.softsign(x) + 1 / (x * x + 1),
    "gated": lambda _, x: torch.cat([F.glu(x, 1)] * 2, 1),
    "softplus": lambda n, x: F.softplus(40 * x) / 40 - F.softplus(x, 3) + F.logsigmoid(n.slope * x),
    "tone curve": lambda _, x: torch.log1p(x.abs()) * (x.sigmoid() ** 0.45 + (x * x + 1) ** -0.5),
    "powers": lambda _, x: (x / 2) ** 3 - (x / 4) ** 5 + (x**2 + 1) ** -1 + (x / 2).exp().log(),
    "blended": lambda n, x: torch.lerp(x, torch.expm1(-x.abs()), n.slope),
    "at once": lambda _, x: (
        (x - torch.var_mean(x, (2, 3), keepdim=True)[1])
        / (torch.std_mean(x, (2, 3), keepdim=True)[0] + 1e-5)
    ),
    "tiled": lambda _, x: x + x[:, :4].tile(2, 1, 1) * x.mean(1, keepdim=True).repeat(1, 8, 1, 1),
    "spread": lambda _, x: torch.cat(
        [x[:, 4:], x.mean((2, 3), keepdim=True)[:, :4].repeat(1, 1, *x.shape[2:])], 1
    ),
    "planes": lambda n, x: n.slope * (x[:, 1, None] * 2 + x[:, 0] + x.unbind(1)[3]),
}
_IN_INTEGERS = (
    "layer norm",
    "adaptive",
    "attended",
    "excited",
    "labelled",
    "larger",
    "smaller",
    "softplus",
    "tone curve",
)
_NO_INTEGERS = {"adaptive": "sqrt", "softplus": "exp", "tone curve": "log"}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network, picture = _Own(_WHAT[name]).eval(), smooth_picture(24, 28)
    graph = capture(network, 24, 28)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
    for runtime in Runtime:
        assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize("name", _WHAT)
@pytest.mark.parametrize(("runtime", "dtype"), list(product(Runtime, _FLOATS)))
def test_what_is_written_by_hand_is_one_part_in_float(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), pictures)
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert whole
    assert least >= _FLOATS[dtype]


@pytest.mark.parametrize("name", _IN_INTEGERS)
@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [
        (Runtime.TFLITE, DType.INT8_FULL),
        (Runtime.TFLITE, DType.INT16X8),
        (Runtime.ONNX, DType.INT8_FULL),
        (Runtime.ONNX, DType.A16W8),
    ],
)
def test_what_is_written_by_hand_computes_in_integers_or_is_refused(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), pictures)
    if name in _NO_INTEGERS:
        with pytest.raises(ConversionFailed) as caught:
            network.draw(runtime, dtype, tmp_path)
        assert _NO_INTEGERS[name] in str(caught.value)
        return
    assert network.draw(runtime, dtype, tmp_path)[0] >= _INTEGERS[dtype]
