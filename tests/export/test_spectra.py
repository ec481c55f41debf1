"""Fourier transforms, and complex numbers between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

HEIGHT, WIDTH, CHANNELS = 20, 14, 4
HALF = WIDTH // 2 + 1
SHAPE = 1, CHANNELS, HEIGHT, HALF
Drawing = Callable[[Tensor], Tensor]


def rfft(x: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft2(x)
    return spectrum


def back(spectrum: Tensor) -> Tensor:
    picture: Tensor = torch.fft.irfft2(spectrum, s=(HEIGHT, WIDTH))
    return picture


def drawn(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(math.prod(shape)).normal(0, 0.3, shape)).float()


SPREAD, MASK, WHOLE = drawn(*SHAPE), drawn(HEIGHT, HALF), torch.view_as_complex(drawn(*SHAPE, 2))
PLANE, A_CHANNEL = (torch.view_as_complex(drawn(*n, 2)) for n in ((HEIGHT, HALF), (CHANNELS, 1, 1)))
MIXED = drawn(2 * CHANNELS, 2 * CHANNELS, 1, 1)
PIXELS, LINES = torch.view_as_complex(drawn(HEIGHT, WIDTH, 2)), drawn(HEIGHT, 1)


def _rolled(x: Tensor) -> Tensor:
    middle = torch.fft.fftshift(rfft(x), dim=2) * LINES
    return back(torch.fft.ifftshift(middle, dim=2))


def _two_halves(x: Tensor) -> Tensor:
    first, second = rfft(x).chunk(2, 1)
    return back(torch.cat([first, second * 2], 1))


TRANSFORMS: dict[str, Drawing] = {
    "rfft2": lambda x: torch.view_as_real(rfft(x))[..., 1],
    "rfftn, ortho": lambda x: torch.fft.rfftn(x, dim=(-2, -1), norm="ortho").real,
    "rfftn, forward": lambda x: torch.fft.rfftn(x, dim=(2, 3), norm="forward").imag,
    "rfftn of all axes": lambda x: torch.fft.rfftn(x).real,
    "rfftn of two sizes": lambda x: torch.fft.rfftn(x, s=(24, 10)).real,
    "fft2": lambda x: torch.fft.fft2(x).imag,
    "fftn of three axes": lambda x: torch.fft.fftn(x, dim=(1, 2, 3)).real,
    "ifft2": lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real,
    "ifftn, forward": lambda x: torch.fft.ifftn(torch.fft.fftn(x), norm="forward").real / 300,
    "irfft2": lambda x: torch.fft.irfft2(rfft(x)),
    "irfftn of an odd size": lambda x: torch.fft.irfftn(rfft(x), s=(HEIGHT, 13), dim=(2, 3)),
    "irfft2, cut and filled": lambda x: torch.fft.irfft2(rfft(x), s=(16, 18)),
    "irfft2 with a size as it is": lambda x: torch.fft.irfft2(rfft(x), s=(-1, 12)),
    "lines down": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=2), n=HEIGHT, dim=2),
    "lines of another length": lambda x: torch.fft.rfft(x, n=23).imag,
    "shorter lines": lambda x: torch.fft.rfft(x, n=9).real,
    "channels": lambda x: torch.fft.fft(x, dim=1).imag,
    "turned axes": lambda x: torch.fft.rfft2(x.permute(0, 2, 3, 1), dim=(2, 1)).real.permute(
        0, 3, 1, 2
    ),
    "one axis of pixels": lambda x: torch.fft.fft(x.flatten(2)).real.view(x.shape),
}
COMPLEX: dict[str, Drawing] = {
    "parts beside each other": lambda x: back(torch.complex(F.relu(rfft(x).real), rfft(x).imag)),
    "stacked parts": lambda x: torch.stack((rfft(x).real, rfft(x).imag), 2).flatten(1, 2),
    "no imaginary part": lambda x: back(torch.complex(rfft(x).real, torch.zeros(SHAPE))),
    "a learnt real part": lambda x: back(torch.complex(SPREAD, rfft(x).imag)),
    "magnitudes": lambda x: rfft(x).abs(),
    "by magnitudes": lambda x: back(rfft(x) * torch.sigmoid(rfft(x).abs())),
    "a mask of one channel": lambda x: back(rfft(x[:, :1]).abs().sigmoid() * rfft(x)),
    "one channel more": lambda x: back(rfft(x[:, :1]) + rfft(x)),
    "over magnitudes": lambda x: back(rfft(x) / (rfft(x).abs() + 0.1)),
    "a real mask": lambda x: back(rfft(x) * MASK),
    "a learnt filter": lambda x: back(rfft(x) * WHOLE),
    "a filter a channel": lambda x: back(A_CHANNEL * rfft(x)),
    "learnt numbers more": lambda x: back(rfft(x) + WHOLE),
    "over learnt numbers": lambda x: back(rfft(x) / (PLANE + 2)),
    "over real ones": lambda x: back(rfft(x) / (MASK + 2)),
    "learnt over magnitudes": lambda x: back(torch.complex(rfft(x).abs(), rfft(x).abs()) / 3),
    "a real picture by learnt ones": lambda x: torch.fft.ifft2(x * PIXELS).real,
    "a product": lambda x: back(rfft(x) * rfft(x * 0.1)) * 0.1,
    "a correlation": lambda x: back(rfft(x) * rfft(x * 0.1).conj()) * 0.1,
    "a complex number": lambda x: back(rfft(x) * (0.5 - 2j) - 1j),
    "one less": lambda x: back(1 - rfft(x)),
    "twice less": lambda x: back(torch.sub(rfft(x), torch.fft.rfft2(x * x), alpha=2)),
    "negative": lambda x: back(-rfft(x)),
    "polar": lambda x: back(torch.polar(rfft(x).abs(), rfft(x).real * 0.1)),
    "polar of learnt sizes": lambda x: back(torch.polar(SPREAD.abs(), rfft(x).imag)),
    "rolled": _rolled,
    "two halves": _two_halves,
    "moved about": lambda x: back(rfft(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
    "low frequencies": lambda x: torch.fft.irfft2(rfft(x)[:, :, :8, :5], s=(8, 8)),
    "high frequencies": lambda x: back(rfft(x) * (torch.fft.rfftfreq(WIDTH)[None] > 0.1)),
}


@pytest.mark.parametrize("what", TRANSFORMS | COMPLEX)
def test_they_are_those_of_torch(what: str) -> None:
    def draw(x: Tensor) -> Tensor:
        made = (TRANSFORMS | COMPLEX)[what](x)
        return F.conv2d(made, MIXED[: made.shape[1], : made.shape[1]])

    network, random = Does(draw), np.random.default_rng(3)
    picture = random.uniform(-1, 1, (1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    graph, wanted = capture(network, HEIGHT, WIDTH, CHANNELS), run_torch(network, picture)
    scale = np.abs(wanted).max()
    assert scale > 1e-2
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        assert np.abs(run(data, picture) - wanted).max() < 4e-6 * scale


class _FourierUnit(nn.Module):
    """A convolution of frequencies (Chi et al. 2020, fast Fourier convolution; LaMa)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho")
        pairs = torch.stack((spectrum.real, spectrum.imag), dim=-1)
        pairs = pairs.permute(0, 1, 4, 2, 3).contiguous()
        pairs = pairs.view((len(x), -1, *pairs.shape[3:]))
        pairs = F.relu(self.norm(self.conv(pairs)))
        pairs = pairs.view((len(x), -1, 2, *pairs.shape[2:])).permute(0, 1, 3, 4, 2).contiguous()
        spectrum = torch.complex(pairs[..., 0], pairs[..., 1])
        size = x.shape[-2:]
        drawing: Tensor = torch.fft.irfftn(spectrum, s=size, dim=(-2, -1), norm="ortho")
        return drawing


