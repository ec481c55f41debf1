"""Rewrites that pay where pictures are large: exact, and only there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.operators import (
    Activation,
    Conv2d,
    InstanceNorm,
    Mul,
    ReflectPad,
    Reshape,
    Sub,
)
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.borders import SplitBorders
from coronet_deploy.export.passes.instance_norm import DecomposeInstanceNorm
from coronet_deploy.export.passes.minimal_filter import F43, F43_HALF
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import DType, Runtime
from lowering import difference, run_tflite, run_torch, smooth_picture

LARGE = (128, 160, 80)  # height, width, channels: just above a million and a half numbers


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Draw the same weights in every run, on one thread."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _tail(
    around: tuple[int, int, int, int], kernel: tuple[int, int], outputs: int, channels: int
) -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d(around), nn.Conv2d(channels, outputs, kernel), nn.Tanh()
    ).eval()


@pytest.mark.parametrize(
    ("around", "kernel", "outputs"),
    [((3, 3, 3, 3), (7, 7), 3), ((1, 2, 3, 1), (5, 4), 4), ((2, 2, 1, 1), (3, 5), 1)],
)
def test_borders_computed_apart_are_the_same_picture(
    around: tuple[int, int, int, int], kernel: tuple[int, int], outputs: int
) -> None:
    height, width, channels = LARGE
    before = capture(_tail(around, kernel, outputs, channels), height, width, channels)
    after = SplitBorders().run(before)
    copied = [after.shapes[n.output] for n in after.nodes if isinstance(n.op, ReflectPad)]
    assert len(copied) == 4
    assert all(min(shape[1:3]) <= 3 * max(kernel) for shape in copied)
    assert after.output_shape == before.output_shape
    assert difference(before, after) < 1e-13


class _ReadTwice(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(3)
        self.first, self.second = nn.Conv2d(channels, 3, 7), nn.Conv2d(channels, 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Return what two convolutions of one padded picture give."""
        padded = self.pad(x)
        first: Tensor = self.first(padded)
        second: Tensor = self.second(padded)
        return first + second


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (_tail((3, 3, 3, 3), (7, 7), 3, 8), (96, 96, 8)),  # a copy costs less than strips
        (_tail((3, 3, 3, 3), (7, 7), 5, LARGE[2]), LARGE),  # many outputs
        (_tail((3, 3, 3, 2), (7, 7), 3, LARGE[2]), LARGE),  # a smaller picture results
        (_tail((0, 0, 3, 3), (7, 1), 3, LARGE[2]), LARGE),  # one axis alone
        (_ReadTwice(LARGE[2]), LARGE),
    ],
)
def test_borders_stay_where_it_does_not_pay(network: nn.Module, size: tuple[int, int, int]) -> None:
    before = capture(network.eval(), *size)
    assert SplitBorders().run(before).nodes == before.nodes


def test_borders_in_the_runtime() -> None:
    height, width, channels = LARGE
    network = _tail((3, 3, 3, 3), (7, 7), 3, channels)
    lowered, reports = lower(capture(network, height, width, channels), Runtime.TFLITE)
    assert "split_borders" in [report.name for report in reports if report.changed]
    picture = smooth_picture(height, width, channels)
    drawn = run_tflite(emit_tflite(lowered, DType.FP32, {}), picture)
    assert psnr_db(run_torch(network, picture), drawn) > 110


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("channels", "width", "row"), [(1, 128, 32), (4, 132, 16), (5, 136, 20), (12, 128, 24)]
)
def test_pixels_of_few_channels_are_normalised_in_rows(
    channels: int, width: int, row: int, *, affine: bool
) -> None:
    norm = nn.InstanceNorm2d(channels, affine=affine).eval()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    network = nn.Sequential(norm, nn.ReLU())
    before = capture(network, 128, width, channels)
    after = DecomposeInstanceNorm(join_pixels=True).run(before)
    centred = next(node for node in after.nodes if isinstance(node.op, Sub))
    assert [after.shapes[name][3] for name in centred.inputs] == [row, row]
    assert difference(before, after) < 1e-11
    # A norm between convolutions of eight bits is a float one, unless all is integers.
    for throughout, numbers in ((False, row), (True, channels)):
        integer, _ = lower(before, Runtime.TFLITE, integer=True, throughout=throughout)
        assert _width_of_norm(integer) == numbers
    lowered, _ = lower(before, Runtime.TFLITE)
    picture = smooth_picture(128, width, channels)
    drawn = run_tflite(emit_tflite(lowered, DType.FP32, {}), picture)
    assert psnr_db(run_torch(network, picture), drawn) > 110


