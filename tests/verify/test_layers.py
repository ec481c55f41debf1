"""`verify --layers`: which layer of an artifact goes wrong."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.manifest import Manifest, Source, read_manifest
from coronet_deploy.export.subject import Subject
from coronet_deploy.export.tflite_file import pack, read_model
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.layers import LEAST_SNR_DB, LayerFigures, compare_layers, first_wrong
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import smooth_picture, trained

_SIZE = {Architecture.RESNET_6: (32, 48), Architecture.UNET_128: (128, 128)}


@functools.cache
def _subject(architecture: Architecture) -> Subject:
    torch.manual_seed(0)
    plan = full_plan(architecture, width=6)
    source = Source(sha256="0" * 64, kind=Kind.DENSE, plan=plan.as_json())
    return Subject("small", source, trained(build_generator(plan)), 3, plan)


def _released(
    architecture: Architecture, runtime: Runtime, dtype: DType, folder: Path
) -> tuple[Path, Manifest]:
    given = Pictures(("a",), (smooth_picture(*_SIZE[architecture], seed=3),))
    subject = _subject(architecture)
    order = Order(subject, folder, given, given, (runtime,), (dtype,), {dtype: 20.0})
    (artifact,) = release(order)
    return artifact.path, read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize("architecture", list(_SIZE))
@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_no_layer_of_a_good_artifact_is_wrong(
    architecture: Architecture, runtime: Runtime, dtype: DType, tmp_path: Path
) -> None:
    path, manifest = _released(architecture, runtime, dtype, tmp_path)
    subject, picture = _subject(architecture), smooth_picture(*_SIZE[architecture], seed=4)
    layers = compare_layers(path, manifest, subject, picture)
    assert first_wrong(layers, LEAST_SNR_DB[dtype]) is None
    # Most convolutions are told, and the picture itself comes last.
    convolutions = [n for n, m in subject.generator.named_modules() if "Conv" in type(m).__name__]
    told = {layer.value.rpartition("/")[0] for layer in layers}
    assert len(told.intersection(convolutions)) >= 0.7 * len(convolutions)
    assert layers[-1].value == "output"


@pytest.mark.parametrize("runtime", Runtime)
def test_rounded_weights_hide_no_layer(runtime: Runtime, tmp_path: Path) -> None:
    torch.manual_seed(1)
    plan = full_plan(Architecture.RESNET_6, width=12)
    source = Source(sha256="0" * 64, kind=Kind.DENSE, plan=plan.as_json())
    subject = Subject("random", source, build_generator(plan).eval(), 3, plan)
    given = read_pictures(bundled_pictures()[:1], 128, 128)
    order = Order(subject, tmp_path, given, given, (runtime,), (DType.FP16,), {DType.FP16: 20.0})
    (artifact,) = release(order)
    manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
    assert "round_weights" in manifest.passes
    layers = compare_layers(artifact.path, manifest, subject, given.values[0])
    convolutions = [n for n, m in subject.generator.named_modules() if "Conv" in type(m).__name__]
    told = {layer.value.rpartition("/")[0] for layer in layers}
    assert len(told.intersection(convolutions)) >= 0.7 * len(convolutions)
    assert layers[-1].value == "output"


@pytest.mark.parametrize("architecture", list(_SIZE))
@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT8_FULL])
def test_integer_layers_are_told_as_real_values(
    architecture: Architecture, dtype: DType, tmp_path: Path
) -> None:
    for runtime in Runtime:
        path, manifest = _released(architecture, runtime, dtype, tmp_path)
        picture = smooth_picture(*_SIZE[architecture], seed=4)
        layers = compare_layers(path, manifest, _subject(architecture), picture)
        assert first_wrong(layers, LEAST_SNR_DB[dtype]) is None
        assert len(layers) > 5
        assert layers[-1].value == "output"
        assert layers[-1].snr_db < 60


def _spoil_tflite(path: Path, layer: str) -> None:
    model = read_model(path.read_bytes())
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.name.decode().startswith(f"{layer}/") and b"weight" in tensor.name:
            values = np.frombuffer(bytes(buffer.data), np.float32).copy()
            values[::3] *= -1
            buffer.data = values.tobytes()
    path.write_bytes(pack(model))


def _spoil_onnx(path: Path, layer: str) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(f"{layer}/") and "weight" in tensor.name:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.reshape(-1)[::3] *= -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize(
    ("architecture", "layer"),
    [(Architecture.RESNET_6, "blocks.3.conv1"), (Architecture.UNET_128, "downs.2")],
)
def test_the_first_wrong_layer_is_the_one_whose_weights_were_spoilt(
    architecture: Architecture, layer: str, runtime: Runtime, tmp_path: Path
) -> None:
    path, manifest = _released(architecture, runtime, DType.FP32, tmp_path)
    (_spoil_tflite if runtime is Runtime.TFLITE else _spoil_onnx)(path, layer)
    picture = smooth_picture(*_SIZE[architecture], seed=4)
    wrong = first_wrong(
        compare_layers(path, manifest, _subject(architecture), picture), LEAST_SNR_DB[DType.FP32]
    )
    assert wrong is not None
    assert wrong.value.startswith(f"{layer}/")


def test_what_another_converter_wrote_has_no_layers_to_tell(tmp_path: Path) -> None:
    path, manifest = _released(Architecture.RESNET_6, Runtime.ONNX, DType.FP32, tmp_path)
    other = manifest.model_copy(update={"converter": "litert-torch"})
    with pytest.raises(ConversionFailed, match="litert-torch"):
        compare_layers(path, other, _subject(Architecture.RESNET_6), smooth_picture(32, 48))


class _Block(nn.Module):
    """Ends in a layer of its own; what its forward does by itself comes before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = self.conv(torch.relu(x))
        return drawn


class _Held(nn.Module):
    """As pytorch-CycleGAN-and-pix2pix holds its layers: all in one block."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = self.model(x)
        return drawn


def _layers_of_a_good_artifact(
    network: nn.Module, runtime: Runtime, folder: Path
) -> tuple[LayerFigures, ...]:
    source = Source(sha256="0" * 64, kind=Kind.MODULE, module="a:b")
    subject = Subject("blocks", source, network.eval())
    given = Pictures(("a",), (smooth_picture(32, 48, seed=3),))
    (artifact,) = release(Order(subject, folder, given, given, (runtime,)))
    manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
    layers = compare_layers(artifact.path, manifest, subject, given.values[0])
    assert first_wrong(layers, LEAST_SNR_DB[DType.FP32]) is None
    return layers


@pytest.mark.parametrize("runtime", Runtime)
def test_a_block_whose_value_is_not_its_last_is_not_wrong(runtime: Runtime, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), _Block(), _Block(), nn.Conv2d(8, 3, 1))
    layers = _layers_of_a_good_artifact(network, runtime, tmp_path)
    assert {"0", "1.conv", "2.conv"} <= {layer.layer for layer in layers}


@pytest.mark.parametrize("runtime", Runtime)
def test_a_block_that_ends_with_the_network_is_the_output(runtime: Runtime, tmp_path: Path) -> None:
    torch.manual_seed(0)
    last = nn.Conv2d(8, 3, 1)
    with torch.no_grad():
        last.weight.mul_(4)  # far from where a tanh changes little
    network = _Held(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(inplace=True), last, nn.Tanh())
    layers = _layers_of_a_good_artifact(network, runtime, tmp_path)
    assert {"model.0", "model.2"} <= {layer.layer for layer in layers}
