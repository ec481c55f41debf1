"""Layers of torch that take means: norms over groups of channels."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime
from lowering import own_subject, run_torch, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")

_LEAST_DB = {DType.FP32: 110, DType.FP16: 70, DType.INT8: 40, DType.INT8_FULL: 40}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


def _norm(groups: int, channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Return a norm with learnt numbers unlike each other."""
    norm = nn.GroupNorm(groups, channels, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (2, 6), (3, 6), (6, 6), (1, 1)])
def test_groups_of_channels_are_normed_together(groups: int, channels: int, affine: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 1), _norm(groups, channels, affine=affine))
    # Far from 0, where a mean that is taken carelessly shows.
    picture = 9 * smooth_picture(24, 14) + 50
    expected = network.double()(torch.from_numpy(picture.transpose(0, 3, 1, 2)).double())
    graph = capture(network.float(), 24, 14)
    drawn = interpret(graph, picture, np.float64)
    assert np.abs(drawn - expected.detach().numpy().transpose(0, 2, 3, 1)).max() < 1e-4
    assert graph.count().get("instance_norm", 0) == (groups == channels)


def test_a_norm_of_groups_adds_no_convolution_that_could_be_quantised() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), _norm(2, 8), nn.ReLU())
    for runtime in Runtime:
        lowered, _ = lower(capture(network, 24, 14), runtime, integer=True)
        assert lowered.count()["conv2d"] == 1


def _normed(groups: int, channels: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, channels, 3, 2, 1), _norm(groups, channels), nn.ReLU()),
        *(nn.Conv2d(channels, channels, 3, 1, 1), _norm(groups, channels), nn.ReLU()),
        *(nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh()),
    )


@pytest.mark.parametrize(("groups", "channels"), [(4, 16), (8, 24), (1, 12)])
@pytest.mark.parametrize(("runtime", "dtype"), list(product(Runtime, _LEAST_DB)))
def test_norms_of_groups_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, groups: int, channels: int, pictures: Pictures, tmp_path: Path
) -> None:
    _draws(_normed(groups, channels).eval(), runtime, dtype, pictures, tmp_path)


def _draws(
    network: nn.Module, runtime: Runtime, dtype: DType, pictures: Pictures, folder: Path
) -> None:
    """Assert that the artifact draws as torch does, whole on the fast path of its runtime."""
    graph = capture(network, 60, 88)
    built = build(graph, runtime, dtype, own_subject(network), pictures)
    path = folder / f"own{runtime.suffix}"
    path.write_bytes(built.data)
    with open_session(path, runtime, 1) as session:
        assert dtype is DType.INT8_FULL or session.partitions.fully_accelerated
        for picture in pictures.values:
            assert psnr_db(run_torch(network, picture), session.run(picture)) >= _LEAST_DB[dtype]
