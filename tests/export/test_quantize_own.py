"""INT8 of networks that no checkpoint of ours is: silent channels, ends that no tanh bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.export.build import Built, build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.subject import Subject
from coronet_deploy.verify.gate import translate, try_artifact
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
