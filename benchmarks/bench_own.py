"""Measures networks that others publish, beside torch's own export of them to ONNX.

    python benchmarks/bench_own.py                      seven networks, one and two threads
    python benchmarks/bench_own.py --network fourier    an eighth, by the package onnxscript
    python benchmarks/bench_own.py --network nafnet --threads 1

A few blocks each, written down from the papers that the classes name, with random weights. "onnx"
and "tflite" are what `export` writes of them; both are beside torch.onnx.export's file in ONNX
Runtime. Launches and figures are as bench_lowering.py has them.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from bench_lowering import add_flags, measure
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.bench.system import host_facts
from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import OPSET, emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime

_SIZE = 128
_OPSET_OF_FOURIER = 20


class ChannelNorm(nn.Module):
    """A layer norm of each pixel, written by hand."""

    def __init__(self, channels: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        centred = x - x.mean(1, keepdim=True)
        deviation = torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return centred / deviation * self.scale + self.shift


class PixelNorm(nn.LayerNorm):
    """The same by nn.LayerNorm, between two permutes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def depthwise(channels: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class Residual(nn.Module):
    """Adds what its body makes of the picture."""

    def __init__(self, *body: nn.Module) -> None:
        """Take the layers, one after the other."""
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        changed: Tensor = self.body(x)
        return x + changed


class HalvesMultiplied(nn.Module):
    """The gate of NAFNet."""

    def forward(self, x: Tensor) -> Tensor:
        """Return half as many channels."""
        one, other = x.chunk(2, 1)
        return one * other


class HalvesGated(nn.Module):
    """The gate of Restormer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return half as many channels."""
        one, other = x.chunk(2, 1)
        return F.gelu(one) * other


class Weighed(nn.Module):
    """Multiplies channels by numbers that their means give."""

    def __init__(self, *between: nn.Module) -> None:
        """Take what stands behind the pooling."""
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), *between)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        weights: Tensor = self.weigh(x)
        return x * weights


class Transposed(nn.Module):
    """Attention between channels (Restormer)."""

    def __init__(self, channels: int, heads: int) -> None:
        """Give each head as many channels."""
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.enter = nn.Sequential(nn.Conv2d(channels, 3 * channels, 1), depthwise(3 * channels))
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        n, c, h, w = x.shape
        parts = self.enter(x).chunk(3, 1)
        q, k, v = (part.reshape(n, self.heads, c // self.heads, h * w) for part in parts)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.scale
        drawn: Tensor = self.leave((weights.softmax(-1) @ v).reshape(n, c, h, w))
        return drawn


class Dense(nn.Module):
    """Five convolutions, each of all before it (ESRGAN)."""

    def __init__(self, channels: int, growth: int) -> None:
        """Add `growth` channels by each of four."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + i * growth, growth if i < 4 else channels, 3, padding=1)
            for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        made = [x]
        for layer in self.layers:
            made.append(F.leaky_relu(layer(torch.cat(made, 1)), 0.2))
        return x + 0.2 * made[-1]


class AdaptiveNorm(nn.Module):
    """A mixture of instance and layer norm (U-GAT-IT)."""

    def __init__(self, channels: int) -> None:
        """Start with nine tenths of the instance's."""
        super().__init__()
        self.share = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        drawn = torch.zeros_like(x)
        for share, dims in ((self.share, (2, 3)), (1 - self.share, (1, 2, 3))):
            mean, variance = x.mean(dims, keepdim=True), x.var(dims, keepdim=True)
            drawn = drawn + share * (x - mean) / torch.sqrt(variance + 1e-5)
        return drawn


def _framed(width: int, body: list[nn.Module], *, halved: bool = True) -> nn.Module:
    """Return a generator with `body` on half the size, or on the whole."""
    if not halved:
        ends: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 1)]
    else:
        ends = [nn.Conv2d(3, width, 4, 2, 1), nn.ConvTranspose2d(width, 3, 4, 2, 1)]
    return nn.Sequential(ends[0], *body, ends[1], nn.Tanh()).eval()


def nafnet() -> nn.Module:
    """Four blocks (arXiv 2204.04676)."""
    c, body = 24, list[nn.Module]()
    for _ in range(4):
        gated = (nn.Conv2d(c, 2 * c, 1), depthwise(2 * c), HalvesMultiplied())
        weighed = Weighed(nn.Conv2d(c, c, 1))
        body += [
            Residual(ChannelNorm(c), *gated, weighed, nn.Conv2d(c, c, 1)),
            Residual(
                ChannelNorm(c), nn.Conv2d(c, 2 * c, 1), HalvesMultiplied(), nn.Conv2d(c, c, 1)
            ),
        ]
    return _framed(c, body, halved=False)


def convnext() -> nn.Module:
    """Four blocks (arXiv 2201.03545)."""
    c = 32
    block = [
        Residual(
            depthwise(c, 7), PixelNorm(c), nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1)
        )
        for _ in range(4)
    ]
    return _framed(c, [*block])


def restormer() -> nn.Module:
    """Three blocks of two heads (arXiv 2111.09881)."""
    c, wide, body = 24, 64, list[nn.Module]()
    for _ in range(3):
        body += [
            Residual(PixelNorm(c), Transposed(c, 2)),
            Residual(
                PixelNorm(c),
                nn.Conv2d(c, 2 * wide, 1),
                depthwise(2 * wide),
                HalvesGated(),
                nn.Conv2d(wide, c, 1),
            ),
        ]
    return _framed(c, body)


