"""What TFLite's integer kernels would abort at, or draw wrongly, as they come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.integer.kernels import without_depth_to_space
from coronet_deploy.export.integer.plan import IntegerPlan, plan_integer
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.subject import Subject
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.gate import translate, try_artifact
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import difference, smooth_picture, trained

HEIGHT, WIDTH = 32, 48


def _pictures() -> Pictures:
    return Pictures(tuple("abc"), tuple(smooth_picture(HEIGHT, WIDTH, seed=i) for i in range(3)))


def _psnr_db(network: nn.Module, dtype: DType, folder: Path) -> float:
    source = Source(sha256="0" * 64, kind=Kind.MODULE, module="a:b")
    graph = capture(network, HEIGHT, WIDTH)
    subject = Subject("own", source, network)
    built = build(graph, Runtime.TFLITE, dtype, subject, _pictures())
    path = folder / "artifact.tflite"
    path.write_bytes(built.data)
    references = translate(network, _pictures())
    return try_artifact(path, Runtime.TFLITE, _pictures(), references, 0).parity.psnr_db


class _Cancelled(nn.Module):
    """Adds what is left of a difference, which is nothing, to its picture."""

    def __init__(self, left: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 1)
        self.left = left

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.tanh(self.last(torch.add(h, h * (self.left - 1))) + x)


@pytest.mark.parametrize("left", [0.0, 1e-5])
@pytest.mark.parametrize("dtype", [DType.INT8_FULL, DType.INT16X8])
def test_summands_that_all_but_cancel_out(dtype: DType, left: float, tmp_path: Path) -> None:
    # LiteRT's addition would end the process.
    assert _psnr_db(_Cancelled(left).eval(), dtype, tmp_path) > 40


def _unlike(faintest: float) -> nn.Module:
    """Return a network with a norm over channels of deviations from 1 to `faintest`."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 12, 3, 1, 1, groups=3)
    with torch.no_grad():
        first.weight *= torch.logspace(0, 1, 12)[:, None, None, None].pow(
            float(torch.log10(torch.tensor(faintest)))
        )
    norm = nn.InstanceNorm2d(12, eps=1e-6)
    return nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(12, 3, 3, 1, 1), nn.Tanh()).eval()


@pytest.mark.parametrize("dtype", [DType.INT8_FULL, DType.INT16X8])
def test_faint_channels_keep_their_contrast(dtype: DType, tmp_path: Path) -> None:
    least_db = {DType.INT8_FULL: 34, DType.INT16X8: 50}[dtype]
    for faintest in (1.0, 0.1):
        assert _psnr_db(_unlike(faintest), dtype, tmp_path) > least_db


def _finer_roots(plan: IntegerPlan) -> int:
    return plan.graph.count().get("minimum", 0)


def test_roots_are_taken_twice_only_where_they_are_steep() -> None:
    faint = capture(_unlike(0.1), HEIGHT, WIDTH)
    assert _finer_roots(plan_integer(faint, Runtime.TFLITE, _pictures(), 8)) == 1
    assert _finer_roots(plan_integer(faint, Runtime.ONNX, _pictures(), 8)) == 0
    torch.manual_seed(2)
    resnet = trained(build_generator(full_plan(Architecture.RESNET_6, width=4)))
    alike = capture(resnet, HEIGHT, WIDTH)
    assert _finer_roots(plan_integer(alike, Runtime.TFLITE, _pictures(), 8)) <= 2


@pytest.mark.parametrize("enlarging", [nn.PixelShuffle(3), nn.Upsample(scale_factor=6)], ids=str)
def test_pixels_are_interleaved_in_sixteen_bits(enlarging: nn.Module, tmp_path: Path) -> None:
    # LiteRT's DEPTH_TO_SPACE has no kernel of that width.
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 18, 3, 2, 1), enlarging),
        *(nn.LazyConv2d(3, 3, 1, 1), nn.Tanh()),
    ).eval()
    network(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert _psnr_db(network, DType.INT16X8, tmp_path) > 60
    graph = capture(network, HEIGHT, WIDTH)
    assert graph.count()["depth_to_space"] == 1
    apart = without_depth_to_space(graph)
    assert "depth_to_space" not in apart.count()
    assert difference(graph, apart) == 0
