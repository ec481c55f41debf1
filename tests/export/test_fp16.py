"""FP16: float16 arithmetic throughout draws the same picture, and overflows nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint, bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.half import draw_in_half, find_overflow, lower_to_half
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.passes import lower
from coronet_deploy.export.subject import Subject
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import run_tflite, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 32, 48
_FORCE_FP16 = 4  # XNNPACK's flag: compute in float16 what is written in float32


def _forced(data: bytes, picture: Array) -> Array:
    """Return what XNNPACK draws with float16 arithmetic."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import Options

    options = Options(
        hardware_accelerators=HardwareAccelerator.CPU,
        cpu_options=CpuOptions(num_threads=1, xnnpack_flags=_FORCE_FP16),
    )
    with captured_stderr():
        model = CompiledModel.from_buffer(data, options=options)
    given, made = model.create_input_buffers(0), model.create_output_buffers(0)
    given[0].write(np.ascontiguousarray(picture))
    model.run_by_index(0, given, made)
    drawn: Array = made[0].read(picture.size, np.float32).reshape(picture.shape)
    return drawn


def test_the_bundled_generator_in_float16_arithmetic() -> None:
    network = load_checkpoint(bundled_checkpoint()).generator()
    pictures = read_pictures(bundled_pictures(), 256, 256)
    graph, _, scaled = lower_to_half(
        capture(network, 256, 256), Runtime.TFLITE, pictures, prefer="speed"
    )
    assert not scaled
    data = emit_tflite(graph, DType.FP16, {})
    for picture in pictures.values:
        reference = run_torch(network, picture)
        assert psnr_db(reference, draw_in_half(graph, picture)) >= 70
        assert psnr_db(reference, run_tflite(data, picture)) >= 80
        forced = _forced(data, picture)
        assert np.isfinite(forced).all()
        assert psnr_db(reference, forced) >= 70


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_resnet_in_float16_arithmetic(runtime: Runtime) -> None:
    torch.manual_seed(2)
    network = build_generator(full_plan(Architecture.RESNET_6, width=4)).eval()
    picture = smooth_picture(HEIGHT, WIDTH)
    pictures = Pictures(("a",), (picture,))
    graph, _, _ = lower_to_half(capture(network, HEIGHT, WIDTH), runtime, pictures, prefer="speed")
    assert psnr_db(run_torch(network, picture), draw_in_half(graph, picture)) >= 55


class _Loud(nn.Module):
    """Values of thousands before a norm, whose squares float16 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(6)
        self.last = nn.Conv2d(6, 3, 3, 1, 1)
        with torch.no_grad():
            self.first.weight.mul_(3000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(torch.relu(self.norm(self.first(x)))))


class _LouderBetween(nn.Module):
    """Values beyond float16 that the next convolution takes back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 1, 1)
        self.last = nn.Conv2d(6, 3, 3, 1, 1)
        with torch.no_grad():
            self.first.weight.mul_(3e5)
            self.last.weight.div_(3e5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(torch.relu(self.first(x))))


@pytest.mark.parametrize("make", [_Loud, _LouderBetween])
@pytest.mark.parametrize("runtime", list(Runtime))
def test_what_would_overflow_is_scaled(make: type[nn.Module], runtime: Runtime) -> None:
    torch.manual_seed(3)
    network = make().eval()
    picture = smooth_picture(HEIGHT, WIDTH)
    pictures = Pictures(("a",), (picture,))
    graph = capture(network, HEIGHT, WIDTH)
    assert find_overflow(lower(graph, runtime)[0], pictures) is not None
    lowered, _, scaled = lower_to_half(graph, runtime, pictures, prefer="speed")
    assert scaled
    reference = run_torch(network, picture)
    assert psnr_db(reference, draw_in_half(lowered, picture)) >= 55
    if runtime is Runtime.TFLITE:
        forced = _forced(emit_tflite(lowered, DType.FP16, {}), picture)
        assert psnr_db(reference, forced) >= 55


class _Lifted(nn.Module):
    """A sum that no scaling brings into float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh((x + 7e4) - 7e4)


def test_what_overflows_all_the_same_is_refused_by_name() -> None:
    network = _Lifted().eval()
    pictures = Pictures(("a",), (smooth_picture(HEIGHT, WIDTH),))
    source = Source(sha256="0" * 64, kind=Kind.MODULE, module="tests:Lifted")
    graph = capture(network, HEIGHT, WIDTH)
    for runtime in Runtime:
        with pytest.raises(
            ConversionFailed, match=r"float16 cannot hold what .*add.* gives: 7e\+04"
        ):
            build(graph, runtime, DType.FP16, Subject("x", source, network), pictures)