class _Inpainting(nn.Module):
    """Two fast Fourier convolutions between a convolution and one that is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)
        self.units = nn.ModuleList(_FourierUnit(8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for unit in self.units:
            x = x + unit(x)
        return torch.tanh(self.last(x))


class _GlobalFilter(nn.Module):
    """A learnt filter of frequencies (Rao et al. 2021, arXiv 2107.00645)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)
        self.filter = nn.Parameter(torch.randn(8, 14, 7, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        x = x + torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")
        return torch.tanh(self.last(x))


@pytest.mark.parametrize("network", [_Inpainting, _GlobalFilter])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_networks_of_frequencies_are_one_part_in_every_number_type(
    runtime: Runtime,
    dtype: DType,
    network: Callable[[], nn.Module],
    shared: Share,
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(5)
    coarse = random.uniform(-1, 1, (3, 1, 7, 6, 3)).astype(np.float32)
    values = tuple(np.kron(one, np.ones((1, 8, 8, 1), np.float32)) for one in coarse)
    pictures = Pictures(("a", "b", "c"), values)
    least, whole = shared(network, network, pictures).draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


def test_a_spectrum_keeps_its_parts_together() -> None:
    graph = capture(_Inpainting(), 56, 48)
    kinds = [node.op.kind for node in graph.nodes]
    assert not {"concat", "pick_channels", "slice"} & set(kinds)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda x: rfft(x).angle(), "aten.angle.default in layer"),
        (lambda x: back(torch.tanh(rfft(x))), "takes complex numbers; x.real, x.imag and x.abs()"),
        (lambda x: back(rfft(x) / rfft(x + 2)), "divides by complex numbers; multiply by"),
        (lambda x: back(torch.cat([rfft(x), WHOLE], 1)), "beside others"),
        (lambda x: back(rfft(x).mul_(2)), "writes complex numbers into memory"),
        (rfft, "the network returns"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_of_them_says_why(what: Drawing, reason: str) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(Does(what), HEIGHT, WIDTH, CHANNELS)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_written_to_is_not_read_from_the_whole() -> None:
    def draw(x: Tensor) -> Tensor:
        spectrum = rfft(x)
        spectrum.real.mul_(2)
        return back(spectrum)

    with pytest.raises(ConversionFailed, match="writes in place into memory"):
        capture(Does(draw), HEIGHT, WIDTH, CHANNELS)
