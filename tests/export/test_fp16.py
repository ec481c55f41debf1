"""FP16: float16 arithmetic throughout draws the same picture, and overflows nowhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint, bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.cancelling import correlation
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import FLOAT16_MAX, Edit, Node, rewrite
from coronet_deploy.export.half import draw_in_half, find_overflow, lower_to_half
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.half_weights import RoundWeights, rounded
from coronet_deploy.export.subject import Subject
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import LEAST_DB, own_subject, run_onnx, run_tflite, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 32, 48
_FORCE_FP16 = 4  # XNNPACK's flag: compute in float16 what is written in float32


def _sums_in_float16() -> bool:
    """Return whether XNNPACK has float16 arithmetic here, and not float32's on what is rounded."""
    told = Path("/proc/cpuinfo")
    words = set(told.read_text().split()) if told.exists() else set()
    return bool(words & {"avx512_fp16", "asimdhp"})


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
        if not _sums_in_float16():
            assert psnr_db(reference, forced) >= 70
            continue
        # As the simulation says, whose picture is much nearer than torch's: it errs alike.
        simulated = draw_in_half(graph, picture, half_sums=True)
        assert psnr_db(reference, forced) >= psnr_db(reference, simulated) - 1 >= 60
        assert psnr_db(simulated, forced) >= psnr_db(reference, forced) + 6


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


def _energy(error: Array, alike: Array) -> Array:
    flat = error.reshape(len(error), -1).astype(np.float64)
    energy: Array = np.einsum("oi,ij,oj->o", flat, alike, flat)
    return energy


@pytest.mark.parametrize("shape", [(16, 7, 7, 3), (24, 3, 3, 19), (5, 2, 2, 30)])
def test_each_weight_is_one_of_the_two_numbers_around_it(shape: tuple[int, int, int, int]) -> None:
    _, rows, columns, channels = shape
    kernel = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    kernel[0, ..., ::2] = 0.25  # which float16 holds
    kernel[1:, 0, ..., 0] = 0
    kernel[1, 1] = -FLOAT16_MAX
    held = kernel.astype(np.float16) == kernel
    found = rounded(kernel, 0.9, 0.5)
    assert (found.astype(np.float16) == found).all()
    nearest = kernel.astype(np.float16)
    assert (np.abs(found - kernel) <= np.spacing(np.abs(nearest)).astype(np.float32)).all()
    assert held.any()
    assert (found[held] == kernel[held]).all()
    alike = correlation(rows, columns, channels, 0.9, 0.5)
    before, after = (_energy(w - kernel, alike) for w in (nearest.astype(np.float32), found))
    assert (after < 0.7 * before).all()


def test_weights_that_the_picture_meets_round_for_pictures() -> None:
    pictures = read_pictures(bundled_pictures(), 128, 128)
    layer = nn.Conv2d(3, 16, 7)
    # As trained ones: what is broadly light or dark cancels.
    with torch.no_grad():
        layer.weight -= layer.weight.mean((1, 2, 3), keepdim=True)
    network = nn.Sequential(nn.ReflectionPad2d(3), layer).eval()
    before = capture(network, 128, 128)
    after = RoundWeights().run(before)
    nearest = rewrite(before, _to_nearest)
    for picture in pictures.values:
        exact = interpret(before, picture)
        better, plain = (psnr_db(exact, interpret(g, picture)) for g in (after, nearest))
        assert better > plain + 4


def _to_nearest(edit: Edit, node: Node) -> str | None:
    if not isinstance(node.op, Conv2d):
        return None
    x, weight, *bias = node.inputs
    return edit.emit(
        node.op, x, edit.constant(edit.constants[weight].astype(np.float16), "weight"), *bias
    )


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.layer(x))
        return y


