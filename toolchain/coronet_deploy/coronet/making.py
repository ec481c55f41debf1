"""Making a convolution's weight from latents, and convolving with it without keeping it.

What autograd would keep and copy of weights that are made anew in every step is most of what a
search costs, so the gradients are written out here, each from the weight's. For a pair of
channels with Z = z_in z_out + B0, a weight K of k*k and its gradient G:

    collapsed   K = A Z + C              dA = G Z,    dC = G,   dZ = <G, A>
    published   E = W1 Z + B1            dE = W2^T G, dW1 = dE Z,  dB1 = dE,  dZ = <dE, W1>
                K = W2 E + B2            dW2 = G E^T, dB2 = G

For n input and c output channels, Z and the numbers are (n, c, ...). What is computed is in the
order of torch's kernels, (c, n, ...), or (n, c, ...) if the convolution is transposed; (p, q, ...)
stands for either. The last of the numbers, C or B2, has the weight's own gradient: where only
that one asks for a gradient, nothing else is computed (see `stepping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_CHUNK = 1 << 18  # numbers that a CPU's caches hold from one operation to the next


@dataclass(frozen=True)
class Geometry:
    """What a square convolution is besides its weight."""

    kernel: int
    stride: int
    padding: int
    transposed: bool = False
    output_padding: int = 0

    def turned(self, tensor: Tensor) -> Tensor:
        """Return (n, c, ...) as (p, q, ...), or the other way round: a view."""
        return tensor if self.transposed else tensor.transpose(0, 1)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Return (n, c, ...) as it is, but in memory as (p, q, ...).

        Nothing has to be copied then where numbers become weights and gradients come back.
        """
        return self.turned(self.turned(tensor).contiguous())


@dataclass(frozen=True)
class Dead:
    """Which channels are masked along a kernel's first and second axis.

    On a CPU `rows` and `columns` are their indices. To ask for those would make the host wait for
    any other device, where `alive`, (p, q, 1) bool, says which pairs of channels are not masked.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    alive: Tensor | None = None

    @classmethod
    def but(cls, rows: Tensor, columns: Tensor) -> Dead:
        """Return all but the channels that live: `rows` (p,) and `columns` (q,) bool."""
        if rows.device.type != "cpu":
            return cls(alive=(rows[:, None] & columns)[:, :, None])
        return cls(*((~living).nonzero().flatten() for living in (rows, columns)))

    def silence(self, weight: Tensor) -> Tensor:
        """Return (p, q, k*k) with the dead channels' entries set to zero, in place."""
        if self.alive is not None:
            return weight.mul_(self.alive)
        for axis, dead in enumerate((self.rows, self.columns)):
            if dead is not None and dead.numel():
                weight.index_fill_(axis, dead, 0)
        return weight


def made_kernel(z: Tensor, numbers: Sequence[Tensor], dead: Dead, geometry: Geometry) -> Tensor:
    """Return the weight of Z, dead channels zero: (p, q, k, k).

    `numbers` are A and C, or W1, B1, W2 and B2 (module docstring).
    """
    here, *made_of = (geometry.turned(tensor) for tensor in (z.unsqueeze(-1), *numbers))
    if len(made_of) == 2:  # noqa: PLR2004 - the collapsed form's
        a, c = made_of
        weight = torch.addcmul(c, here, a)
    else:
        w1, b1, w2, b2 = made_of
        e = torch.addcmul(b1, here, w1)
        weight = torch.matmul(w2, e.unsqueeze(-1)).squeeze(-1).add_(b2)
    kernel = dead.silence(weight).view(*weight.shape[:2], geometry.kernel, geometry.kernel)
    return kernel.contiguous()


class MadeConvolution(torch.autograd.Function):
    """Convolve (N, n, H, W) with the weight that is made of Z and numbers; see `made_kernel`."""

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
        ctx.dead, ctx.geometry, ctx.biased = dead, geometry, bias is not None
        g = geometry
        with torch.autocast(x.device.type, enabled=False):
            weight = made_kernel(z, numbers, dead, g)
        ctx.save_for_backward(x, z, *numbers)
        if not g.transposed:
            return F.conv2d(x, weight, bias, g.stride, g.padding)
        return F.conv_transpose2d(x, weight, bias, g.stride, g.padding, g.output_padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's context
        """Return the gradients of `forward`'s arguments."""
        x, z, *numbers = ctx.saved_tensors
        g = ctx.geometry
        # Kept since the forward pass, the weights would be a quarter of what a search holds.
        weight = made_kernel(z, numbers, ctx.dead, g)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            x.to(grad.dtype),
            weight.to(grad.dtype),
            [z.shape[1]],
            [g.stride] * 2,
            [g.padding] * 2,
            [1, 1],
            g.transposed,
            [g.output_padding] * 2,
            1,
            [ctx.needs_input_grad[0], True, ctx.biased],
        )
        del weight
        grad_weight = grad_weight.to(z.dtype).flatten(2).contiguous()
        ctx.dead.silence(grad_weight)
        if grad_x is not None:
            grad_x = grad_x.to(x.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(z.dtype)
        others = ctx.needs_input_grad[2], *ctx.needs_input_grad[5:-1]
        if not any(others):
            nothing = [None] * (len(numbers) - 1)
            return grad_x, grad_bias, None, None, None, *nothing, g.turned(grad_weight)
        made_of = [g.turned(number) for number in numbers]
        grads = [g.turned(grad) for grad in _gradients(grad_weight, g.turned(z), made_of)]
        return grad_x, grad_bias, grads[0], None, None, *grads[1:]


def _gradients(grad_weight: Tensor, z: Tensor, numbers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of Z and of the numbers, from the weight's, (p, q, k*k)."""
    whole = [torch.empty_like(tensor) for tensor in (z, *numbers[:-1])]
    for rows in chunks(grad_weight):
        parts = gradients(grad_weight[rows], z[rows], [number[rows] for number in numbers])
        for tensor, part in zip(whole, parts, strict=True):
            tensor[rows] = part
    return (*whole, grad_weight)


def gradients(g: Tensor, z: Tensor, numbers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of Z and of all numbers but the last, whose gradient `g` itself is."""
    here = z.unsqueeze(-1)
    if len(numbers) == 2:  # noqa: PLR2004 - the collapsed form's
        return (g * numbers[0]).sum(-1), g * here
    w1, b1, w2, _ = numbers
    e = torch.addcmul(b1, here, w1)
    grad_e = torch.matmul(g.unsqueeze(-2), w2).squeeze(-2)
    return (grad_e * w1).sum(-1), grad_e * here, grad_e, g.unsqueeze(-1) * e.unsqueeze(-2)


def chunks(weight: Tensor) -> Iterator[slice]:
    """Yield slices of the first axis, small enough for a CPU's caches; elsewhere one slice."""
    length = weight.shape[0]
    step = max(_CHUNK * length // weight.numel(), 1) if weight.device.type == "cpu" else length
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
