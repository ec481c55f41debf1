"""Convolutions whose taps lie apart, as networks that fill in holes have them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export import operators as ops
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.cost import graph_macs
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, own_subject, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")

_LEAST_DB = {
    DType.FP32: 110,
    DType.FP16: 65,
    DType.INT8: 40,
    DType.INT8_FULL: 38,
    DType.INT16X8: 45,
    DType.A16W8: 45,
    DType.INT8_DYNAMIC: 35,
    DType.INT8_WEIGHTS: 45,
}
# Of INT8_DYNAMIC, XNNPACK leaves depthwise convolutions to others, dilated or not.
_IN_PARTS = {DType.INT8_FULL, DType.INT16X8, DType.A16W8, DType.INT8_DYNAMIC}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding=2, dilation=2),
        nn.Conv2d(3, 5, 3, stride=2, padding=4, dilation=4),
        nn.Conv2d(3, 5, (3, 5), padding="same", dilation=(3, 2)),
        nn.Conv2d(3, 6, 3, padding=3, dilation=3, groups=3),
        nn.Conv2d(6, 8, 3, padding=(1, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(3, 5, 3, padding=2, dilation=2, padding_mode="reflect"),
        # Outer taps that meet zeros alone.
        nn.Conv2d(3, 5, 3, padding=24, dilation=24),
        nn.Conv2d(3, 5, 3, padding=(0, 40), dilation=(1, 40)),
        nn.Conv2d(3, 5, 1, dilation=3),
        nn.ConvTranspose2d(3, 4, 3, 2, 1, dilation=2),
        nn.ConvTranspose2d(6, 4, 3, 2, 1, dilation=(2, 1), groups=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("runtime", Runtime)
def test_the_graph_draws_what_the_layer_draws(
    runtime: Runtime, layer: nn.Conv2d | nn.ConvTranspose2d
) -> None:
    network = nn.Sequential(nn.Conv2d(3, layer.in_channels, 1), layer, nn.ReLU()).eval()
    picture = smooth_picture(20, 22)
    graph = capture(network, 20, 22)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 2e-6
    lowered, _ = lower(graph, runtime)
    assert difference(graph, lowered) < 3e-6


@settings(max_examples=30, deadline=None)
@given(
    taps=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 2),
    channels=st.sampled_from([(2, 3), (70, 3), (70, 70)]),
    mirrored=st.booleans(),
)
def test_no_rewrite_takes_taps_apart_for_neighbours(
    taps: tuple[int, int],
    dilation: tuple[int, int],
    stride: int,
    channels: tuple[int, int],
    mirrored: bool,
) -> None:
    around = (taps[0] - 1) * dilation[0] // 2, (taps[1] - 1) * dilation[1] // 2
    mode: Literal["reflect", "zeros"] = "reflect" if mirrored else "zeros"
    network = nn.Sequential(
        nn.Conv2d(3, channels[0], 1),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(*channels, taps, stride, around, dilation, padding_mode=mode),
        nn.InstanceNorm2d(channels[1]),
        nn.ReLU(),
    )
    graph = capture(network, 20, 28)
    for runtime in Runtime:
        for integer in (False, True):
            lowered, _ = lower(graph, runtime, integer=integer)
            assert difference(graph, lowered) < 2e-5


def test_dead_taps_of_a_wide_context_are_left_out() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=24, dilation=24)
    lowered, _ = lower(capture(layer, 20, 22), Runtime.TFLITE)
    assert [node.op.kind for node in lowered.nodes] == ["conv2d"]
    assert graph_macs(lowered) == 20 * 22 * 3 * 5


_CONTEXT: tuple[tuple[int, Literal["reflect", "zeros"]], ...] = (
    (2, "reflect"),
    (4, "zeros"),
    (8, "zeros"),
)


class _Filling(nn.Module):
    """Fills holes in: convolutions of growing dilation, with and without mirrored borders."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 12, 4, 2, 1)
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(12, 12, 3, padding=d, dilation=d, padding_mode=mode),
                nn.InstanceNorm2d(12),
                nn.ReLU(),
            )
            for d, mode in _CONTEXT
        )
        self.apart = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12)
        self.leave = nn.ConvTranspose2d(12, 3, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.enter(x))
        for layer in self.context:
            x = x + layer(x)
        return torch.tanh(self.leave(self.apart(x)))


_ARTIFACTS = [
    (runtime, dtype)
    for runtime, dtype in product(Runtime, _LEAST_DB)
    if runtime is Runtime.TFLITE or "int8-" not in dtype.value or dtype is DType.INT8_FULL
    if (runtime, dtype) not in {(Runtime.TFLITE, DType.A16W8), (Runtime.ONNX, DType.INT16X8)}
]


@pytest.mark.parametrize(("runtime", "dtype"), _ARTIFACTS)
def test_dilated_convolutions_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, pictures: Pictures, tmp_path: Path
) -> None:
    network = _Filling().eval()
    graph = capture(network, 60, 88)
    assert {node.op.dilation for node in graph.nodes if isinstance(node.op, ops.Conv2d)} == {
        (d, d) for d in (1, 2, 4, 8)
    }
    built = build(graph, runtime, dtype, own_subject(network), pictures)
    path = tmp_path / f"own{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, 1) as session:
        assert dtype in _IN_PARTS or session.partitions.fully_accelerated
        for picture in pictures.values:
            assert psnr_db(run_torch(network, picture), session.run(picture)) >= _LEAST_DB[dtype]
