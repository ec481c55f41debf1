"""The number schemes by name: what runtimes draw, what computes in integers, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_calibration, bundled_checkpoint, bundled_pictures
from coronet_deploy.errors import BadInput
from coronet_deploy.export.build import Built, build, emit
from coronet_deploy.export.calibrate import Pictures, choose, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.schemes import refusal
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject, subject_of
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import Architecture, DType, Runtime, TensorContract
from lowering import own_subject
from support import Cli

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 32, 48


def _draw(
    built: Built, runtime: Runtime, pictures: Pictures, folder: Path
) -> tuple[list[Array], TensorContract, TensorContract]:
    path = folder / f"artifact{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, threads=1) as session:
        return [session.run(x) for x in pictures.values], session.input, session.output


def _worst_db(references: tuple[Array, ...], outputs: list[Array]) -> float:
    return min(psnr_db(r, o) for r, o in zip(references, outputs, strict=True))


# The bundled generator at its own size: what a user gets.
@pytest.mark.parametrize(
    ("runtime", "dtype", "least_db"),
    [
        (Runtime.TFLITE, DType.INT8, 48),
        (Runtime.ONNX, DType.INT8, 48),
        (Runtime.TFLITE, DType.INT8_FULL, 45),
        (Runtime.ONNX, DType.INT8_FULL, 45),
        (Runtime.TFLITE, DType.FP16, 80),
        (Runtime.ONNX, DType.FP16, 80),
    ],
)
def test_the_bundled_generator_keeps_its_picture(
    bundled: tuple[Subject, Study, Pictures, tuple[Array, ...]],
    float_file: int,
    runtime: Runtime,
    dtype: DType,
    least_db: float,
    tmp_path: Path,
) -> None:
    subject, study, pictures, references = bundled
    built = build(study.graph, runtime, dtype, subject, study.pictures, study=study)
    outputs, _, _ = _draw(built, runtime, pictures, tmp_path)
    assert _worst_db(references, outputs) >= least_db
    if dtype is DType.INT8:
        with open_session(tmp_path / f"artifact{runtime.suffix}", runtime, threads=1) as session:
            assert session.partitions.fully_accelerated
    if dtype is not DType.FP16:
        assert len(built.data) <= 0.30 * float_file


@pytest.fixture(scope="module")
def bundled() -> tuple[Subject, Study, Pictures, tuple[Array, ...]]:
    """Return the generator, what its artifacts share as in one export, pictures, what it draws."""
    subject = subject_of(load_checkpoint(bundled_checkpoint()))
    pictures = read_pictures(bundled_pictures(), 256, 256)
    calibration = read_pictures(bundled_calibration(), 256, 256)
    study = Study(capture(subject.generator, 256, 256), calibration)
    return subject, study, pictures, translate(subject.generator, pictures)


@pytest.fixture(scope="module")
def float_file(bundled: tuple[Subject, Study, Pictures, tuple[Array, ...]]) -> int:
    """Return how many bytes the generator's FP32 file has."""
    return len(emit_onnx(lower(bundled[1].graph, Runtime.ONNX)[0], DType.FP32, {}))


# Small generators: 270,000 weights in 450 operators, so that what stands around weights counts.
@pytest.mark.parametrize("name", ["horse2zebra-resnet9", "horse2zebra-resnet9-reverse"])
def test_int8_files_of_a_pruned_resnet_are_three_tenths(name: str, tmp_path: Path) -> None:
    folder = bundled_checkpoint().parents[1] / "horse2zebra-resnet9"
    subject = subject_of(load_checkpoint(folder / f"{name}.safetensors"))
    graph = capture(subject.generator, 256, 256)
    pictures = read_pictures(bundled_pictures()[:3], 256, 256)
    calibration = choose(read_pictures(bundled_calibration(), 256, 256))
    references = translate(subject.generator, pictures)
    study = Study(graph, calibration)
    for runtime in Runtime:
        built = build(graph, runtime, DType.INT8, subject, calibration, study=study)
        plain, _ = lower(graph, runtime, prefer="size")
        assert len(built.data) <= 0.30 * len(emit(plain, runtime, DType.FP32, {}))
        outputs, _, _ = _draw(built, runtime, pictures, tmp_path)
        assert _worst_db(references, outputs) >= 38


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """Return a ResNet-6 whose pictures in eight bits are 1.5 dB and more from the bounds here.

    Ranges differ by a CPU's sums: in networks of such a size that moves a picture by half a dB.
    """
    torch.manual_seed(3)
    return build_generator(full_plan(Architecture.RESNET_6, width=4)).eval()


