"""Activation functions in the real runtimes, far from 0 too, and in every number type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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


def _sloping() -> nn.Module:
    layer = nn.PReLU(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.3, -0.5, 0.0]))
    return layer


_LAYERS = {
    "prelu": _sloping(),
    "elu": nn.ELU(),
    "elu half": nn.ELU(0.5),
    "selu": nn.SELU(),
    "celu": nn.CELU(2.0),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
    "mish": nn.Mish(),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(),
    "hardtanh to 1": nn.Hardtanh(0.0, 1.0),
    "hardtanh of its own": nn.Hardtanh(-0.3, 0.4),
}


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize("name", _LAYERS)
def test_runtimes_compute_them_as_torch_does(name: str, times: int) -> None:
    network, picture = _LAYERS[name].eval(), times * smooth_picture(32, 48)
    expected = run_torch(network, picture)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        graph, _ = lower(capture(network, 32, 48), runtime)
        data = emit(graph, runtime, DType.FP32, {})
        assert np.abs(run(data, picture) - expected).max() < 1e-6 * times
        assert runtime is Runtime.ONNX or is_one_partition(data)


def test_slopes_of_channels_are_one_operator() -> None:
    graph, _ = lower(capture(nn.Sequential(nn.Conv2d(3, 3, 1), _sloping()), 8, 8), Runtime.TFLITE)
    assert graph.count() == {"conv2d": 1, "prelu": 1}


@pytest.mark.parametrize("runtime", Runtime)
def test_a_hard_swish_is_one_operator(runtime: Runtime) -> None:
    # Of seven, ONNX Runtime's took 1.6 times as long: it fuses the one into the convolution.
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardswish())
    graph, _ = lower(capture(network, 8, 8), runtime)
    assert graph.count() == {"conv2d": 1, "hard_swish": 1}


@pytest.mark.parametrize("layer", [nn.ReLU6(), nn.Hardtanh()])
@pytest.mark.parametrize("runtime", Runtime)
def test_a_clamp_is_one_operator(layer: nn.Module, runtime: Runtime) -> None:
    graph, _ = lower(capture(nn.Sequential(nn.Conv2d(3, 3, 1), layer), 8, 8), runtime)
    assert graph.count() == {"conv2d": 1, "clamp": 1}


@pytest.mark.parametrize(("low", "high"), [(-0.2, None), (None, 0.1), (-1e9, 0.1), (-0.2, 1e9)])
@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_ends_that_are_missing_or_beyond_float16_clamp_nothing(
    low: float | None, high: float | None, dtype: DType
) -> None:
    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(low, high)

    picture = smooth_picture(16, 16)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        graph, _ = lower(capture(Clamped(), 16, 16), runtime)
        drawn = run(emit(graph, runtime, dtype, {}), picture)
        assert np.abs(drawn - run_torch(Clamped(), picture)).max() < 1e-3


_LEAST_DB = {
    DType.FP16: 70,
    DType.INT8: 45,
    DType.INT8_FULL: 40,
    DType.INT16X8: 50,
    DType.A16W8: 50,
}


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize("name", ["prelu", "elu", "selu", "gelu", "mish"])
def test_every_number_type_draws_them(runtime: Runtime, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), _LAYERS[name], nn.Conv2d(3, 3, 3, 1, 1))
    network = nn.Sequential(network, nn.Tanh()).eval()
    pictures = Pictures(("a", "b"), tuple(smooth_picture(32, 48, seed=i) for i in (1, 2)))
    graph, path = capture(network, 32, 48), tmp_path / f"own{runtime.suffix}"
    other = DType.A16W8 if runtime is Runtime.TFLITE else DType.INT16X8
    for dtype in _LEAST_DB.keys() - {other}:
        path.write_bytes(build(graph, runtime, dtype, own_subject(network), pictures).data)
        with open_session(path, runtime, 1) as session:
            for picture in pictures.values:
                drawn = psnr_db(run_torch(network, picture), session.run(picture))
                assert drawn >= _LEAST_DB[dtype], dtype