def mobilenet() -> nn.Module:
    """Four blocks of the third version (arXiv 1905.02244)."""
    c, wide, body = 24, 96, list[nn.Module]()
    for _ in range(4):
        enter = (nn.Conv2d(c, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        spread = (depthwise(wide, 5), nn.BatchNorm2d(wide), nn.Hardswish())
        weigh = (nn.Conv2d(wide, 24, 1), nn.ReLU(), nn.Conv2d(24, wide, 1), nn.Hardsigmoid())
        leave = (nn.Conv2d(wide, c, 1, bias=False), nn.BatchNorm2d(c))
        body.append(Residual(*enter, *spread, Weighed(*weigh), *leave))
    return _framed(c, body)


def group_norms() -> nn.Module:
    """Four residual blocks as diffusion models have them, enlarged bilinearly."""
    c = 32
    body: list[nn.Module] = [
        Residual(
            *(nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(8, c), nn.SiLU()),
            *(nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(8, c)),
        )
        for _ in range(4)
    ]
    enlarged = (nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(c, 3, 3, padding=1))
    return nn.Sequential(nn.Conv2d(3, c, 4, 2, 1), *body, *enlarged, nn.Tanh()).eval()


def esrgan() -> nn.Module:
    """Three dense blocks (arXiv 1809.00219)."""
    return _framed(32, [Dense(32, 16) for _ in range(3)])


def u_gat_it() -> nn.Module:
    """Four blocks (arXiv 1907.10830)."""
    c = 32
    body: list[nn.Module] = [
        Residual(nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=False), AdaptiveNorm(c), nn.ReLU())
        for _ in range(4)
    ]
    return _framed(c, body)


class Frequencies(nn.Module):
    """A convolution of all frequencies of a picture, by which each pixel sees every other."""

    def __init__(self, channels: int) -> None:
        """Mix real and imaginary parts of all channels."""
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, H, W)."""
        spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho")
        pairs = torch.stack((spectrum.real, spectrum.imag), 2).flatten(1, 2)
        pairs = F.relu(self.norm(self.conv(pairs)))
        pairs = pairs.view(len(x), -1, 2, *pairs.shape[2:])
        spectrum = torch.complex(pairs[:, :, 0], pairs[:, :, 1])
        picture: Tensor = torch.fft.irfftn(spectrum, s=x.shape[-2:], dim=(-2, -1), norm="ortho")
        return picture


def fourier() -> nn.Module:
    """Four fast Fourier convolutions and as many of 3x3 on a quarter (LaMa, arXiv 2109.07161)."""
    c, body = 48, list[nn.Module]()
    for _ in range(4):
        inside = (nn.Conv2d(c, c, 1), Frequencies(c), nn.Conv2d(c, c, 1))
        body += [Residual(*inside), Residual(nn.Conv2d(c, c, 3, padding=1), nn.ReLU())]
    ends = nn.Conv2d(3, c, 8, 4, 2), nn.ConvTranspose2d(c, 3, 8, 4, 2)
    return nn.Sequential(ends[0], *body, ends[1], nn.Tanh()).eval()


NEEDS_ONNXSCRIPT = {"fourier": fourier}
"""What torch's first exporter cannot write, and its second one can, with that package."""

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "nafnet": nafnet,
    "convnext": convnext,
    "restormer": restormer,
    "mobilenet": mobilenet,
    "group norms": group_norms,
    "esrgan": esrgan,
    "u-gat-it": u_gat_it,
}


def write(network: nn.Module, folder: Path, *, dynamo: bool) -> list[Path]:
    """Write the three files into `folder`, the plain one by torch's first exporter or its second.

    Returns where they are.
    """
    paths = [folder / name for name in ("plain.onnx", "lowered.onnx", "lowered.tflite")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = torch.zeros(1, 3, _SIZE, _SIZE)
        opset = _OPSET_OF_FOURIER if dynamo else OPSET
        torch.onnx.export(network, (picture,), paths[0], dynamo=dynamo, opset_version=opset)
        graph = capture(network, _SIZE, _SIZE)
    paths[1].write_bytes(emit_onnx(lower(graph, Runtime.ONNX)[0], DType.FP32, {}))
    paths[2].write_bytes(emit_tflite(lower(graph, Runtime.TFLITE)[0], DType.FP32, {}))
    return paths


def main() -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="", help="only networks whose name contains this")
    add_flags(parser)
    args = parser.parse_args()
    print(f"FP32, {_SIZE}x{_SIZE}, {host_facts()['cpu']}")
    columns = "".join(f" plain {n}T ms | onnx | tflite |" for n in args.threads)
    print(f"| network |{columns}\n| --- |{' --: | --: | --: |' * len(args.threads)}")
    networks = NETWORKS if args.network not in NEEDS_ONNXSCRIPT else NEEDS_ONNXSCRIPT
    for name in (name for name in networks if args.network in name):
        torch.manual_seed(0)
        cells = [name]
        with tempfile.TemporaryDirectory() as folder:
            dynamo = name in NEEDS_ONNXSCRIPT
            paths = write(networks[name](), Path(folder), dynamo=dynamo)
            for threads in args.threads:
                plain, *ours = measure(paths, args, threads)
                cells += [f"{plain:.1f}", *(f"{taken / plain:.2f}" for taken in ours)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
