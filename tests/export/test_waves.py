"""Sines, cosines, the error function and running sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import emit
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    INTEGER,
    LEAST_DB,
    Does,
    Share,
    artifacts,
    run_onnx,
    run_tflite,
    run_torch,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.mark.parametrize("what", [torch.sin, torch.cos, torch.erf], ids=["sin", "cos", "erf"])
@pytest.mark.parametrize("reach", [1e-3, 2, 40, 1000])
def test_curves_are_off_by_no_more_than_float32_is(
    what: Callable[[Tensor], Tensor], reach: float
) -> None:
    picture = np.linspace(-reach, reach, 4096, dtype=np.float32).reshape(1, 32, 128, 1)
    graph = capture(Does(what), 32, 128, 1)
    wanted = what(torch.from_numpy(picture).double()).numpy()
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        assert np.abs(run(data, picture) - wanted).max() < 6e-7


class _Siren(nn.Module):
    """Sines of what a convolution makes (Sitzmann et al. 2020, arXiv 2006.09661), and cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(24, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        waves = torch.cat([torch.sin(5 * x), torch.cos(5 * x), torch.erf(x)], 1)
        drawn: Tensor = self.last(waves)
        return drawn.tanh()


class _Box(nn.Module):
    """Means of squares by running sums, as fast guided filters have them, and of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for dim in (2, 3):
            sums = x.cumsum(dim)
            some = sums.narrow(dim, 3, sums.shape[dim] - 3) - sums.narrow(
                dim, 0, sums.shape[dim] - 3
            )
            x = torch.cat([sums.narrow(dim, 0, 3), some], dim) / 3
        drawn: Tensor = self.last(torch.cumsum(x, 1) / 6)
        return drawn.tanh()


@pytest.mark.parametrize("network", [_Siren, _Box])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_they_are_one_part_in_every_number_type_or_refused(
    runtime: Runtime,
    dtype: DType,
    network: Callable[[], nn.Module],
    odd_pictures: Pictures,
    shared: Share,
    tmp_path: Path,
) -> None:
    own = shared(network, network, odd_pictures)
    if dtype in INTEGER and network is _Siren:
        with pytest.raises(ConversionFailed, match=r"computes in no integers.*int8"):
            own.draw(runtime, dtype, tmp_path)
        return
    least, whole = own.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


@pytest.mark.parametrize("dim", [1, 2, 3, -1])
def test_running_sums_are_those_of_torch(dim: int) -> None:
    network, random = Does(lambda x: torch.cumsum(x, dim)), np.random.default_rng(3)
    picture = random.uniform(-1, 1, (1, 21, 37, 5)).astype(np.float32)
    graph, wanted = capture(network, 21, 37, 5), run_torch(network, picture)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        assert np.abs(run(data, picture) - wanted).max() < 5e-6