@pytest.mark.parametrize(
    ("runtime", "dtype", "least_db"),
    [
        (Runtime.TFLITE, DType.INT8_FULL, 32),
        (Runtime.ONNX, DType.INT8_FULL, 32),
        (Runtime.TFLITE, DType.INT16X8, 42),
        (Runtime.ONNX, DType.A16W8, 42),
        (Runtime.TFLITE, DType.INT8_DYNAMIC, 36),
        (Runtime.TFLITE, DType.INT8_WEIGHTS, 42),
    ],
)
def test_a_resnet_in_every_scheme(
    resnet: nn.Module,
    pictures: Pictures,
    runtime: Runtime,
    dtype: DType,
    least_db: float,
    tmp_path: Path,
) -> None:
    graph, subject = capture(resnet, HEIGHT, WIDTH), own_subject(resnet)
    built = build(graph, runtime, dtype, subject, pictures)
    assert built.data == build(graph, runtime, dtype, subject, pictures).data
    outputs, given, made = _draw(built, runtime, pictures, tmp_path)
    assert _worst_db(translate(resnet, pictures), outputs) >= least_db
    integer = dtype is DType.INT8_FULL
    kind = "int8" if runtime is Runtime.TFLITE else "uint8"
    assert (given.dtype, made.dtype) == ((kind, kind) if integer else ("float32", "float32"))
    # The manifest says of the tensors what the runtime does.
    for contract, told in ((given, built.embedded.input), (made, built.embedded.output)):
        assert told.dtype == contract.dtype
        assert told.zero_point == contract.zero_point
        assert told.scale == pytest.approx(contract.scale) if integer else told.scale is None
    pixel = "pixel - 128" if runtime is Runtime.TFLITE else "pixel"
    assert built.embedded.input.stored == (pixel if integer else None)
    assert built.embedded.output.stored is None


class _Skip(nn.Module):
    """Puts the picture beside its features: a value of fixed format joins others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 1, 1)
        self.last = nn.Conv2d(7, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(torch.cat([x, 5 * self.first(x)], 1)))


class _Constant(nn.Module):
    """Has channels that never change, before a norm and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Conv2d(3, 1, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(1)
        self.last = nn.Conv2d(1, 3, 1)
        nn.init.zeros_(self.dead.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(self.norm(self.dead(x))))


@pytest.mark.parametrize("make", [_Skip, _Constant])
@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [
        (Runtime.TFLITE, DType.INT8_FULL),
        (Runtime.ONNX, DType.INT8_FULL),
        (Runtime.TFLITE, DType.INT16X8),
    ],
)
def test_networks_that_no_generator_is(
    make: type[nn.Module], runtime: Runtime, dtype: DType, pictures: Pictures, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    network = make().eval()
    built = build(capture(network, HEIGHT, WIDTH), runtime, dtype, own_subject(network), pictures)
    outputs, _, _ = _draw(built, runtime, pictures, tmp_path)
    assert _worst_db(translate(network, pictures), outputs) >= 34


def test_a_bias_beyond_32_bits_widens_its_channel(pictures: Pictures, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()).eval()
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight[0] = 1e-9
        first.bias[0] = 0.5
    graph = capture(network, HEIGHT, WIDTH)
    for runtime in Runtime:
        built = build(graph, runtime, DType.INT8_FULL, own_subject(network), pictures)
        outputs, _, _ = _draw(built, runtime, pictures, tmp_path)
        assert _worst_db(translate(network, pictures), outputs) >= 34


def test_what_a_runtime_lacks_is_refused_with_its_reason(
    resnet: nn.Module, pictures: Pictures
) -> None:
    refused = [(r, d) for r in Runtime for d in DType if refusal(r, d)]
    assert len(refused) == 4
    graph = capture(resnet, HEIGHT, WIDTH)
    for runtime, dtype in refused:
        with pytest.raises(BadInput, match=str(dtype.value)):
            build(graph, runtime, dtype, own_subject(resnet), pictures)


def test_the_command_writes_what_a_scheme_has_and_refuses_the_rest(
    cli: Cli, tmp_path: Path
) -> None:
    done = cli("export", "--dtype", "int8-full", "--size", "256x256", "--runtime", "tflite",
               "--output", tmp_path, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert artifact["psnr_db"] >= 45
    told = json.loads(Path(f"{artifact['path']}.json").read_text())
    assert told["input"]["dtype"] == "int8"
    assert told["quantization"]["int8_macs_share"] == 1
    done = cli("verify", artifact["path"])
    assert done.returncode == 0, done.stderr
    for flags in (("onnx", "int8-dynamic"), ("onnx", "int16x8"), ("tflite", "a16w8")):
        done = cli("export", "--runtime", flags[0], "--dtype", flags[1], "--output", tmp_path)
        assert done.returncode == 2
        assert flags[1] in done.stderr
        assert done.stderr.count("\n") == 1
