"""Operators that ONNX Runtime has and TFLite has not: kept in ONNX's float32 files alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.plain_operators import PlainOperators
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    difference,
    is_one_partition,
    run_onnx,
    run_tflite,
    run_torch,
    smooth_picture,
    trained,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

_NATIVE = {
    *("grouped_conv2d", "group_norm", "mirror", "pick_channels", "hard_sigmoid", "gelu_by_tanh"),
    *("scaled_elu", "resize_nearest"),
}


class _Mirrored(nn.Module):
    """Turns lines round."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(self.axes)


_LAYERS: dict[str, tuple[nn.Module, dict[str, int]]] = {
    "groups": (nn.Conv2d(12, 8, 3, padding=1, groups=4), {}),
    "groups, by two": (nn.Conv2d(12, 18, (3, 2), 2, (1, 0), 2, groups=3, bias=False), {}),
    "maxima": (nn.MaxPool2d(3, 1, 1), {"MaxPool": 1}),
    "maxima, by two": (nn.MaxPool2d((3, 5), 2, (0, 2), ceil_mode=True), {"MaxPool": 1}),
    "mirrored": (_Mirrored(3), {"Slice": 1}),
    "mirrored both ways": (_Mirrored(2, 3), {"Slice": 1}),
    "shuffled": (nn.ChannelShuffle(3), {"Gather": 1}),
    "gelu": (nn.GELU("tanh"), {"Gelu": 1}),
    "hard sigmoid": (nn.Hardsigmoid(), {"HardSigmoid": 1}),
    "selu": (nn.SELU(), {"Selu": 1}),
    "elu": (nn.ELU(0.7), {"Elu": 1}),
    "enlarged": (nn.Upsample(scale_factor=1.3), {"Resize": 1}),
    "one norm": (nn.GroupNorm(1, 12), {"BatchNormalization": 1}),
    "norms": (nn.GroupNorm(4, 12), {"BatchNormalization": 1}),
    "norms, nothing learnt": (nn.GroupNorm(2, 12, affine=False), {"BatchNormalization": 1}),
}


def _network(name: str) -> nn.Module:
    layer = _LAYERS[name][0]
    if isinstance(layer, nn.GroupNorm) and layer.affine:
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.uniform_(layer.bias, -1, 1)
    return nn.Sequential(nn.Conv2d(3, 12, 1), layer, nn.Tanh()).eval()


def _is_plain(graph: Graph) -> bool:
    padded = any(getattr(n.op, "padding", None) and n.op.kind == "max_pool2d" for n in graph.nodes)
    return not padded and not _NATIVE.intersection(graph.count())


def _kinds(data: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


@pytest.mark.parametrize("name", _LAYERS)
def test_the_rewrite_is_exact_and_leaves_none(name: str) -> None:
    before = capture(_network(name), 20, 14)
    assert not _is_plain(before)
    after = PlainOperators().run(before)
    assert _is_plain(after)
    by_constants = name in {"gelu", "hard sigmoid", "selu", "elu"}
    assert difference(before, after) < (1e-7 if by_constants else 1e-12)
    for runtime in Runtime:
        assert _is_plain(lower(before, runtime, integer=True)[0])
        assert _is_plain(lower(before, runtime, half=True)[0])


@pytest.mark.parametrize("name", _LAYERS)
def test_an_onnx_file_has_the_operator_itself(name: str) -> None:
    network, picture = _network(name), smooth_picture(20, 14)
    graph, _ = lower(capture(network, 20, 14), Runtime.ONNX)
    data = emit_onnx(graph, DType.FP32, {})
    kinds = _kinds(data)
    native = _LAYERS[name][1] or {"Conv": 2}
    assert kinds["Conv"] == native.get("Conv", 1)
    assert all(kinds[kind] == count for kind, count in native.items())
    assert not {"Concat", "Split"}.intersection(kinds)
    assert kinds["Slice"] == native.get("Slice", 0)
    assert np.abs(run_onnx(data, picture) - run_torch(network, picture)).max() < 2e-6


@pytest.mark.parametrize("runtime", Runtime)
def test_a_batch_norm_goes_into_a_convolution_of_groups(runtime: Runtime) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(12, 8, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(8)
    before = capture(trained(nn.Sequential(nn.Conv2d(3, 12, 1), *layers)), 20, 14)
    after, _ = lower(before, runtime, prefer="size")
    assert not {"batch_norm", "mul", "add"}.intersection(after.count())
    assert difference(before, after) < 1e-6


@pytest.mark.parametrize(("height", "width"), [(128, 128), (37, 53), (1, 131)])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_a_norm_of_groups_survives_numbers_far_from_zero(
    height: int, width: int, groups: int
) -> None:
    norm = nn.GroupNorm(groups, 12)
    nn.init.uniform_(norm.weight, 0.5, 2)
    network = nn.Sequential(nn.Conv2d(3, 12, 1), norm).eval()
    nn.init.constant_(network[0].bias, 20)  # type: ignore[arg-type]
    picture = smooth_picture(height, width)
    graph, _ = lower(capture(network, height, width), Runtime.ONNX)
    drawn = run_onnx(emit_onnx(graph, DType.FP32, {}), picture)
    expected = run_torch(network.double(), picture.astype(np.float64))
    # The deviation is a fiftieth of the mean, which InstanceNormalization draws with 94 dB.
    assert psnr_db(expected.astype(np.float32), drawn) > 105


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (nn.Conv2d(12, 8, 3, padding=1, groups=4), 1),
        (nn.Conv2d(12, 18, (3, 2), 2, (1, 0), 2, groups=3, bias=False), 1),
        (nn.Conv2d(12, 18, 4, 2, (2, 1), groups=2), 1),
        (nn.Conv2d(72, 4, 1, groups=2), 1),
        (nn.Conv2d(72, 4, 3, groups=2), 0),
    ],
    ids=str,
)
def test_xnnpack_takes_narrow_groups_whole(layer: nn.Conv2d, kept: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, layer.in_channels, 1), layer, nn.ReLU()).eval()
    picture = smooth_picture(20, 14)
    before = capture(network, 20, 14)
    graph, _ = lower(before, Runtime.TFLITE, prefer="size")
    assert graph.count().get("grouped_conv2d", 0) == kept
    assert difference(before, graph) < 1e-6
    data = emit_tflite(graph, DType.FP32, {})
    assert is_one_partition(data)
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 2e-6
