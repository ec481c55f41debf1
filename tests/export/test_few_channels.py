"""Stems and tails, of very few channels, take several pixels as one: the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.export import operators as ops
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes.stem import PairInputs
from coronet_deploy.export.passes.tail import PairPixels, QuadPixels
from coronet_deploy.vocabulary import DType
from lowering import difference, run_onnx


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


def _first_convolution(graph: Graph) -> tuple[ops.Conv2d, ops.Shape, ops.Shape]:
    """Return the operator, and the shapes of what it reads and of its weights."""
    node = next(node for node in graph.nodes if isinstance(node.op, ops.Conv2d))
    assert isinstance(node.op, ops.Conv2d)
    return node.op, graph.shapes[node.inputs[0]], graph.shapes[node.inputs[1]]


def test_a_narrow_tail_computes_two_pixels_at_once() -> None:
    before = capture(nn.Conv2d(6, 3, 7), 16, 20, 6)
    after = PairPixels().run(before)
    convolution, read, kernel = _first_convolution(after)
    assert (convolution.stride, read, kernel) == ((1, 1), (1, 16, 10, 12), (6, 7, 4, 12))
    assert difference(before, after) < 1e-12
    odd = capture(nn.Conv2d(6, 3, 7), 16, 21, 6)
    assert PairPixels().run(odd).nodes == odd.nodes


def test_a_narrow_tail_computes_four_pixels_at_once() -> None:
    before = capture(nn.Conv2d(6, 3, 7), 16, 20, 6)
    after = QuadPixels().run(before)
    convolution, read, kernel = _first_convolution(after)
    assert (convolution.stride, read, kernel) == ((2, 1), (1, 16, 10, 12), (12, 8, 4, 12))
    assert difference(before, after) < 1e-12
    for height, width in ((17, 20), (16, 21)):
        odd = capture(nn.Conv2d(6, 3, 7), height, width, 6)
        assert QuadPixels().run(odd).nodes == odd.nodes


@pytest.mark.parametrize("outputs", [1, 3, 4])
@pytest.mark.parametrize("kernel", [5, (6, 5), 7, 9])
def test_four_pixels_at_once_in_planes_of_channels(
    outputs: int, kernel: int | tuple[int, int]
) -> None:
    before = capture(nn.Conv2d(6, outputs, kernel), 18, 20, 6)
    after = QuadPixels(join_inputs=False).run(before)
    if isinstance(kernel, tuple):  # an odd height of the result
        assert after.nodes == before.nodes
        return
    convolution, read, weights = _first_convolution(after)
    assert (convolution.stride, read) == ((2, 2), (1, 18, 20, 6))
    assert weights == (4 * outputs, kernel + 1, kernel + 1, 6)
    assert difference(before, after) < 1e-12
    picture = np.random.default_rng(0).uniform(-1, 1, (1, 18, 20, 6)).astype(np.float32)
    plain, squares = (run_onnx(emit_onnx(g, DType.FP32, {}), picture) for g in (before, after))
    np.testing.assert_allclose(squares, plain, rtol=0, atol=1e-5)


class _ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.cropped = nn.Conv2d(6, 3, 7), nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.wide(x) + self.cropped(x[:, :, 3:-3, 3:-3])
        return y


@pytest.mark.parametrize(
    ("network", "height", "width", "kernel"),
    [
        (nn.Conv2d(6, 3, 6), 17, 21, (12, 7, 7, 6)),  # an odd width, of kernel and picture
        (_ReadTwice(), 16, 20, (12, 8, 8, 6)),  # a reshape that several read is a copy
    ],
)
def test_pixels_at_once_that_read_the_picture_pixel_by_pixel(
    network: nn.Module, height: int, width: int, kernel: ops.Shape
) -> None:
    before = capture(network.eval(), height, width, 6)
    after = QuadPixels().run(before)
    convolution, read, weights = _first_convolution(after)
    assert (convolution.stride, read, weights) == ((2, 2), (1, height, width, 6), kernel)
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize("kernel", [5, 7, (3, 7), 9])
@pytest.mark.parametrize("bias", [True, False])
def test_a_stem_reads_two_pixels_as_one(kernel: int | tuple[int, int], bias: bool) -> None:
    before = capture(nn.Conv2d(3, 8, kernel, bias=bias), 16, 20)
    after = PairInputs().run(before)
    convolution = next(node for node in after.nodes if isinstance(node.op, ops.Conv2d))
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    assert after.shapes[convolution.inputs[1]] == (16, rows, (columns + 1) // 2, 6)
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3),  # a small kernel
        nn.Conv2d(3, 8, 7, padding=3),
        nn.Conv2d(3, 8, 7, stride=2),
        nn.Conv2d(3, 12, 7),  # outputs that twice as many would not suit
        nn.Conv2d(3, 8, 6),  # an odd result of an even picture
    ],
)
def test_a_stem_that_pairs_do_not_suit_stays(layer: nn.Conv2d) -> None:
    before = capture(layer, 16, 20)
    assert PairInputs().run(before).nodes == before.nodes


def test_a_stem_of_odd_width_stays() -> None:
    before = capture(nn.Conv2d(3, 8, 7), 16, 21)
    assert PairInputs().run(before).nodes == before.nodes