def _width_of_norm(graph: Graph) -> int:
    centred = next(node for node in graph.nodes if isinstance(node.op, Sub))
    return graph.shapes[centred.output][3]


@pytest.mark.parametrize(
    ("layers", "channels", "size", "before_pixels"),
    [
        ((nn.Conv2d(3, 8, 7),), 3, (22, 26), (1, 16, 10, 16)),  # pairs of a stem
        ((nn.ReflectionPad2d(1), nn.Conv2d(24, 24, 3)), 24, (8, 12), (1, 2, 48, 24)),  # lines
        ((nn.Conv2d(72, 72, 3, padding=1),), 72, (20, 24), (1, 5, 24, 288)),  # squares of 4 x 4
        ((nn.ConvTranspose2d(9, 9, 3, 2, 1, 1),), 9, (10, 12), (1, 10, 24, 18)),  # two phases
        # Few channels are read as longer rows than the convolution makes.
        ((nn.Conv2d(3, 4, 7),), 3, (134, 134), (1, 128, 16, 32)),
    ],
)
@pytest.mark.parametrize("affine", [False, True])
def test_neighbours_are_normalised_before_they_become_pixels(
    layers: tuple[nn.Module, ...],
    channels: int,
    size: tuple[int, int],
    before_pixels: tuple[int, ...],
    *,
    affine: bool,
) -> None:
    outputs = next(c for m in layers if (c := getattr(m, "out_channels", None)))
    norm = nn.InstanceNorm2d(outputs, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    network = nn.Sequential(*layers, norm, nn.ReLU()).eval()
    before = capture(network, *size, channels)
    lowered, _ = lower(before, Runtime.TFLITE)
    (square,) = (n for n in lowered.nodes if isinstance(n.op, Mul) and len(set(n.inputs)) == 1)
    assert lowered.shapes[square.output] == before_pixels
    # XNNPACK copies what a reshape makes if two operators read it.
    shared = [
        n for n in lowered.nodes if isinstance(n.op, Reshape) and lowered.readers[n.output] > 1
    ]
    rows = size == (134, 134)
    assert [lowered.shapes[node.output] for node in shared] == [before_pixels] * rows
    assert difference(before, lowered) < 1e-5
    picture = smooth_picture(*size, channels)
    drawn = run_tflite(emit_tflite(lowered, DType.FP32, {}), picture)
    assert psnr_db(run_torch(network, picture), drawn) > 110


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(13, 128, 128), (4, 127, 128), (4, 128, 129)]
)
def test_other_pixels_stay_apart(channels: int, height: int, width: int) -> None:
    before = capture(nn.InstanceNorm2d(channels), height, width, channels)
    apart = DecomposeInstanceNorm().run(before)
    assert DecomposeInstanceNorm(join_pixels=True).run(before).nodes == apart.nodes
    assert not any(isinstance(node.op, InstanceNorm) for node in apart.nodes)


def test_float16_has_points_of_its_own() -> None:
    before = capture(nn.Conv2d(64, 64, 3, padding=1), 24, 24, 64)
    whole, half = (lower(before, Runtime.TFLITE, half=h)[0] for h in (False, True))

    def transforms(graph: Graph) -> set[float]:
        names = [name for name in graph.constants if name.rpartition("/")[2][:9] == "transform"]
        return {float(tap) for name in names for tap in np.unique(graph.constants[name])}

    def entries(matrix: np.ndarray) -> set[float]:
        return {float(np.float32(entry)) for entry in np.unique(matrix)}

    assert transforms(whole) <= entries(F43.input_matrix)
    assert transforms(half) <= entries(F43_HALF.input_matrix)
    assert all(float(np.float16(tap)) == tap for tap in transforms(half))
    # Factors of one are none: three of six along each axis, for each line of six.
    factors = [sum(isinstance(n.op, Mul) for n in graph.nodes) for graph in (whole, half)]
    assert factors == [7 * 3, 7 * 6]
    assert all(
        node.op.activation is Activation.NONE for node in whole.nodes if isinstance(node.op, Conv2d)
    )
