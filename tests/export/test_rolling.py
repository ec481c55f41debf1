"""Pictures that go on at the other side: borders of tiles, rolled and mirrored lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    INTEGER,
    LEAST_DB,
    Share,
    Shared,
    artifacts,
    furthest,
    smooth_picture,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, padding_mode="circular")
        self.inner = nn.Conv2d(8, 8, (3, 5), padding=(1, 2), padding_mode="circular")
        self.last = nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.what = what
        self.eval()(torch.zeros(1, 3, 24, 28))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _shifted_and_back(n: _Own, x: Tensor) -> Tensor:
    y = torch.relu(n.inner(torch.roll(x, (-3, -2), (2, 3))))
    return x + torch.roll(y, (3, 2), (2, 3))


def _mirror_images(n: _Own, x: Tensor) -> Tensor:
    turned: Tensor = n.inner(x.flip(3)).flip(3) + n.inner(x.flip(2)).flip(2)
    return torch.relu(n.inner(x) + turned)


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "tiled": lambda n, x: x + torch.relu(n.inner(x)),
    "around": lambda _, x: F.pad(x, (3, 0, 1, 2), mode="circular"),
    "all around": lambda _, x: F.pad(x, (x.shape[3], x.shape[3], 0, 0), mode="circular"),
    "shifted and back": _shifted_and_back,
    "rolled beyond": lambda n, x: n.inner(x.roll(5, 3).roll(-99, 2)),
    "mirror images": _mirror_images,
    "both ways": lambda n, x: n.inner(torch.rot90(x, 2, (2, 3))).flip(1),
    "a quarter": lambda n, x: torch.rot90(n.inner(torch.rot90(x, 1, (2, 3))), -1, (2, 3)),
    "backwards": lambda n, x: n.inner(torch.rot90(x, -1, (3, 2)).relu()).rot90(3, (2, 3)),
    "channels last": lambda n, x: n.inner(
        x.permute(0, 2, 3, 1).rot90(1, (1, 2)).permute(0, 3, 1, 2)
    ),
    "repeated": lambda n, x: n.inner(
        F.pixel_shuffle(torch.rot90(x, 1, (2, 3)), 2).repeat(1, 4, 1, 2)
    ),
    "up and aside": lambda n, x: n.inner(x.flipud().fliplr().roll(3, 2)),
    "there and back": lambda n, x: x.flip(3).relu().flip(3) + n.inner(x),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    for height, width in ((24, 28), (32, 32), (30, 26)):
        assert furthest(network, height, width) < 3e-6


@pytest.mark.parametrize(
    "name", ["tiled", "shifted and back", "mirror images", "a quarter", "repeated"]
)
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_what_goes_on_at_the_other_side_is_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), odd_pictures)
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def test_lines_of_a_large_prime_are_mirrored_in_every_format(tmp_path: Path) -> None:
    network = _Own(lambda n, x: n.inner(x.flip(3)) + n.inner(x.flip((2, 3)))).eval()
    # Half as many lines: 17 and 29, and 31 times 2.
    for height, width in ((34, 58), (24, 124)):
        pictures = Pictures(("a",), (smooth_picture(height, width),))
        for runtime, dtype in artifacts([DType.FP32, DType.INT8_FULL]):
            least, whole = Shared(network, pictures).draw(runtime, dtype, tmp_path)
            assert least >= LEAST_DB[dtype]
            assert whole or dtype in INTEGER
