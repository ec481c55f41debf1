"""Numbers in other orders than a picture's: windows and their attention, patches, turned axes."""

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
from coronet_deploy.export.cost import node_macs
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import INTEGER, LEAST_DB, Share, artifacts, difference, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

_WINDOW, _HEADS = 4, 2


def _windows(x: Tensor) -> Tensor:
    """Return (windows, pixels, C) of (1, H, W, C), as Swin does."""
    b, h, w, c = x.shape
    x = x.view(b, h // _WINDOW, _WINDOW, w // _WINDOW, _WINDOW, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, _WINDOW**2, c)


def _of_windows(x: Tensor, h: int, w: int) -> Tensor:
    b = int(x.shape[0] / (h * w / _WINDOW / _WINDOW))
    x = x.view(b, h // _WINDOW, w // _WINDOW, _WINDOW, _WINDOW, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    places: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.LazyConvTranspose2d(3, 4, 2, 1)
        self.norm, self.all, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.widened, self.depthwise = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.of_patch, self.to_patch = nn.Linear(32, 12), nn.Linear(12, 32)
        self.mix, self.back = nn.Linear(16, 6), nn.Linear(6, 16)
        self.table = nn.Parameter(torch.randn((2 * _WINDOW - 1) ** 2, _HEADS))
        ys, xs = torch.meshgrid(*[torch.arange(_WINDOW)] * 2, indexing="ij")
        apart = [(a.flatten()[:, None] - a.flatten() + _WINDOW - 1) for a in (ys, xs)]
        self.register_buffer("places", apart[0] * (2 * _WINDOW - 1) + apart[1])
        self.what = what
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)
            self.eval()(torch.zeros(1, 3, 32, 48))

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()

    def attended(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what windows (windows, pixels, C) see of themselves."""
        b, n, c = x.shape
        qkv = self.all(x).reshape(b, n, 3, _HEADS, c // _HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * (c // _HEADS) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.places.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            scores = scores.view(b // len(mask), len(mask), _HEADS, n, n) + mask[None, :, None]
            scores = scores.view(-1, _HEADS, n, n)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        drawn: Tensor = self.out(seen)
        return drawn


def _mask(h: int, w: int, shift: int) -> Tensor:
    planes, count = torch.zeros(1, h, w, 1), 0
    ends = (slice(0, -_WINDOW), slice(-_WINDOW, -shift), slice(-shift, None))
    for rows in ends:
        for columns in ends:
            planes[:, rows, columns], count = count, count + 1
    of = _windows(planes).squeeze(-1)
    apart = of.unsqueeze(1) - of.unsqueeze(2)
    return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)


def _swin(n: _Own, x: Tensor, shift: int = 0) -> Tensor:
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    y = n.norm(tokens).view(b, h, w, c)
    if shift:
        y = torch.roll(y, (-shift, -shift), (1, 2))
    y = _of_windows(n.attended(_windows(y), _mask(h, w, shift) if shift else None), h, w)
    if shift:
        y = torch.roll(y, (shift, shift), (1, 2))
    tokens = tokens + y.view(b, h * w, c)
    tokens = tokens + n.out(F.gelu(n.norm(tokens)))
    drawn: Tensor = tokens.transpose(1, 2).view(b, c, h, w)
    return drawn


def _by_squares(n: _Own, x: Tensor, *, grid: bool = False) -> Tensor:
    b, c, h, w = x.shape
    s, count = _WINDOW, _HEADS
    size = (s, h // s, s, w // s) if grid else (h // s, s, w // s, s)
    outer, inner = ((4, 6), (3, 5)) if grid else ((3, 5), (4, 6))

    def parts(t: Tensor) -> Tensor:
        t = t.view(b, count, c // count, *size).permute(0, *outer, 1, *inner, 2)
        return t.reshape(-1, count, s * s, c // count)

    q, k, v = map(parts, n.widened(x).chunk(3, 1))
    seen = F.scaled_dot_product_attention(q, k, v)
    seen = seen.view(b, h // s, w // s, count, s, s, c // count)
    order = (0, 3, 6, 4, 1, 5, 2) if grid else (0, 3, 6, 1, 4, 2, 5)
    return x + seen.permute(order).reshape(b, c, h, w)


def _along_rows(n: _Own, x: Tensor) -> Tensor:
    q, k, v = (t.permute(0, 2, 3, 1) for t in n.widened(x).chunk(3, 1))
    drawn: Tensor = x + ((q @ k.transpose(-2, -1)).softmax(-1) @ v).permute(0, 3, 1, 2)
    return drawn


def _patches(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 4 * c)
    y = n.to_patch(n.of_patch(y).relu()).reshape(b, h // 2, w // 2, 2, 2, c)
    drawn: Tensor = x + y.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
    return drawn


def _mixed(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = n.norm(x.permute(0, 2, 3, 1)).reshape(b, 4, h // 4, 4, w // 4, c)
    y = y.permute(0, 1, 3, 2, 4, 5).reshape(b, 16, -1, c)
    y = n.back(F.gelu(n.mix(y.transpose(-1, -3)))).transpose(-1, -3)
    y = y.reshape(b, 4, 4, h // 4, w // 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
    drawn: Tensor = x * (y.permute(0, 3, 1, 2) + 1)
    return drawn


def _merged(n: _Own, x: Tensor) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    y = torch.cat([y[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)], -1)
    drawn: Tensor = n.of_patch(y).permute(0, 3, 1, 2)
    return F.pixel_shuffle(drawn[:, :8].relu(), 2).repeat(1, 4, 1, 1) + x


def _one_after_another(_: _Own, x: Tensor) -> Tensor:
    y = x.softmax(2)
    return y + y.amax(1, keepdim=True) - y.mean(3, keepdim=True)


def _in_five(_: _Own, x: Tensor) -> Tensor:
    y = x.view(1, 2, 4, *x.shape[2:]).transpose(1, 3) * torch.full((1,) * 5, 0.5)
    return y.transpose(1, 3).reshape(x.shape)


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "windows": _swin,
    "shifted windows": lambda n, x: _swin(n, x, 2),
    "squares": _by_squares,
    "grids": lambda n, x: _by_squares(n, x, grid=True),
    "rows": _along_rows,
    "patches": _patches,
    "mixed": _mixed,
    "merged": _merged,
    "turned": lambda n, x: n.depthwise(x.transpose(2, 3)).relu().mT + x,
    "norm of two lines": lambda _, x: F.layer_norm(
        x.reshape(1, -1, 2 * x.shape[3]), (2 * x.shape[3],)
    ).view(x.shape),
    "one axis after another": _one_after_another,
    "a number in five": _in_five,
    "spread lines": lambda n, x: n.out(x[..., :1].expand(-1, -1, -1, 8)).mean(3, keepdim=True) + x,
    "shares of lines": lambda _, x: x * x.softmax(3) + x.softmax(2),
    "mean of some": lambda _, x: x + torch.cat([x.view(1, 2, 4, *x.shape[2:]).mean(2)] * 4, 1),
}
_IN_INTEGERS = ("patches", "mixed", "merged", "turned", "mean of some")


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    # As many lines, columns and windows as channels too, where one axis passes for another.
    for height, width in ((32, 48), (16, 16), (64, 16)):
        picture = smooth_picture(height, width)
        graph = capture(network, height, width)
        assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 5e-6
        for runtime in Runtime:
            assert difference(graph, lower(graph, runtime)[0]) < 5e-6


@pytest.mark.parametrize("name", ["shifted windows", "grids", "patches", "mixed", "turned"])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_numbers_in_other_orders_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), pictures)
    if dtype in INTEGER and name not in _IN_INTEGERS:
        with pytest.raises(ConversionFailed, match="computes in no integers"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def test_all_windows_and_heads_are_multiplied_at_once() -> None:
    graph = capture(_Own(_swin).eval(), 32, 48)
    products = [node for node in graph.nodes if node.op.kind == "matmul"]
    # 24 windows of 16 pixels, 8 channels, there and back.
    assert [node_macs(graph, node) for node in products] == [24 * 16 * 16 * 8] * 2
    assert graph.count()["softmax"] == 1


def test_masks_of_windows_are_one_constant() -> None:
    def twice(n: _Own, x: Tensor) -> Tensor:
        return _swin(n, _swin(n, x, 2), 2)

    once, both = (capture(_Own(what).eval(), 64, 48) for what in (_WHAT["shifted windows"], twice))
    masks = [[a for a in g.constants.values() if a.shape[0] == 48] for g in (once, both)]  # windows
    assert [len(m) for m in masks] == [1, 1]
