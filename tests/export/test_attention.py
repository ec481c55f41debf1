"""Attention of fixed size: over places, over channels, by heads, and softmax alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export import operators as ops
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.cost import graph_macs, node_macs
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import Share, difference, own_subject, run_onnx, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")

_LEAST_DB = {DType.FP32: 110, DType.FP16: 60, DType.INT8: 40}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 40, 48)


class _Own(nn.Module):
    """Does `what` to twelve channels of a quarter of the picture's size."""

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 4, 4), nn.ConvTranspose2d(12, 3, 4, 4)
        self.query, self.key, self.value = (nn.Conv2d(12, c, 1) for c in (3, 3, 12))
        self.all, self.out, self.one = (
            nn.Conv2d(12, 36, 1),
            nn.Conv2d(12, 12, 1),
            nn.Conv2d(12, 1, 1),
        )
        self.lines, self.norm = nn.Linear(12, 36), nn.LayerNorm(12)
        self.deep, self.groups = nn.Conv1d(12, 36, 1), nn.GroupNorm(4, 12)
        self.gamma, self.heat = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2, 1, 1))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _of_places(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    query = n.query(x).view(b, -1, h * w).permute(0, 2, 1)
    shares = F.softmax(torch.bmm(query, n.key(x).view(b, -1, h * w)), dim=-1)
    seen = torch.bmm(n.value(x).view(b, -1, h * w), shares.permute(0, 2, 1))
    return n.gamma * seen.view(b, c, h, w) + x


def _of_pooled_places(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    key = F.max_pool2d(n.key(x), 2).view(b, -1, h * w // 4)
    value = F.max_pool2d(n.value(x), 2).view(b, -1, h * w // 4)
    shares = F.softmax(torch.bmm(n.query(x).view(b, -1, h * w).transpose(1, 2), key), -1)
    drawn: Tensor = x + n.out(torch.bmm(value, shares.transpose(1, 2)).view(b, c, h, w))
    return drawn


def _of_channels(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    query, key, value = (t.reshape(b, 2, c // 2, h * w) for t in n.all(x).chunk(3, dim=1))
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    shares = ((query @ key.transpose(-2, -1)) * n.heat).softmax(dim=-1)
    drawn: Tensor = x + n.out((shares @ value).reshape(b, c, h, w))
    return drawn


def _of_heads(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    parts = (t.reshape(b, 3, c // 3, h * w).transpose(2, 3) for t in n.all(x).chunk(3, 1))
    seen = F.scaled_dot_product_attention(*parts)
    drawn: Tensor = x + n.out(seen.transpose(2, 3).reshape(b, c, h, w))
    return drawn


def _of_tokens(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y: Tensor = x.flatten(2).transpose(1, 2)
    q, k, v = n.lines(n.norm(y)).reshape(b, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    y = y + F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).reshape(b, h * w, c)
    return y.transpose(1, 2).reshape(b, c, h, w)


def _of_cosines(heads: int) -> Callable[[_Own, Tensor], Tensor]:
    def seen(n: _Own, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        lines = n.lines(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, heads, c // heads)
        q, k, v = lines.permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        y = (scores * 4).softmax(-1) @ v
        drawn: Tensor = x + y.transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).view_as(x)
        return drawn

    return seen


def _of_context(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    shares = F.softmax(n.one(x).view(b, 1, h * w), dim=2).unsqueeze(-1)
    seen = torch.matmul(x.view(b, c, h * w).unsqueeze(1), shares).view(b, c, 1, 1)
    drawn: Tensor = x + n.out(seen)
    return drawn


def _in_letters(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = (t.reshape(b, 2, c // 2, h * w) for t in n.all(x).chunk(3, dim=1))
    seen = torch.einsum("b h d n, b h e n -> b h d e", k.softmax(-1), v)
    drawn: Tensor = torch.einsum("bhde,bhdn->bhen", seen, q.softmax(-2)).reshape(b, c, h, w)
    return n.gamma * drawn + torch.einsum("bchw,oc->bohw", x, n.lines.weight[:12])


def _guided(n: _Own, x: Tensor, *, heads_first: bool = True) -> Tensor:
    """As guided diffusion has it (Dhariwal and Nichol 2021, arXiv 2105.05233), in both orders."""
    b, c, h, w = x.shape
    heads, each = 2, c // 2
    qkv = n.deep(n.groups(x.reshape(b, c, -1)))
    if heads_first:
        q, k, v = qkv.reshape(b * heads, 3 * each, h * w).split(each, 1)
    else:
        q, k, v = (part.reshape(b * heads, each, h * w) for part in qkv.chunk(3, 1))
    scale = each**-0.25
    shares = torch.einsum("bct,bcs->bts", q * scale, k * scale).float().softmax(-1)
    seen = torch.einsum("bts,bcs->bct", shares.type(v.dtype), v).reshape(b, c, -1)
    drawn: Tensor = x.reshape(b, c, -1) + seen
    return drawn.reshape(b, c, h, w)


def _biased(n: _Own, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = (t.reshape(b, 3, c // 3, h * w).mT for t in n.all(x).chunk(3, 1))
    places = torch.arange(h * w)
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=n.heat[:1] * (places % 3 - 1))
    nearby = (places - places[:, None]).abs() < 2 * w
    seen = seen + F.scaled_dot_product_attention(k, q, v, attn_mask=nearby)
    return x + seen.mT.reshape(b, c, h, w)


def _by_learnt(n: _Own, x: Tensor) -> Tensor:
    seen = n.out.weight[:, :, 0, 0] @ x.flatten(2) + (x.flatten(2).mT @ n.lines.weight[:12]).mT
    return seen.view_as(x)


def _heads(x: Tensor) -> Tensor:
    """Return tokens (1, N, 12) as (1, 3, N, 4)."""
    return x.view(1, -1, 3, 4).transpose(1, 2)


def _asked(n: _Own, x: Tensor) -> Tensor:
    """Learnt queries gather what they look for, and all places what these have."""
    tokens = x.flatten(2).transpose(1, 2)
    places = _heads(tokens)
    found = F.scaled_dot_product_attention(_heads(n.lines.weight), places, places)
    one = F.scaled_dot_product_attention(n.lines.weight[None], tokens, tokens)
    whole = _heads(found.transpose(1, 2).reshape(1, 36, 12) + one + n.lines.weight)
    seen = F.scaled_dot_product_attention(places, whole, whole)
    return x + seen.transpose(1, 2).reshape(1, -1, 12).mT.reshape(x.shape)


def _remembered(n: _Own, x: Tensor) -> Tensor:
    """Keys and values of each head are learnt."""
    tokens, learnt = x.flatten(2).transpose(1, 2), n.lines.weight.view(3, 36, 4)
    seen = (_heads(tokens) @ learnt.mT).softmax(-1) @ learnt.tanh()
    return x + seen.transpose(1, 2).reshape(1, -1, 12).mT.reshape(x.shape)


def _added(n: _Own, x: Tensor) -> Tensor:
    """Products, and what is added to them, are one operator of torch's."""
    places, learnt = x.flatten(2)[0], n.out.weight.flatten(1)
    shift, plane = n.all.weight.view(3, 12, 12)[0, 0], n.lines.weight.view(3, 12, 12)
    keys = (
        torch.addmm(shift, places.T, learnt.mT) - torch.addmm(learnt[:1], places.mT, learnt).relu()
    )
    values = torch.addmm(shift[:, None], learnt, places, beta=0.5, alpha=0.3).view(3, 4, -1)
    heads = keys.mT.reshape(3, 4, -1)
    scores = torch.baddbmm(torch.empty(3, 4, 4), heads, heads.mT, beta=0, alpha=0.1)
    scores = torch.baddbmm(plane[:, :4, :4], scores.softmax(-1), scores, beta=2)
    return x + (scores.softmax(-1) @ values).view(x.shape)


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "added": _added,
    "places": _of_places,
    "pooled places": _of_pooled_places,
    "channels": _of_channels,
    "heads": _of_heads,
    "tokens": _of_tokens,
    "cosines": _of_cosines(1),
    "cosines of heads": _of_cosines(3),
    "signs": _of_cosines(12),  # which norms of one number leave
    "context": _of_context,
    "letters": _in_letters,
    "guided": _guided,
    "guided, heads last": functools.partial(_guided, heads_first=False),
    "biased": _biased,
    "by learnt": _by_learnt,
    "asked": _asked,
    "remembered": _remembered,
    "outer": lambda _, x: torch.einsum("bch,bcw->bchw", x.mean(3), x.mean(2)),
    "softmax": lambda n, x: x * F.softmax(n.all(x)[:, :12], dim=1),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network = _Own(_WHAT[name]).eval()
    # As many places as channels too, where rows pass for columns; and one place.
    sizes = [(24, 32), (16, 16), (8, 24), *([] if name == "pooled places" else [(4, 4)])]
    for height, width in sizes:
        picture = smooth_picture(height, width)
        graph = capture(network, height, width)
        assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
        for runtime in Runtime:
            assert difference(graph, lower(graph, runtime)[0]) < 3e-6


@pytest.mark.parametrize(
    "name", ["places", "channels", "tokens", "context", "letters", "guided", "asked", "added"]
)
@pytest.mark.parametrize(("runtime", "dtype"), list(product(Runtime, _LEAST_DB)))
def test_attention_is_one_part_in_float(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), pictures)
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert whole
    assert least >= _LEAST_DB[dtype]


@pytest.mark.parametrize(
    ("name", "products"),
    [
        # Of 80 places: 3 channels for the scores of each pair, 12 for what is seen.
        ("places", 80 * 80 * (3 + 12)),
        # Of 20 keys and values each, of 3 and 12 channels.
        ("pooled places", 80 * 20 * (3 + 12)),
        # Two heads of 6 channels by 6, of all places, there and back.
        ("channels", 2 * 2 * 6 * 6 * 80),
        ("heads", 2 * 3 * 80 * 80 * 4),
    ],
)
def test_products_of_attention_count_among_the_multiply_adds(name: str, products: int) -> None:
    graph = capture(_Own(_WHAT[name]).eval(), 32, 40)
    made = [node for node in graph.nodes if node.op.kind == "matmul"]
    for published in (False, True):
        each = sum(node_macs(graph, node, published=published) for node in made)
        convolutions = sum(
            node_macs(graph, node, published=published)
            for node in graph.nodes
            if isinstance(node.op, ops.Conv2d | ops.ConvTranspose2d)
        )
        assert each == products
        assert graph_macs(graph, published=published) == convolutions + products


@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [(Runtime.TFLITE, DType.INT8_FULL), (Runtime.ONNX, DType.A16W8)],
)
def test_attention_in_integers_is_refused_with_the_way_out(
    runtime: Runtime, dtype: DType, pictures: Pictures
) -> None:
    network = _Own(_of_places).eval()
    with pytest.raises(ConversionFailed, match=r"matmul, which computes in no integers.*int8"):
        build(capture(network, 40, 48), runtime, dtype, own_subject(network), pictures)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda _, x: F.softmax(x[..., torch.tensor([4, 1, 3, 0, 2, 5])], 3), "no whole axes"),
        (
            lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
            "a mask that is not learnt",
        ),
        (lambda _, x: x + torch.addmm(x[0, 0], x[0, 0], torch.ones(6, 6)), "add it apart, by +"),
        (lambda _, x: torch.ones(5, 12, 4, 4) @ x, "unlike numbers of matrices"),
        (lambda _, x: torch.einsum("bchw->bcwh", x), "only two tensors, a letter an axis"),
        (lambda _, x: torch.einsum("bchw,bcwk->bch", x, x.mT)[..., None], "sums over one tensor"),
    ],
)
def test_what_is_no_attention_of_one_picture_says_why(
    what: Callable[[_Own, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Own(what), 16, 24)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def _of_one_head(n: _Own, x: Tensor) -> Tensor:
    flat = n.value(x).flatten(2)
    shares = (flat @ n.out(x).flatten(2).mT).softmax(-1)
    drawn: Tensor = x + (shares @ flat).view_as(x)
    return drawn


def test_an_onnx_product_reads_a_matrix_either_way() -> None:
    network, picture = _Own(_of_one_head).eval(), smooth_picture(32, 40)
    graph, _ = lower(capture(network, 32, 40), Runtime.ONNX)
    data = emit_onnx(graph, DType.FP32, {})
    assert np.abs(run_onnx(data, picture) - run_torch(network, picture)).max() < 3e-6
    written = {output for node in onnx.load_from_string(data).graph.node for output in node.output}
    turned = [node.output for node in graph.nodes if node.op.kind == "turn"]
    assert turned
    assert not written.intersection(turned)


@pytest.mark.parametrize(("name", "products"), [("channels", 2), ("heads", 2), ("tokens", 2)])
def test_heads_are_computed_at_once_and_places_scaled_before(name: str, products: int) -> None:
    graph = capture(_Own(_WHAT[name]).eval(), 32, 40)
    assert graph.count()["matmul"] == products
    if name != "channels":  # which scales by a number a head
        (shares,) = (node.inputs[0] for node in graph.nodes if node.op.kind == "softmax")
        assert [n.op.kind for n in graph.nodes if n.output == shares] == ["matmul"]
