"""Wide convolutions of 3x3 taps in torch, by Winograd's minimal filtering F(4x4, 3x3).

36 products stand for 144 (see `minimal_filter`), as matrix products of all tiles at once: on AVX2,
with 256 channels at 64x64, half the time of torch's own convolution; 128 at 32x32 two thirds. The
result differs from torch's by some 3e-6 of its size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.export.passes.minimal_filter import F43

_LEAST_CHANNELS = 128  # the geometric mean of inputs and outputs
_LEAST_TILES = 64
_TOGETHER = 1 << 21  # numbers of a band of tiles: these stay in the caches
_TILE, _READ = F43.outputs, F43.products
# What each matrix does along both axes.
_INPUT, _KERNEL, _OUTPUT = (
    torch.from_numpy(np.kron(matrix, matrix).astype(np.float32))
    for matrix in (F43.input_matrix, F43.kernel_matrix, F43.output_matrix)
)


def is_wide(x: Tensor, weight: Tensor) -> bool:
    """Say if `conv3x3` is quicker than torch, for `x` (N, H, W, C) and `weight` (O, 3, 3, C)."""
    n, height, width, inputs = x.shape
    outputs, *taps, _ = weight.shape
    return (
        taps == [F43.taps, F43.taps]
        and x.dtype == weight.dtype == torch.float32
        and math.sqrt(inputs * outputs) >= _LEAST_CHANNELS
        and n * (height - 2) * (width - 2) >= _LEAST_TILES * _TILE**2
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution of `x` (N, H, W, C) with `weight` (O, 3, 3, C), float32 and unpadded.

    It is (N, H-2, W-2, O), and has gradients with respect to `x` alone.
    """
    y: Tensor = _Conv3x3.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        y = _convolved(x, weight)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's context
        gradient: Tensor,
    ) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        turned = weight.flip(1, 2).transpose(0, 3)
        return _convolved(F.pad(gradient, (0, 0, 2, 2, 2, 2)), turned), None, None


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    (n, height, width, inputs), outputs = x.shape, weight.shape[0]
    rows, columns = (-(-(side - 2) // _TILE) for side in (height, width))
    right, bottom = columns * _TILE + 2 - width, rows * _TILE + 2 - height
    if right or bottom:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.contiguous()
    kernels = _KERNEL @ weight.permute(1, 2, 3, 0).reshape(F43.taps**2, -1)
    kernels = kernels.view(-1, inputs, outputs)
    y = x.new_empty(n, rows, _TILE, columns, _TILE, outputs)
    band = max(1, _TOGETHER // (_READ**2 * n * columns * max(inputs, outputs)))
    for row in range(0, rows, band):
        windows = _windows(x[:, _TILE * row :], min(band, rows - row), columns)
        read = _INPUT @ windows.reshape(_READ**2, -1)
        products = read.view(_READ**2, -1, inputs) @ kernels
        pixels = _OUTPUT @ products.view(_READ**2, -1)
        y[:, row : row + band] = pixels.view(_TILE, _TILE, n, -1, columns, outputs).permute(
            2, 3, 0, 4, 1, 5
        )
    return y.view(n, rows * _TILE, columns * _TILE, outputs)[:, : height - 2, : width - 2]


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return what `rows` lines of tiles read of `x`, (6, 6, N, rows, columns, C), as a view."""
    n, _, _, channels = x.shape
    picture, line, pixel, channel = x.stride()
    return x.as_strided(
        (_READ, _READ, n, rows, columns, channels),
        (line, pixel, picture, _TILE * line, _TILE * pixel, channel),
        x.storage_offset(),
    )
