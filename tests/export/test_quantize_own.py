"""INT8 of networks that no checkpoint of ours is: silent channels, ends that no tanh bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import Built, build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.equalize import equalize
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.manifest import Source, read_manifest
from coronet_deploy.export.outputs import spread_of
from coronet_deploy.export.passes import lower
from coronet_deploy.export.quantize import plan_int8
from coronet_deploy.export.ranges import channel_deviations, measure
from coronet_deploy.export.sensitivity import Trial, int8_layers, search, simulate
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject
from coronet_deploy.ranges import Range, Seen, fitted
from coronet_deploy.verify.gate import translate, try_artifact
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import DType, Kind, Runtime
from lowering import smooth_picture

HEIGHT, WIDTH = 32, 48


def _subject(network: nn.Module) -> Subject:
    return Subject("own", Source(sha256="0" * 64, kind=Kind.MODULE, module="a:b"), network)


def _built(network: nn.Module, runtime: Runtime, dtype: DType = DType.INT8) -> Built:
    graph = capture(network, HEIGHT, WIDTH)
    return build(graph, runtime, dtype, _subject(network), _pictures())


def _pictures() -> Pictures:
    return Pictures(tuple("abc"), tuple(smooth_picture(HEIGHT, WIDTH, seed=i) for i in range(3)))


def _psnr_db(network: nn.Module, built: Built, folder: Path) -> float:
    path = folder / "artifact"
    path.write_bytes(built.data)
    references = translate(network, _pictures())
    return try_artifact(path, built.embedded.runtime, _pictures(), references, 0).parity.psnr_db


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize("gamma", [1e-5, 0.0])
def test_a_channel_that_its_norm_silenced_keeps_its_bias(
    gamma: float, runtime: Runtime, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, 1, 1), norm, nn.ReLU()),
        *(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()),
    ).eval()
    with torch.no_grad():
        norm.weight[0], norm.bias[0] = gamma, 0.5
    built = _built(network, runtime)
    assert built.quantization is not None
    assert not built.quantization.float_layers
    assert _psnr_db(network, built, tmp_path) >= 60


def test_an_epsilon_that_shows_keeps_a_channel_as_it_is() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, 1, 1)
    with torch.no_grad():
        first.weight[:4] *= 0.03
    network = nn.Sequential(
        first, nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1), nn.Tanh()
    )
    graph = capture(network, HEIGHT, WIDTH)
    even = equalize(graph, _pictures())
    for picture in _pictures().values:
        assert psnr_db(interpret(graph, picture), interpret(even, picture)) > 60
    value = even.nodes[0].output
    deviations = channel_deviations(even, [value], _pictures())[value]
    assert deviations[:4].max() < 0.1
    assert deviations[4:] == pytest.approx(1, abs=0.3)


class _Ending(nn.Module):
    """Draws without a tanh, `times` as large as it might."""

    def __init__(self, times: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = self.last(torch.relu(self.first(x))) * self.times
        return drawn


def test_the_search_measures_against_what_the_network_reaches() -> None:
    lowered, _ = lower(capture(_Ending(0.01), HEIGHT, WIDTH), Runtime.ONNX, integer=True)
    layers = int8_layers(lowered)
    ranges = measure(lowered, [v for x in layers for v in (x.source, x.name)], _pictures())
    references = [interpret(lowered, picture) for picture in _pictures().values]
    low, high = spread_of(None, references)
    for budget_db in (30.0, 60.0):
        chosen = search(Trial(lowered, _pictures(), ranges, None), budget_db)
        assert (len(chosen) == len(layers)) == (budget_db < 40)
        for reference, picture in zip(references, _pictures().values, strict=True):
            drawn = simulate(lowered, chosen, ranges, picture)
            assert psnr_db(reference, drawn, (low, high)) >= budget_db


def test_a_file_is_held_to_the_range_of_its_network(tmp_path: Path) -> None:
    ends = {
        "bytes": (nn.Sequential(_Ending(1.0), nn.Tanh(), _Scaled()), None),
        "sigmoid": (nn.Sequential(_Ending(1.0), nn.Sigmoid()), 1.0),
        "tanh": (nn.Sequential(_Ending(1.0), nn.Tanh()), 2.0),
    }
    for name, (network, peak) in ends.items():
        order = Order(_subject(network.eval()), tmp_path / name, _pictures(), _pictures())
        for artifact in release(order):
            manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
            references = translate(network, _pictures())
            low, high = spread_of(manifest.output.value_range, references)
            assert (manifest.parity.peak or 2.0) == pytest.approx(peak or high - low, rel=1e-5)
            assert artifact.parity.passed


class _Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1) * 127.5


def test_a_picture_of_zeros_is_no_faint_picture() -> None:
    faint = (np.random.default_rng(0).normal(0, 0.05, (1, 32, 32, 3))).astype(np.float32)
    assert psnr_db(faint, np.zeros_like(faint)) > 30
    assert psnr_db(faint, np.zeros_like(faint), spread_of(None, [faint])) < 25
    assert spread_of(None, [np.zeros((1, 2, 2, 1), np.float32)]) == (0, 1)


@pytest.mark.parametrize("dtype", [DType.FP32, DType.INT8, DType.INT8_FULL])
@pytest.mark.parametrize("runtime", Runtime)
def test_strides_may_differ(runtime: Runtime, dtype: DType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 3, (4, 3), (2, 1), (1, 1)), nn.Tanh()),
    ).eval()
    built = _built(network, runtime, dtype)
    assert _psnr_db(network, built, tmp_path) >= {DType.FP32: 100}.get(dtype, 50)


def test_a_manifest_tells_of_every_convolution_and_of_what_was_done() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1), nn.Tanh()),
    ).eval()
    study = Study(capture(network, HEIGHT, WIDTH), _pictures())
    for budget_db in (30.0, 75.0):
        plan = plan_int8(study, Runtime.ONNX, budget_db)
        told = plan.summary
        assert {"3/depthwise_conv2d"} <= set(told.float_layers)
        assert len(told.int8_layers) + len(told.float_layers) == 4
        assert set(told.packed_layers) == plan.packed <= set(told.float_layers)
    assert plan.packed
    built = _built(network, Runtime.ONNX)
    assert built.embedded.passes[:2] == ("fold_batch_norm", "equalize")
    built = _built(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()), Runtime.ONNX)
    assert not {"fold_batch_norm", "equalize"}.intersection(built.embedded.passes)


def test_a_network_without_convolutions_is_said_to_have_none() -> None:
    with pytest.raises(ConversionFailed, match="no convolution"):
        _built(nn.Sequential(nn.InstanceNorm2d(3), nn.Tanh()), Runtime.ONNX)


@pytest.mark.parametrize("largest", [1e-45, 1e-40, 1e-37])
def test_values_next_to_nothing_are_as_good_as_constant(largest: float) -> None:
    values = np.linspace(0, largest, 50, dtype=np.float32)
    assert fitted(Seen(0.0, float(values.max()), values)) == Range(0.0, 1.0)
