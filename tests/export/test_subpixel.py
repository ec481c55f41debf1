"""Transposed convolutions as plain ones: the same picture, in few operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.relu import FuseRelu
from coronet_deploy.export.passes.subpixel import SubpixelConvolution
from coronet_deploy.export.passes.winograd import Winograd
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, is_one_partition, run_tflite, run_torch, smooth_picture

_ROUNDING = 3e-6  # of float32 constants, relative to values around 1


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 1),
    stride=st.integers(2, 3),
    outputs=st.sampled_from([1, 8, 40]),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
)
@settings(max_examples=60, deadline=None)
def test_transposed_convolutions_of_any_kernel_padding_and_output_padding(
    kernel: tuple[int, int],
    padding: int,
    output_padding: int,
    stride: int,
    outputs: int,
    size: tuple[int, int],
) -> None:
    layer = nn.ConvTranspose2d(3, outputs, kernel, stride, padding, output_padding)
    before = capture(nn.Sequential(layer, nn.ReLU()), *size)
    after = SubpixelConvolution(winograd=True).run(FuseRelu().run(before))
    assert "conv_transpose2d" not in after.count()
    assert difference(before, after) < 1e-12


@given(inputs=st.integers(90, 100), size=st.tuples(st.integers(5, 14), st.integers(5, 14)))
@settings(max_examples=10, deadline=None)
def test_winograd_of_the_phases_of_a_transposed_convolution(
    inputs: int, size: tuple[int, int]
) -> None:
    before = capture(nn.ConvTranspose2d(inputs, 30, 4, 2, 1), *size, inputs)
    after = Winograd().run(SubpixelConvolution(winograd=True).run(before))
    assert difference(before, after) < _ROUNDING


@given(
    kernel=st.integers(2, 7),
    padding=st.integers(0, 3),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    outputs=st.sampled_from([1, 3, 8]),
    integer=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_phases_together_are_neighbouring_pixels(
    kernel: int, padding: int, stride: tuple[int, int], outputs: int, integer: bool
) -> None:
    layer = nn.ConvTranspose2d(5, outputs, kernel, stride, min(padding, kernel - 1))
    before = capture(layer, 9, 7, 5)
    after = SubpixelConvolution(winograd=False, integer=integer).run(before)
    assert "conv_transpose2d" not in after.count()
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize(
    ("inputs", "outputs", "size"),
    [(80, 24, 64), (136, 40, 32), (360, 64, 16), (40, 3, 128), (32, 16, 64)],
)
def test_a_wide_picture_is_made_of_cells_without_a_copy_on_the_way(
    inputs: int, outputs: int, size: int
) -> None:
    layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    graph, _ = lower(capture(nn.Sequential(layer, nn.ReLU()), size, size, inputs), Runtime.TFLITE)
    kinds = graph.count()
    assert (kinds["depth_to_space"], kinds["slice"]) == (1, 1)  # the cells, and their frame
    multiplied = "depthwise_conv2d" in kinds
    assert ("zero_pad" in kinds) is not multiplied  # Winograd's windows take zeros into themselves
    assert ("concat" in kinds) is multiplied  # of its tiles
    picture = smooth_picture(size, size, inputs)
    data = emit_tflite(graph, DType.FP32, {})
    assert is_one_partition(data)
    drawn = run_tflite(data, picture)
    assert np.abs(drawn - run_torch(nn.Sequential(layer, nn.ReLU()), picture)).max() < 1e-5


def test_small_pictures_and_integers_keep_their_phases_apart() -> None:
    small, _ = lower(capture(nn.ConvTranspose2d(32, 16, 4, 2, 1), 8, 8, 32), Runtime.TFLITE)
    wide = capture(nn.ConvTranspose2d(32, 16, 4, 2, 1), 64, 64, 32)
    integer, _ = lower(wide, Runtime.TFLITE, integer=True)
    for graph in (small, integer):
        assert graph.count()["conv2d"] == 4
        assert "depth_to_space" not in graph.count()


@pytest.mark.parametrize("integer", [False, True], ids=["float", "integer"])
@pytest.mark.parametrize("runtime", Runtime)
def test_a_stride_of_one_leaves_a_convolution_and_nothing_to_interleave(
    runtime: Runtime, integer: bool
) -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    before = capture(network, 12, 20)
    after, _ = lower(before, runtime, integer=integer)
    assert not {"depth_to_space", "reshape", "concat"} & set(after.count())
    assert difference(before, after) < _ROUNDING
    if runtime is Runtime.TFLITE:
        assert is_one_partition(emit_tflite(after, DType.FP32, {}))
