"""Layers with many weights or channels: read once, filtered in small tiles, not joined."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.export import operators as ops
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.joined_inputs import SumJoinedInputs
from coronet_deploy.export.passes.large_weights import SplitLargeWeights
from coronet_deploy.export.passes.minimal_filter import F22, F32
from coronet_deploy.export.passes.relu import FuseRelu
from coronet_deploy.export.passes.subpixel import SubpixelConvolution
from coronet_deploy.export.passes.tiling import choose_tiling
from coronet_deploy.export.passes.winograd import Winograd
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, is_one_partition, run_tflite, run_torch, smooth_picture

_ROUNDING = 3e-6  # of float32 constants, relative to values around 1
_BYTES = 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


def _kernels(graph: Graph) -> list[tuple[int, ...]]:
    return [graph.shapes[node.inputs[1]] for node in graph.nodes if isinstance(node.op, ops.Conv2d)]


@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(512, 512, False), (700, 210, True)])
def test_parts_of_large_weights_draw_the_same_bits(inputs: int, outputs: int, bias: bool) -> None:
    layer = nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias), nn.ReLU()).eval()
    before = FuseRelu().run(capture(layer, 16, 16, inputs))
    after = SplitLargeWeights().run(before)
    assert difference(before, after) < 1e-12
    kernels = _kernels(after)
    assert len(kernels) > 3
    assert sum(kernel[0] for kernel in kernels) == outputs
    assert all(kernel[0] % 16 == 0 for kernel in kernels[:-1])  # whole registers
    assert all(_BYTES * np.prod(kernel) <= 2 << 20 for kernel in kernels)
    picture = smooth_picture(16, 16, inputs)
    files = [emit_tflite(graph, DType.FP32, {}) for graph in (before, after)]
    assert all(is_one_partition(data) for data in files)
    whole, parts = (run_tflite(data, picture) for data in files)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize(
    ("inputs", "outputs", "size"),
    # Weights of 4 MiB that stay, and more that a few pixels read once.
    [(256, 256, 32), (1024, 512, 4)],
)
def test_weights_that_are_read_once_stay_whole(inputs: int, outputs: int, size: int) -> None:
    before = capture(nn.Conv2d(inputs, outputs, 4, 2, 1), size, size, inputs)
    assert SplitLargeWeights().run(before).nodes == before.nodes


def test_a_whole_file_holds_the_parts_and_integer_files_do_not() -> None:
    graph = capture(nn.Conv2d(512, 512, 4, 2, 1), 16, 16, 512)
    whole, _ = lower(graph, Runtime.TFLITE)
    integer, _ = lower(graph, Runtime.TFLITE, integer=True)
    onnx, _ = lower(graph, Runtime.ONNX)
    assert [len(_kernels(each)) for each in (whole, integer, onnx)] == [8, 1, 1]


@given(
    size=st.tuples(st.sampled_from([16, 18, 20]), st.sampled_from([16, 20])),
    padding=st.integers(0, 1),
    bias=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_small_tiles_draw_the_same(size: tuple[int, int], padding: int, bias: bool) -> None:
    height, width = (2 * (lines + 1 - padding) for lines in size)
    strided = nn.Conv2d(130, 160, 4, 2, padding, bias=bias)
    halves = nn.ConvTranspose2d(66, 68, 2, 1, 1 - padding, bias=bias)
    for layer, channels, lines in ((strided, 130, (height, width)), (halves, 66, size)):
        before = FuseRelu().run(capture(nn.Sequential(layer, nn.ReLU()), *lines, channels))
        after = Winograd().run(SubpixelConvolution(winograd=True).run(before))
        assert difference(before, after) < _ROUNDING
        if layer is strided:
            assert after.count()["conv2d"] == F22.products**2


def test_small_tiles_are_chosen_where_large_ones_are_few_or_do_not_fit() -> None:
    def chosen(height: int, width: int, channels: int = 256) -> object:
        tiling = choose_tiling(2, channels, channels, height, width)
        return tiling and tiling.filter

    assert chosen(16, 16) == F22  # 36 tiles of 3x3, a tenth of whose pixels are over
    assert chosen(33, 33) == chosen(64, 64) == F32
    assert chosen(8, 8) is None
    assert chosen(16, 16, channels=40) is None


def test_narrow_layers_of_stride_2_are_not_filtered_in_small_tiles() -> None:
    before = capture(nn.Conv2d(72, 160, 4, 2, 1), 32, 32, 72)
    assert Winograd().run(before).nodes == before.nodes
    wide = capture(nn.Conv2d(128, 160, 4, 2, 1), 32, 32, 128)
    assert Winograd().run(wide).count()["conv2d"] == F22.products**2


@pytest.mark.parametrize(
    ("inputs", "outputs", "convolutions"),
    [(1024, 256, 4 * F22.products**2), (360, 64, F32.products**2)],
)
def test_many_weights_are_stored_for_the_phases_apart(
    inputs: int, outputs: int, convolutions: int
) -> None:
    layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    before = capture(layer, 16, 16, inputs)
    after = Winograd().run(SubpixelConvolution(winograd=True).run(before))
    assert after.count()["conv2d"] == convolutions
    assert difference(before, after) < _ROUNDING


class _Joins(nn.Module):
    """A convolution of a picture beside what another made of it."""

    def __init__(self, inputs: int, outputs: int, *, twice: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 1)
        self.last = nn.ConvTranspose2d(2 * inputs, outputs, 4, 2, 1)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        joined = F.relu(torch.cat([x, self.first(x)], 1))
        y = cast("Tensor", self.last(joined))
        return y + joined.mean() if self.twice else y


def test_a_convolution_to_few_channels_copies_none_to_lie_side_by_side() -> None:
    network = _Joins(20, 3).eval()
    graph = capture(network, 32, 32, 20)
    whole, reports = lower(graph, Runtime.TFLITE)
    assert next(r for r in reports if r.name == "sum_joined_inputs").changed
    assert "concat" not in whole.count()
    picture = smooth_picture(32, 32, 20)
    drawn = run_tflite(emit_tflite(whole, DType.FP32, {}), picture)
    assert np.abs(drawn - run_torch(network, picture)).max() < 1e-5


class _Learnt(nn.Module):
    """A convolution of a picture beside learnt channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 1)
        self.learnt = nn.Parameter(torch.rand(1, inputs, 32, 32))
        self.last = nn.Conv2d(2 * inputs, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.last(torch.cat([self.first(x), self.learnt], 1)))


@pytest.mark.parametrize(
    "network",
    [_Joins(8, 3), _Joins(20, 3, twice=True), _Learnt(20)],
    ids=["many outputs", "read elsewhere", "learnt"],
)
def test_values_that_are_worth_joining_stay_so(network: nn.Module) -> None:
    channels = cast("nn.Conv2d", network.get_submodule("first")).in_channels
    graph = capture(network.eval(), 32, 32, channels)
    before = SubpixelConvolution(winograd=False).run(graph)
    assert SumJoinedInputs().run(before).nodes == before.nodes
