"""Depthwise convolutions of large kernels: sums by bands, which draw the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.export import operators as ops
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.depthwise import SplitDepthwise
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, is_one_partition, run_tflite, run_torch, smooth_picture


def _taps(graph: Graph) -> list[tuple[int, ...]]:
    return [
        graph.shapes[node.inputs[1]][1:3]
        for node in graph.nodes
        if isinstance(node.op, ops.DepthwiseConv2d)
    ]


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        ((7, 7), [(3, 7), (3, 7), (1, 7)]),
        ((9, 9), [(2, 9)] * 4 + [(1, 9)]),
        ((1, 31), [(1, 25), (1, 6)]),
        ((31, 1), [(25, 1), (6, 1)]),
        ((2, 26), [(2, 12), (2, 12), (2, 2)]),
    ],
)
def test_no_part_has_more_taps_than_xnnpack_has_kernels_for(
    kernel: tuple[int, int], parts: list[tuple[int, ...]]
) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    before = capture(nn.Conv2d(4, 4, kernel, 1, padding, groups=4), 40, 44, 4)
    after = SplitDepthwise().run(before)
    assert _taps(after) == parts
    assert difference(before, after) < 1e-12


@pytest.mark.parametrize("size", [3, 4, 19])
def test_the_sum_is_the_convolution(size: int) -> None:
    random = np.random.default_rng(size)
    torch.manual_seed(size)
    for _ in range(40):
        rows, columns = (int(random.choice([1, 3, 5, 7, 9, 11, 27])) for _ in range(2))
        stride = (int(random.integers(1, 4)), int(random.integers(1, 4)))
        dilation = (int(random.integers(1, 3)), int(random.integers(1, 3)))
        reach = [(n - 1) * d + 1 for n, d in zip((rows, columns), dilation, strict=True)]
        down, across = (max(n // 2, -(-(n - size) // 2)) for n in reach)
        layer = nn.Conv2d(
            3,
            3 * int(random.integers(1, 3)),
            (rows, columns),
            stride,
            (down, across),
            dilation,
            groups=3,
            bias=bool(random.integers(2)),
        )
        before = capture(nn.Sequential(layer, nn.ReLU()), size, size + 1)
        fused, _ = lower(before, Runtime.TFLITE)
        assert difference(before, fused) < 1e-6
        assert all(r * c <= 25 or min(r, c) > 25 for r, c in _taps(fused))


def test_the_file_is_one_partition_with_the_activation_in_the_sum() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 7, 1, 3, groups=6), nn.ReLU())
    graph, reports = lower(capture(network.eval(), 24, 32), Runtime.TFLITE)
    assert "split_depthwise" in {report.name for report in reports if report.changed}
    assert "relu" not in graph.count()
    data, picture = emit_tflite(graph, DType.FP32, {}), smooth_picture(24, 32)
    assert is_one_partition(data)
    assert psnr_db(run_torch(network, picture), run_tflite(data, picture)) > 120


def test_small_kernels_stay() -> None:
    before = capture(nn.Conv2d(4, 4, 5, groups=4), 16, 16, 4)
    assert SplitDepthwise().run(before).nodes == before.nodes
