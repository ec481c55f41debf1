"""Making a convolution's weight from latents, and convolving with it without keeping it.

What autograd would keep and copy of weights that are made anew in every step is most of what a
search costs, so the gradients are written out here: the weight is made again in the backward
pass, and each number's gradient is computed once, from the weight's. For a pair of channels with
Z = z_in z_out + B0, a weight K of k*k and its gradient G:

    collapsed   K = A Z + C              dA = G Z,    dC = G,   dZ = <G, A>
    published   E = W1 Z + B1            dE = W2^T G, dW1 = dE Z,  dB1 = dE,  dZ = <dE, W1>
                K = W2 E + B2            dW2 = G E^T, dB2 = G
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True)
class Geometry:
    """What a square convolution is besides its weight."""

    kernel: int
    stride: int
    padding: int
    transposed: bool = False
    output_padding: int = 0


@dataclass(frozen=True)
class Dead:
    """Which input and output channels are masked, (n,) and (c,) bool."""

    inputs: Tensor
    outputs: Tensor

    def silence(self, weight: Tensor) -> Tensor:
        """Return (n, c, k*k) with the dead channels' entries set to zero, in place."""
        for axis, dead in enumerate((self.inputs, self.outputs)):
            if weight.device.type == "cpu":
                if dead.any():
                    weight.index_fill_(axis, dead.nonzero().flatten(), 0)
            else:  # to ask which are dead would make the host wait for the device
                weight.mul_(~dead.view(-1, 1, 1) if axis == 0 else ~dead.view(1, -1, 1))
        return weight


def made_weight(z: Tensor, numbers: Sequence[Tensor], dead: Dead) -> Tensor:
    """Return the weight of Z, (n, c), dead channels zero: (n, c, k*k).

    `numbers` are A and C, or W1, B1, W2 and B2 (module docstring).
    """
    if len(numbers) == 2:  # noqa: PLR2004 - the collapsed form's
        a, c = numbers
        return dead.silence(torch.addcmul(c, z.unsqueeze(-1), a))
    w1, b1, w2, b2 = numbers
    e = torch.addcmul(b1, z.unsqueeze(-1), w1)
    return dead.silence(torch.matmul(w2, e.unsqueeze(-1)).squeeze(-1).add_(b2))


def as_kernel(weight: Tensor, geometry: Geometry) -> Tensor:
    """Return (n, c, k*k) as torch wants it: (c, n, k, k), or (n, c, k, k) if transposed."""
    kernel = weight.view(*weight.shape[:2], geometry.kernel, geometry.kernel)
    return kernel if geometry.transposed else kernel.transpose(0, 1).contiguous()


class MadeConvolution(torch.autograd.Function):
    """Convolve (N, n, H, W) with the weight that is made of Z and numbers; see `made_weight`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        x: Tensor,
        bias: Tensor | None,
        z: Tensor,
        dead: Dead,
        geometry: Geometry,
        *numbers: Tensor,
    ) -> Tensor:
        """Return (N, c, H', W')."""
        ctx.save_for_backward(x, z, *numbers)
        ctx.dead, ctx.geometry, ctx.biased = dead, geometry, bias is not None
        with torch.autocast(x.device.type, enabled=False):
            kernel = as_kernel(made_weight(z, numbers, dead), geometry)
        g = geometry
        if not g.transposed:
            return F.conv2d(x, kernel, bias, g.stride, g.padding)
        return F.conv_transpose2d(x, kernel, bias, g.stride, g.padding, g.output_padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's context
        """Return the gradients of `forward`'s arguments."""
        x, z, *numbers = ctx.saved_tensors
        dead, g = ctx.dead, ctx.geometry
        kernel = as_kernel(made_weight(z, numbers, dead), g)
        grad_x, grad_kernel, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            x.to(grad.dtype),
            kernel.to(grad.dtype),
            [z.shape[1]],
            [g.stride] * 2,
            [g.padding] * 2,
            [1, 1],
            g.transposed,
            [g.output_padding] * 2,
            1,
            [ctx.needs_input_grad[0], True, ctx.biased],
        )
        del kernel
        weight = grad_kernel if g.transposed else grad_kernel.transpose(0, 1)
        grad_weight = dead.silence(weight.to(z.dtype).flatten(2).contiguous())
        del grad_kernel, weight
        grad_z, grad_numbers = _gradients(grad_weight, z, numbers)
        if grad_x is not None:
            grad_x = grad_x.to(x.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(z.dtype)
        return grad_x, grad_bias, grad_z, None, None, *grad_numbers


def _gradients(g: Tensor, z: Tensor, numbers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients of Z and of the numbers, from the weight's, (n, c, k*k)."""
    if len(numbers) == 2:  # noqa: PLR2004 - the collapsed form's
        return torch.linalg.vecdot(g, numbers[0]), [g * z.unsqueeze(-1), g]
    w1, b1, w2, _ = numbers
    e = torch.addcmul(b1, z.unsqueeze(-1), w1)
    grad_w2 = g.unsqueeze(-1) * e.unsqueeze(-2)
    grad_e = torch.matmul(g.unsqueeze(-2), w2).squeeze(-2)
    return torch.linalg.vecdot(grad_e, w1), [grad_e * z.unsqueeze(-1), grad_e, grad_w2, g]