def test_weights_of_several_convolutions_stay_one() -> None:
    before = capture(_Tied().eval(), 8, 8, 24)
    after = RoundWeights().run(before)
    # The first one reads the picture, which correlates otherwise.
    assert len({n.inputs[1] for n in after.nodes if isinstance(n.op, Conv2d)}) == 2
    twice = capture(nn.Sequential(nn.Tanh(), _Tied()).eval(), 8, 8, 24)
    after = RoundWeights().run(twice)
    assert len({n.inputs[1] for n in after.nodes if isinstance(n.op, Conv2d)}) == 1


def test_products_of_one_axis_and_weights_beyond_float16_are_left() -> None:
    far = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        far.weight[0, 0, 0, 0] = 1e5
    for layer in (far, nn.Conv2d(3, 4, (1, 3)), nn.Conv2d(3, 4, 1), nn.Conv2d(301, 1, 2)):
        before = capture(layer, 8, 8, layer.in_channels)
        assert RoundWeights().run(before).nodes == before.nodes


@pytest.mark.parametrize("runtime", list(Runtime))
def test_float16_files_of_a_generator_hold_rounded_weights(runtime: Runtime) -> None:
    graph = capture(build_generator(full_plan(Architecture.RESNET_6, width=4)).eval(), 32, 32)
    lowered, reports = lower(graph, runtime, half=True)
    assert ("round_weights", True) in [(report.name, report.changed) for report in reports]
    plain, _ = lower(graph, runtime)
    stems = [
        next(g.constants[n.inputs[1]] for n in g.nodes if isinstance(n.op, Conv2d))
        for g in (lowered, plain)
    ]
    held = [bool((stem.astype(np.float16) == stem).all()) for stem in stems]
    assert held == [True, False]


class _Quotient(nn.Module):
    """Divides by norms that are nothing where the network sees nothing."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.first, self.epsilon = nn.Conv2d(3, 4, 3, 1, 1), epsilon

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sub(0.3).relu()
        root = torch.rsqrt(x.square().sum(1, keepdim=True) + self.epsilon)
        y: Tensor = x * root + F.normalize(x, dim=1) + x / (x.sum(1, keepdim=True) + self.epsilon)
        return y[:, :3] / 3


class _Cosines(nn.Module):
    """Attention of channels by cosines over all pixels, as Restormer's."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        q = F.normalize(30 * y.flatten(2), dim=-1)
        drawn: Tensor = self.leave(((q @ q.mT).softmax(-1) @ y.flatten(2)).view_as(y))
        return drawn.tanh()


@pytest.mark.parametrize("runtime", Runtime)
def test_a_norm_over_all_pixels_is_of_numbers_that_float16_holds(runtime: Runtime) -> None:
    torch.manual_seed(0)
    network, picture = _Cosines().eval(), smooth_picture(HEIGHT, WIDTH)
    with torch.no_grad():
        seen = 30 * network.enter(torch.from_numpy(picture.transpose(0, 3, 1, 2)))
    assert (seen.square().sum((2, 3)) > FLOAT16_MAX).any()
    pictures = Pictures(("a",), (picture,))
    graph, _, scaled = lower_to_half(
        capture(network, HEIGHT, WIDTH), runtime, pictures, prefer="speed"
    )
    assert not scaled
    assert psnr_db(run_torch(network, picture), draw_in_half(graph, picture)) >= 60


def test_an_epsilon_that_half_precision_has_no_number_for_still_keeps_zeros_apart() -> None:
    torch.manual_seed(0)
    network, picture = _Quotient(1e-8).eval(), smooth_picture(24, 32)
    seen = network.first(torch.from_numpy(picture.transpose(0, 3, 1, 2))).sub(0.3).relu()
    assert (seen.amax(1) == 0).any()
    graph, pictures = capture(network, 24, 32), Pictures(("a",), (picture,))
    built = build(graph, Runtime.ONNX, DType.FP16, own_subject(network), pictures)
    drawn = run_onnx(built.data, picture)
    assert psnr_db(run_torch(network, picture), drawn) > LEAST_DB[DType.FP16]
