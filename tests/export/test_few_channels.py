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
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.columns import SumColumns
from coronet_deploy.export.passes.relu import FuseRelu
from coronet_deploy.export.passes.stem import PairInputs
from coronet_deploy.export.passes.tail import PairPixels, QuadPixels
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, run_onnx, run_tflite, run_torch, smooth_picture


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
    for height, width, rows in ((17, 20, 7), (16, 21, 7), (16, 20, 3)):
        unsuited = capture(nn.Conv2d(6, 3, (rows, 7)), height, width, 6)
        assert QuadPixels().run(unsuited).nodes == unsuited.nodes


@pytest.mark.parametrize(("outputs", "filled"), [(1, 4), (2, 8), (3, 16), (4, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_four_pixels_in_colour_fill_a_kernels_registers(
    outputs: int, filled: int, bias: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(6, outputs, 7, bias=bias), nn.ReLU()).eval()
    before = FuseRelu().run(capture(network, 16, 20, 6))
    after = QuadPixels(fill=True).run(before)
    _, _, weights = _first_convolution(after)
    assert weights == (filled, 8, 4, 12)
    assert difference(before, after) < 1e-12
    assert ("depth_to_space" in after.count()) is (filled == 4 * outputs)
    picture = smooth_picture(16, 20, 6)
    plain, squares = (
        run_tflite(emit_tflite(QuadPixels(fill=fill).run(before), DType.FP32, {}), picture)
        for fill in (False, True)
    )
    assert np.array_equal(plain, squares)


def test_float_files_fill_registers_and_integer_files_do_not() -> None:
    graph = capture(nn.Conv2d(6, 3, 7), 16, 20, 6)
    whole, half = (lower(graph, Runtime.TFLITE, half=half)[0] for half in (False, True))
    integer, _ = lower(graph, Runtime.TFLITE, integer=True)
    onnx, _ = lower(graph, Runtime.ONNX)
    kernels = [_first_convolution(each)[2][0] for each in (whole, half, integer, onnx)]
    assert kernels == [16, 16, 12, 12]


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


@pytest.mark.parametrize("outputs", [1, 3, 4])
@pytest.mark.parametrize("kernel", [5, (6, 5), 7, (5, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_tail_sums_columns(outputs: int, kernel: int | tuple[int, int], bias: bool) -> None:
    before = capture(nn.Conv2d(26, outputs, kernel, bias=bias), 15, 20, 26)
    after = SumColumns().run(before)
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    layers = [after.shapes[n.inputs[1]] for n in after.nodes if isinstance(n.op, ops.Conv2d)]
    assert layers == [
        (columns * outputs, rows, 1, 26),
        (2 * outputs, 1, (columns + 1) // 2, 2 * columns * outputs),
    ]
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize("kernel", [5, 6, 7])
def test_a_wide_tail_sums_columns_in_planes_of_channels(kernel: int) -> None:
    before = capture(nn.Conv2d(26, 3, kernel), 15, 21, 26)
    after = SumColumns(pairs=False).run(before)
    layers = [after.shapes[n.inputs[1]] for n in after.nodes if isinstance(n.op, ops.Conv2d)]
    idle = {5: 16, 6: 24, 7: 24}[kernel]  # whole blocks of eight
    assert layers == [(idle, kernel, 1, 26), (3, 1, kernel, idle)]
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize(
    ("layer", "channels", "width"),
    [
        (nn.Conv2d(16, 3, 7), 16, 20),  # the sums cost what the products save
        (nn.Conv2d(26, 5, 7), 26, 20),
        (nn.Conv2d(26, 3, 3), 26, 20),
        (nn.Conv2d(26, 3, 7, padding=3), 26, 20),
        (nn.Conv2d(26, 3, 7, stride=2), 26, 20),
        (nn.Conv2d(26, 3, 7), 26, 21),  # an odd width has no pairs
        (nn.Conv2d(26, 3, 6), 26, 21),
    ],
)
def test_a_tail_that_columns_do_not_suit_stays(layer: nn.Conv2d, channels: int, width: int) -> None:
    before = capture(layer, 15, width, channels)
    assert SumColumns().run(before).nodes == before.nodes


@pytest.mark.parametrize("runtime", list(Runtime))
def test_summed_columns_in_the_runtimes(runtime: Runtime) -> None:
    network = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(26, 3, 7), nn.Tanh()).eval()
    graph = capture(network, 24, 20, 26)
    lowered, reports = lower(graph, runtime)
    assert "sum_columns" in [report.name for report in reports if report.changed]
    picture = smooth_picture(24, 20, 26)
    if runtime is Runtime.TFLITE:
        drawn = run_tflite(emit_tflite(lowered, DType.FP32, {}), picture)
    else:
        drawn = run_onnx(emit_onnx(lowered, DType.FP32, {}), picture)
    assert psnr_db(run_torch(network, picture), drawn) > 110
    for integer in (True, False):  # eight bits, or 16, round what is summed
        _, reports = lower(graph, runtime, integer=integer, half=not integer)
        assert "sum_columns" not in [report.name for report in reports if report.changed]
