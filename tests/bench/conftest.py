"""Tiny real artifacts: one convolution and a tanh, in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime

SIZE = 32


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds tiny.onnx and tiny.tflite."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    graph = capture(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()).eval(), SIZE, SIZE)
    onnx = emit_onnx(lower(graph, Runtime.ONNX)[0], DType.FP32, {})
    tflite = emit_tflite(lower(graph, Runtime.TFLITE)[0], DType.FP32, {})
    (folder / "tiny.onnx").write_bytes(onnx)
    (folder / "tiny.tflite").write_bytes(tflite)
    return folder
