"""Numbers put around tensors along any axis: zeros between pixels, borders, channels beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    INTEGER,
    LEAST_DB,
    Share,
    artifacts,
    furthest,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.along = nn.Conv1d(8, 8, 3)
        self.last = nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.blur: Tensor
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(line, line))
        self.what = what
        with torch.no_grad():
            self.eval()(torch.zeros(1, 3, 24, 28))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _plane_by_plane(x: Tensor, kernel: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """Zeros between pixels, a blur, every so many-th pixel: with the planes for a batch."""
    _, channels, height, width = x.shape
    x = x.reshape(-1, height, 1, width, 1, 1)
    x = F.pad(x, [0, 0, 0, up - 1, 0, 0, 0, up - 1])
    x = x.view(-1, height * up, width * up, 1)
    before, after = max(pad[0], 0), max(pad[1], 0)
    x = F.pad(x, [0, 0, before, after, before, after])
    cut = slice(max(-pad[0], 0), x.shape[1] - max(-pad[1], 0))
    x = x[:, cut, slice(cut.start, x.shape[2] - max(-pad[1], 0)), :].permute(0, 3, 1, 2)
    lines, columns = height * up + sum(pad), width * up + sum(pad)
    x = F.conv2d(x.reshape([-1, 1, lines, columns]), kernel.flip((0, 1))[None, None])
    x = x.reshape(-1, 1, lines - 3, columns - 3).permute(0, 2, 3, 1)[:, ::down, ::down, :]
    return x.view(-1, channels, (lines - 4) // down + 1, (columns - 4) // down + 1)


def _depthwise(x: Tensor, kernel: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """Do the same with a depthwise convolution."""
    n, channels, height, width = x.shape
    x = F.pad(x.reshape(n, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(n, channels, height * up, width * up), [*pad, *pad])
    x = F.conv2d(x, kernel.expand(channels, 1, 4, 4), groups=channels)
    return x[:, :, ::down, ::down]


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "blurred": lambda n, x: _plane_by_plane(x, n.blur, 1, 1, (2, 1)),
    "enlarged": lambda n, x: n.inner(_plane_by_plane(x, n.blur * 4, 2, 1, (2, 1))),
    "enlarged unevenly": lambda n, x: _plane_by_plane(x, n.blur * 4, 2, 1, (1, 3)),
    "enlarged and cropped": lambda n, x: _plane_by_plane(x, n.blur * 4, 3, 1, (-1, 2)),
    "halved": lambda n, x: _plane_by_plane(n.inner(x), n.blur, 1, 2, (1, 1)),
    "both": lambda n, x: _plane_by_plane(x, n.blur * 4, 2, 2, (2, 1)),
    "enlarged depthwise": lambda n, x: n.inner(_depthwise(x, n.blur * 4, 2, 1, (2, 1))),
    "halved depthwise": lambda n, x: n.inner(_depthwise(x, n.blur, 1, 2, (2, 2))),
    "enlarged by all channels": lambda n, x: n.inner(
        F.pad(x[:, :, :, None, :, None], [0, 1, 0, 0, 0, 1]).flatten(4).flatten(2, 3)
    ),
    "a corner of each": lambda _, x: F.pad(x[:, :, :, None, :, None], [1, 1, 0, 0, 2, 0]).reshape(
        1, 8, x.shape[2] * 3, -1
    ),
    "more channels": lambda n, x: F.relu(F.pad(n.inner(x), [0, 0, 0, 0, 2, 3])),
    "more channels, convolved": lambda n, x: n.inner(F.pad(x[:, 1:4], [0, 0, 0, 0, 1, 4])),
    "channels last": lambda _, x: F.pad(x.permute(0, 2, 3, 1), [2, 0, 1, 2]).permute(0, 3, 1, 2),
    "a line": lambda n, x: n.along(F.pad(x.flatten(2), [2, 0])).view_as(x),
    "tokens": lambda _, x: F.pad(x.flatten(2).mT, [0, 0, 1, 2])[:, 1:-2].mT.reshape(x.shape) + x,
    "a border": lambda _, x: F.pad(x, [1, 0, 2, 3], value=0.5),
    "cropped": lambda n, x: n.inner(F.pad(x, [-2, -1, 0, -3])),
    "moved": lambda n, x: n.inner(F.pad(x, [-2, 2, 1, -1], value=-1.0)),
    "of no lines": lambda _, x: x + F.pad(x, [0, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    # As many lines and columns as channels too, where one axis passes for another.
    for height, width in ((24, 28), (16, 16), (30, 16)):
        assert furthest(network, height, width) < 3e-6


@pytest.mark.parametrize("name", ["enlarged", "halved", "more channels", "a border"])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_what_is_put_around_is_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), odd_pictures)
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


@pytest.mark.parametrize(
    ("name", "depthwise"), [("enlarged", 4), ("enlarged depthwise", 4), ("halved depthwise", 1)]
)
def test_zeros_between_pixels_and_pixels_left_out_are_not_computed(
    name: str, depthwise: int
) -> None:
    network = _Own(_WHAT[name]).eval()
    graph = lower(capture(network, 24, 28), Runtime.ONNX)[0]
    assert graph.count()["depthwise_conv2d"] == depthwise
    sizes = {
        graph.shapes[node.output][1] for node in graph.nodes if node.op.kind == "depthwise_conv2d"
    }
    # A phase of the enlarged picture, or the halved one.
    assert max(sizes) <= 13


def test_channels_of_zeros_are_not_multiplied() -> None:
    graph = lower(capture(_Own(_WHAT["more channels, convolved"]).eval(), 24, 28), Runtime.ONNX)[0]
    assert (8, 3, 3, 3) in {constant.shape for constant in graph.constants.values()}
    assert not {"concat", "depthwise_conv2d"} & set(graph.count())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (
            lambda x: F.pad(x, [0, 0, 0, 0, 1, 1], value=1.0),
            "pads (1, 8, 8, 8) by [0, 0, 0, 0, 1, 1]; but for height and width by zeros",
        ),
        (
            lambda x: F.pad(x, [1, 1, 1, 1], value=float("-inf")),
            "padding mode 'constant' with value -inf is not supported",
        ),
    ],
)
def test_what_cannot_be_put_around_is_refused_in_one_line(
    what: Callable[[Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Own(lambda _, x: what(x)).eval(), 16, 16)
    assert reason in str(caught.value)
