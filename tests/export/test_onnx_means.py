"""Means over the channels of many pixels, in ONNX: a product, as exact as the sum."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import DType, Runtime
from lowering import run_onnx, run_torch, smooth_picture


class _Weighed(nn.Module):
    """Normalises each channel by hand, whose numbers lie far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x) + 10
        centred = y - y.mean((2, 3), keepdim=True)
        square = (centred * centred).mean((2, 3), keepdim=True)
        normed: Tensor = centred / torch.sqrt(square + 1e-5)
        return normed


class _Normed(nn.Module):
    """Normalises each pixel's channels, which lie far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 24, 1)
        self.norm = nn.LayerNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        lines = (self.enter(x) + 10).permute(0, 2, 3, 1)
        normed: Tensor = self.norm(lines)
        return normed.permute(0, 3, 1, 2)


def _kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize(("height", "width"), [(1, 2), (17, 24)])
def test_they_are_products_of_what_torch_draws(height: int, width: int) -> None:
    torch.manual_seed(0)
    network = _Normed().eval()
    graph, _ = lower(capture(network, height, width), Runtime.ONNX)
    data, picture = emit_onnx(graph, DType.FP32, {}), smooth_picture(height, width)
    assert _kinds(data).count("MatMul") == 2
    assert "ReduceMean" not in _kinds(data)
    drawn, expected = run_onnx(data, picture), run_torch(network, picture)
    assert psnr_db(expected, drawn) > 115


def test_float16_and_single_pixels_keep_the_sum() -> None:
    # A share of 1/24 in float16 is off by 6e-5 of itself, and so would every mean be.
    graph, _ = lower(capture(_Normed().eval(), 8, 8), Runtime.ONNX)
    assert "MatMul" not in _kinds(emit_onnx(graph, DType.FP16, {}))
    graph, _ = lower(capture(_Normed().eval(), 1, 1), Runtime.ONNX)
    assert "MatMul" not in _kinds(emit_onnx(graph, DType.FP32, {}))


@pytest.mark.parametrize(
    ("height", "width", "stages"),
    [(40, 64, 2), (24, 5, 1), (131, 4, 2), (131, 67, 2), (128, 128, 2)],
)
def test_means_of_planes_are_means_of_few_numbers_each(
    height: int, width: int, stages: int
) -> None:
    torch.manual_seed(0)
    network = _Weighed().eval()
    graph, _ = lower(capture(network, height, width), Runtime.ONNX)
    data, picture = emit_onnx(graph, DType.FP32, {}), smooth_picture(height, width)
    assert _kinds(data).count("ReduceMean") == 2 * stages
    drawn, expected = run_onnx(data, picture), run_torch(network.double(), picture.astype(float))
    assert psnr_db(expected.astype(np.float32), drawn) > 110
