"""Hypernetwork layers: convolutions whose weights are made from two latent vectors.

For n input and c output channels and a kernel of k*k (DHP, Li et al., ECCV 2020, section 3.2):

    Z    = z_in z_out^T + B0            latent layer, (n, c)
    E_ij = Z_ij W1_ij + B1_ij           embedding layer, m numbers a channel pair
    K_ij = W2_ij E_ij + B2_ij           explicit layer, k*k numbers a channel pair

There is no non-linearity, so K_ij = A_ij Z_ij + C_ij with A = W2 W1 and C = W2 B1 + B2: the
*collapsed* form holds A and C themselves, algebraically equal, with 2 numbers a weight where the
*published* form holds about ten; its gradients are scaled differently, so training differs.

Channels whose latent entry is dead are masked on both sides of every layer, so the generator
that is searched computes exactly what the dense one without those channels will.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.latents import LatentVectors
from coronet_deploy.coronet.making import Dead, Geometry, MadeConvolution, made_kernel
from coronet_deploy.networks.layers import InstanceNorm
from coronet_deploy.vocabulary import Norm

EMBEDDING = 8

ChannelAxes = dict[str, dict[int, tuple[str, ...]]]


class Form(StrEnum):
    """How a hypernetwork layer holds its numbers (module docstring)."""

    PUBLISHED = "published"
    COLLAPSED = "collapsed"


class HyperConv(nn.Module):
    """A convolution, or a transposed one, from `sources` to `target`, made from their latents."""

    def __init__(
        self,
        latents: LatentVectors,
        sources: Sequence[str],
        target: str,
        kernel: int,
        stride: int,
        padding: int,
        *,
        bias: bool,
        transposed: bool = False,
        output_padding: int = 0,
        form: Form = Form.PUBLISHED,
        embedding: int = EMBEDDING,
    ) -> None:
        super().__init__()
        # Kept out of the module tree: the latents belong to the generator, not to a layer.
        self._latents = (latents,)
        self.sources, self.target = tuple(sources), target
        self.geometry = Geometry(kernel, stride, padding, transposed, output_padding)
        self.form = form
        n = sum(latents.vectors[source].numel() for source in self.sources)
        c = latents.vectors[target].numel()
        area = kernel * kernel
        # W1 ~ U(-sqrt 3, sqrt 3) has unit variance; W2's bound gives weights of variance 1/(n k^2).
        w1 = torch.empty(n, c, embedding).uniform_(-math.sqrt(3), math.sqrt(3))
        bound = math.sqrt(3 / (embedding * n * area))
        w2 = torch.empty(n, c, area, embedding).uniform_(-bound, bound)
        made = {"b0": torch.zeros(n, c)}
        if form is Form.PUBLISHED:
            made |= {"w1": w1, "b1": torch.zeros(n, c, embedding)}
            made |= {"w2": w2, "b2": torch.zeros(n, c, area)}
        else:
            made |= {"a": torch.einsum("ncam,ncm->nca", w2, w1), "c": torch.zeros(n, c, area)}
        for name, tensor in made.items():
            self.register_parameter(name, nn.Parameter(self.geometry.laid_out(tensor)))
        self.bias = nn.Parameter(torch.zeros(c)) if bias else None

    @property
    def latents(self) -> LatentVectors:
        """The generator's latent vectors."""
        return self._latents[0]

    def channel_axes(self) -> ChannelAxes:
        """Return, for each parameter, which groups its axes run over."""
        axes: ChannelAxes = {"bias": {0: (self.target,)}} if self.bias is not None else {}
        names = ("b0", "w1", "b1", "w2", "b2") if self.form is Form.PUBLISHED else ("b0", "a", "c")
        axes |= {name: {0: self.sources, 1: (self.target,)} for name in names}
        return axes

    def masked_weight(self) -> Tensor:
        """Return the weight, dead channels zero: (c, n, k, k), or (n, c, k, k) if transposed."""
        return made_kernel(self.pairs(), self.numbers(), self._dead(), self.geometry)

    def masked_bias(self) -> Tensor | None:
        """Return the bias, dead channels zero: (c,), or nothing if the layer has none."""
        return None if self.bias is None else self.bias * self.latents.mask([self.target])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, n, H, W) with the weight of this moment."""
        z, bias = self.latents.known(self, lambda: (self.pairs(), self.masked_bias()))
        made: Tensor = MadeConvolution.apply(  # type: ignore[no-untyped-call] # torch's own
            x, bias, z, self._dead(), self.geometry, *self.numbers()
        )
        return made

    def pairs(self) -> Tensor:
        """Return Z, (n, c)."""
        z_out, z_in = self.latents.vectors[self.target], self.latents.concatenated(self.sources)
        b0 = self.get_parameter("b0")
        if self.geometry.transposed:
            return torch.outer(z_in, z_out) + b0
        # The same, laid out as `b0` is.
        return (torch.outer(z_out, z_in) + b0.transpose(0, 1)).transpose(0, 1)

    def pass_on(self, grad_pairs: Tensor) -> None:
        """Add to the latents' gradients what the gradient of Z, (n, c), gives them."""
        vectors = self.latents.vectors
        into_sources = grad_pairs.mv(vectors[self.target])
        parts = torch.split(into_sources, [vectors[group].numel() for group in self.sources])
        into_target = grad_pairs.t().mv(self.latents.concatenated(self.sources))
        for group, part in [(self.target, into_target), *zip(self.sources, parts, strict=True)]:
            held = vectors[group].grad
            vectors[group].grad = part.clone() if held is None else held.add_(part)

    def numbers(self) -> list[nn.Parameter]:
        """Return what `making` calls the numbers."""
        names = ("w1", "b1", "w2", "b2") if self.form is Form.PUBLISHED else ("a", "c")
        return [self.get_parameter(name) for name in names]

    def _dead(self) -> Dead:
        def found() -> Dead:
            inputs, outputs = self.latents.kept(self.sources), self.latents.keep(self.target)
            turned = self.geometry.transposed
            return Dead.but(*((inputs, outputs) if turned else (outputs, inputs)))

        return self.latents.known((self.sources, self.target, self.geometry.transposed), found)


class GroupBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the channels of one group."""

    def __init__(self, group: str, channels: int) -> None:
        super().__init__(channels)
        self.group = group

    def channel_axes(self) -> ChannelAxes:
        """Return, for each parameter and buffer, which group its axis runs over."""
        names = ("weight", "bias", "running_mean", "running_var")
        return {name: {0: (self.group,)} for name in names}


class GroupInstanceNorm(InstanceNorm):
    """InstanceNorm without affine over the channels of one group: nothing to cut but the count."""

    def __init__(self, group: str, channels: int) -> None:
        super().__init__(channels)
        self.group = group

    def channel_axes(self) -> ChannelAxes:
        """Return nothing: there are no parameters."""
        return {}


class CoroNetLayers:
    """Makes hypernetwork layers that share `latents`; norms stay plain."""

    def __init__(
        self,
        latents: LatentVectors,
        form: Form = Form.PUBLISHED,
        embedding: int = EMBEDDING,
    ) -> None:
        self._latents, self._form, self._embedding = latents, form, embedding

    def conv(
        self,
        sources: Sequence[str],
        target: str,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool,
    ) -> nn.Module:
        """Return a `HyperConv`."""
        return HyperConv(
            self._latents,
            sources,
            target,
            kernel,
            stride,
            padding,
            bias=bias,
            form=self._form,
            embedding=self._embedding,
        )

    def deconv(
        self,
        sources: Sequence[str],
        target: str,
        kernel: int,
        padding: int,
        output_padding: int = 0,
        *,
        bias: bool,
    ) -> nn.Module:
        """Return a transposed `HyperConv` of stride 2."""
        return HyperConv(
            self._latents,
            sources,
            target,
            kernel,
            2,
            padding,
            bias=bias,
            transposed=True,
            output_padding=output_padding,
            form=self._form,
            embedding=self._embedding,
        )

    def norm(self, group: str) -> nn.Module:
        """Return an InstanceNorm without affine, or a BatchNorm that can be sliced."""
        channels = self._latents.vectors[group].numel()
        if self._latents.plan.norm is Norm.INSTANCE:
            return GroupInstanceNorm(group, channels)
        return GroupBatchNorm(group, channels)
