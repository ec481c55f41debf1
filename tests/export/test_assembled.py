"""Tensors that are made first and written into afterwards, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, artifacts, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    kept: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        self.bands = nn.Conv2d(32, 32, 3, padding=1)
        self.register_buffer("kept", torch.zeros(1, 8, 12, 14))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _summed(signs: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([sign * part for sign, part in zip(signs, parts, strict=True)]).sum(0)


def _wavelets(n: _Own, x: Tensor) -> Tensor:
    """Bands of half the size and back, as MWCNN has it (Liu et al. 2018, arXiv 1805.07071)."""
    b, c, h, w = x.shape
    a = [x[:, :, i::2, j::2] / 2 for j in (0, 1) for i in (0, 1)]
    signs = ((1, 1, 1, 1), (-1, -1, 1, 1), (-1, 1, -1, 1), (1, -1, -1, 1))
    y = torch.cat([_summed(row, a) for row in signs], 1)
    parts = n.bands(y).chunk(4, 1)
    made = torch.zeros(b, c, h, w)
    for place, row in enumerate(zip(*signs, strict=True)):
        i, j = place % 2, place // 2
        made[:, :, i::2, j::2] = _summed(row, parts)
    return made


def _halves(_: _Own, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :5] = x[:, 3:].relu()
    y[:, 4:] = x[:, :4] * 2  # over the last of those
    return y + y[:, :1]


def _beside_means(_: _Own, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    y[:, 4:] = x.mean((2, 3), keepdim=True)[:, 4:]
    return y


def _lines(_: _Own, x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], 2 * x.shape[2], x.shape[3], x.shape[1])
    upper = y[:, ::2]
    y[:, 1::2] = x.permute(0, 2, 3, 1)
    upper[:] = x.permute(0, 2, 3, 1).sigmoid()
    return nn.functional.avg_pool2d(y.permute(0, 3, 1, 2), (2, 1))


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "wavelets": _wavelets,
    "halves": _halves,
    "lines": _lines,
    "beside means": _beside_means,
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    for height, width in ((24, 28), (32, 32)):
        picture = smooth_picture(height, width)
        graph = capture(network, height, width)
        assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
        for runtime in Runtime:
            assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_bands_and_back_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    least, whole = shared("bands", lambda: _Own(_wavelets), pictures).draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def _in_part(_: _Own, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    return x + y


def _cleared(_: _Own, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    y.fill_(1)
    y[:, 4:] = x[:, 4:]
    return y


def _twice(_: _Own, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:] = x
    y[:, :4] = x[:, 4:].relu()
    return y


def _kept(n: _Own, x: Tensor) -> Tensor:
    n.kept[:] = x
    return n.kept * 2


def _whole_numbers(_: _Own, x: Tensor) -> Tensor:
    y = torch.zeros_like(x, dtype=torch.int32)
    y[:] = x
    return y.float()


def _unlike(_: _Own, x: Tensor) -> Tensor:
    y = x.new_zeros(1, 8, x.shape[2] + 1, x.shape[3])
    y[:, :, 1:] = x
    y[:, :, :1] = x[:, :, -1:]
    return y


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (_in_part, "reads what is written to in part"),
        (_cleared, "reads what is written to in part"),
        (_twice, "writes to a part of a tensor; torch.cat or torch.where"),
        (_kept, "changes a tensor of the network while it draws"),
        (_whole_numbers, "writes to torch.int32"),
        (_unlike, "writes parts of unlike sizes"),
    ],
)
def test_what_is_not_written_whole_and_once_says_why(
    what: Callable[[_Own, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Own(what), 24, 28)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
