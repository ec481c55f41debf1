"""Pooling by the mean and by the maximum, as torch allows it, in both runtimes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import build, emit
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    is_one_partition,
    own_subject,
    run_onnx,
    run_tflite,
    run_torch,
    smooth_picture,
)

pytestmark = pytest.mark.usefixtures("one_thread")

_TWO = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    kernel=_TWO,
    stride=_TWO,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    kind=st.sampled_from(["max", "mean", "mean of the picture"]),
    ceil_mode=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_windows_are_those_of_torch(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    kind: str,
    *,
    ceil_mode: bool,
) -> None:
    padding = min(padding[0], kernel[0] // 2), min(padding[1], kernel[1] // 2)
    layer: nn.Module = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
    if kind != "max":
        whole = kind == "mean"
        layer = nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad=whole)
    picture = smooth_picture(*size)
    network = nn.Sequential(layer, nn.ReLU())
    expected = run_torch(network, picture)
    assume(expected.size)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        graph, _ = lower(capture(network, *size), runtime)
        data = emit(graph, runtime, DType.FP32, {})
        drawn = run(data, picture)
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).max() < 1e-6
        assert runtime is Runtime.ONNX or is_one_partition(data)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_zeros_around_a_picture_count_among_what_the_largest_is_of(
    layer: nn.Module, dtype: DType
) -> None:
    torch.manual_seed(0)
    zeros = nn.ZeroPad2d((1, 2, 0, 1))
    # All of the picture is below 0.
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardtanh(-4, -1), zeros, layer)
    picture = smooth_picture(15, 18)
    expected = run_torch(network, picture)
    assert expected.max() == 0
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        graph, _ = lower(capture(network, 15, 18), runtime, half=dtype is DType.FP16)
        drawn = run(emit(graph, runtime, dtype, {}), picture)
        assert np.abs(drawn - expected).max() < 2e-3


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MaxPool2d(2, dilation=2), "dilation [2, 2]"),
    ],
    ids=str,
)
def test_windows_that_cannot_be_had_say_why(layer: nn.Module, reason: str) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(layer, 16, 16)
    assert reason in str(caught.value)


class _Pooled(nn.Module):
    """A U-Net of two levels, as those are who go down by pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.down, self.blurred = nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2)
        self.last = nn.Conv2d(19, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(self.down(first)))
        mean = nn.functional.interpolate(self.blurred(x), scale_factor=2)
        drawn: Tensor = self.last(torch.cat([first, self.up(second), mean], 1))
        return drawn.tanh()


_LEAST_DB = {DType.FP32: 110, DType.FP16: 70, DType.INT8: 40, DType.INT8_FULL: 40}


@pytest.mark.parametrize(("runtime", "dtype"), [*product(Runtime, _LEAST_DB)])
def test_every_number_type_draws_a_pooled_picture(
    runtime: Runtime, dtype: DType, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = _Pooled().eval()
    pictures = Pictures(("a", "b"), tuple(smooth_picture(32, 48, seed=i) for i in (1, 2)))
    built = build(capture(network, 32, 48), runtime, dtype, own_subject(network), pictures)
    path = tmp_path / f"pooled{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, 1) as session:
        assert dtype is DType.INT8_FULL or session.partitions.fully_accelerated
        for picture in pictures.values:
            assert psnr_db(run_torch(network, picture), session.run(picture)) >= _LEAST_DB[dtype]
