"""Layers of torch for which several operators stand: activation functions, enlarged pictures."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import build, emit
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.operators import DepthToSpace
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.upsampling import MergeUpsampling
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    Does,
    difference,
    is_one_partition,
    own_subject,
    run_onnx,
    run_tflite,
    run_torch,
    smooth_picture,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


def _sloping(*slopes: float) -> nn.Module:
    layer = nn.PReLU(len(slopes))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(slopes))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU6(),
        nn.Hardtanh(),
        nn.Hardtanh(-0.25, 2.5),
        nn.SiLU(),
        nn.GELU("tanh"),
        nn.GELU(),
        nn.ELU(),
        nn.ELU(0.5),
        nn.SELU(),
        nn.CELU(),
        nn.CELU(2.0),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        _sloping(0.25),
        _sloping(0.0),
        _sloping(0.3, -0.5, 0.0),
        Does(lambda x: x.clamp(-0.5, 0.75)),
        Does(lambda x: x.clamp(min=0.5)),
        Does(lambda x: x.clamp(max=-0.5)),
        Does(lambda x: x.clamp_min(0)),
        Does(lambda x: x.clone().clamp_(0, 1)),
        Does(lambda x: x.clamp(-torch.inf, 1)),
        nn.Conv2d(3, 9, 3, padding=1, groups=3),
        nn.PixelShuffle(1),
        nn.ReplicationPad2d((1, 0, 7, 3)),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate"),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(36, 42)),
        nn.Upsample(scale_factor=3, mode="nearest-exact"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=5, mode="bilinear"),
        nn.UpsamplingNearest2d(scale_factor=4),
    ],
    ids=str,
)
def test_the_graph_draws_what_the_layer_draws(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), layer).eval()
    picture = 9 * smooth_picture(12, 14)
    drawn = interpret(capture(network, 12, 14), picture)
    assert np.abs(drawn - run_torch(network, picture)).max() < 3e-6 * max(1, np.abs(drawn).max())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Does(lambda x: torch.ops.aten.elu(x, 1.0, 1.0, 2.0)), "an input_scale of 2.0"),
        (Does(lambda x: x**9), "to the power of 9; of whole ones only up to 8"),
        (Does(lambda x: x ** float("inf")), "to the power of inf, which is no number"),
        (Does(lambda x: 2**x), "takes a tensor for its exponent"),
        (nn.Softplus(threshold=1), "a threshold of 1 is not supported"),
        (Does(lambda x: x.clamp(1, 0)), "clamps to [1, 0], which is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_composed_says_why(layer: nn.Module, reason: str) -> None:
    with pytest.raises(ConversionFailed, match="in layer") as caught:
        capture(nn.Sequential(nn.Conv2d(3, 4, 1), layer), 12, 14)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(12, 8, (3, 2), 2, (1, 2), groups=4),
        nn.Conv2d(12, 6, 3, padding="same", groups=6, bias=False),
        nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect", groups=2),
        nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=4),
        nn.ConvTranspose2d(12, 12, 3, (2, 1), 1, (1, 0), groups=12, bias=False),
        nn.ConvTranspose2d(12, 12, 4, 2, 2, groups=12, bias=False),
        nn.ConvTranspose2d(12, 24, 3, 2, 1, 1, groups=12),
    ],
    ids=str,
)
def test_groups_of_channels_are_convolutions_of_their_own(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 1), layer, nn.Tanh()).eval()
    graph, picture = capture(network, 11, 14), smooth_picture(11, 14)
    expected = run_torch(network, picture)
    assert np.abs(interpret(graph, picture) - expected).max() < 1e-6
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        assert np.abs(run(data, picture) - expected).max() < 2e-6
        assert runtime is Runtime.ONNX or is_one_partition(data)


@given(
    multiple=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    more=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_a_channel_enlarged_by_itself_is_its_phases_side_by_side(
    multiple: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    more: int,
    dilation: int,
) -> None:
    assume(more < max(stride, dilation))
    assume(all((k - 1) * dilation + 5 * stride + more > 2 * padding for k in kernel))
    layer = nn.ConvTranspose2d(
        3, 3 * multiple, kernel, stride, padding, more, groups=3, dilation=dilation
    )
    graph, picture = capture(layer, 6, 7), smooth_picture(6, 7)
    assert graph.count()["depthwise_conv2d"] == stride**2
    assert "conv_transpose2d" not in graph.count()
    assert np.abs(interpret(graph, picture) - run_torch(layer, picture)).max() < 2e-6


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_shuffled_pixels_are_channels_of_the_convolution_before(
    block: int, transposed: bool
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    before = kind(3, 5 * block**2, 3, padding=1)
    network = nn.Sequential(before, nn.PixelShuffle(block), nn.PReLU(5)).eval()
    graph, picture = capture(network, 8, 6), smooth_picture(8, 6)
    assert "slice" not in graph.count()
    assert len(graph.nodes) == 3
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 1e-6


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.integers(0, 3),
    block=st.integers(2, 3),
    mirrored=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_convolution_of_an_enlarged_picture_reads_the_small_one(
    kernel: tuple[int, int], padding: int, block: int, mirrored: bool
) -> None:
    around = nn.ReflectionPad2d(padding) if mirrored else nn.Identity()
    layer = nn.Conv2d(4, 5, kernel, padding=0 if mirrored else padding)
    enlarge = nn.Upsample(scale_factor=block)
    before = capture(nn.Sequential(enlarge, around, layer, nn.ReLU()), 6, 5, 4)
    after = MergeUpsampling().run(before)
    assert difference(before, after) < 1e-6
    kept = padding >= block if mirrored else padding > min(kernel) - 1
    assert any(isinstance(node.op, DepthToSpace) for node in after.nodes) is (
        kept or (kernel == (1, 1) and not padding)
    )


def test_padding_that_crops_unlike_at_both_ends_is_left() -> None:
    network = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 4, padding="same"))
    before = capture(network, 8, 8)
    assert MergeUpsampling().run(before).nodes == before.nodes


def test_a_layer_of_one_tap_computes_before_the_picture_is_enlarged() -> None:
    network = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 16, 1))
    graph = MergeUpsampling().run(capture(network, 8, 8))
    (layer,) = (node for node in graph.nodes if node.op.kind == "conv2d")
    assert graph.shapes[layer.output] == (1, 8, 8, 16)


class _Decoder(nn.Module):
    """As those are who do without transposed convolutions, and what mobile networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.InstanceNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1, padding_mode="replicate"),
            nn.BatchNorm2d(24),
            nn.Hardswish(),
            nn.Upsample(scale_factor=2),
            nn.ReflectionPad2d(1),
            nn.Conv2d(24, 16, 3),
            nn.InstanceNorm2d(16),
            _sloping(*np.linspace(0.05, 0.4, 16)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(16, 12, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(3, 3, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.body(F.pad(x, (0, 0, 0, 0)))
        return drawn.tanh()


_LEAST_DB = {DType.FP32: 100, DType.FP16: 60, DType.INT8: 30, DType.INT8_FULL: 26}


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return read_pictures(bundled_pictures(), 64, 96)


@pytest.mark.parametrize(("runtime", "dtype"), list(product(Runtime, _LEAST_DB)))
def test_every_number_type_draws_them_in_one_part(
    runtime: Runtime, dtype: DType, pictures: Pictures, tmp_path: Path
) -> None:
    network = _Decoder().eval()
    graph = capture(network, 64, 96)
    subject = own_subject(network)
    built = build(graph, runtime, dtype, subject, pictures)
    path = tmp_path / f"decoder{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, 1) as session:
        assert dtype is DType.INT8_FULL or session.partitions.fully_accelerated
        for picture in pictures.values:
            assert psnr_db(run_torch(network, picture), session.run(picture)) >= _LEAST_DB[dtype]


def test_an_enlarged_layer_of_a_tflite_file_multiplies_less() -> None:
    network = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1))
    graph, reports = lower(capture(network, 16, 16, 16), Runtime.TFLITE, prefer="size")
    assert ("merge_upsampling", True) in [(one.name, one.changed) for one in reports]
    layers = [node for node in graph.nodes if node.op.kind == "conv2d"]
    products = sum(
        np.prod(graph.shapes[node.output][1:3]) * graph.constants[node.inputs[1]].size
        for node in layers
    )
    assert products <= 1.2 * 4 * 32 * 32 * 16 * 16
