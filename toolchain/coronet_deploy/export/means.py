"""Operators of torch that take means: pooling to one pixel, and norms over groups of channels."""

from __future__ import annotations

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.translation import Translation


def group_norm(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    num_groups: int,
    weight: fx.Node | None,
    bias: fx.Node | None,
    eps: float,
    cudnn_enabled: bool,
) -> str:
    """Return d * rsqrt(mean(d * d) + eps), where d = x - mean(x), of each group's channels."""
    del cudnn_enabled
    to, x = t.builder, t.value(input)
    channels = to.shapes[x][3]
    if num_groups == channels:
        return to.emit(ops.InstanceNorm(eps), x, *affine(t, channels, weight, bias))
    centred = to.emit(ops.Sub(), x, _spread(to, _group_means(to, x, num_groups), channels))
    variance = _group_means(to, to.emit(ops.Mul(), centred, centred), num_groups)
    shifted = to.emit(ops.Add(), variance, to.constant([eps], "epsilon"))
    factor = _spread(to, to.emit(ops.Rsqrt(), shifted), channels)
    if not (learnt := affine(t, channels, weight, bias)):
        return to.emit(ops.Mul(), centred, factor)
    scale, shift = learnt
    y = to.emit(ops.Mul(), centred, to.emit(ops.Mul(), factor, scale))
    return to.emit(ops.Add(), y, shift)


def affine(
    t: Translation, channels: int, weight: fx.Node | None, bias: fx.Node | None
) -> list[str]:
    """Return the names of a norm's scale and shift, (channels,) both; none if it learns neither."""
    if weight is None and bias is None:
        return []
    scale = np.ones(channels, np.float32) if weight is None else t.array(weight)
    shift = np.zeros(channels, np.float32) if bias is None else t.array(bias)
    return [*t.constants(scale=scale), *t.constants(shift=shift)]


def _group_means(to: Builder, x: str, groups: int) -> str:
    """Return the mean of each group of the channels of `x`: (1, groups, 1, 1).

    Both this shape and that of a number a channel are the same numbers in a row in every layout,
    so that no runtime has to move any.
    """
    channels = to.shapes[x][3]
    means = mean_of_channels(to, x)
    if groups == 1:
        return to.emit(ops.Mean((3,)), means)
    apart = to.emit(ops.Reshape((1, groups, channels // groups, 1)), means)
    return to.emit(ops.Mean((2,)), apart)


def _spread(to: Builder, of_groups: str, channels: int) -> str:
    """Return a number a group as one a channel, (1, 1, 1, channels)."""
    groups = to.shapes[of_groups][1]
    if groups == 1:  # which every operator spreads
        return of_groups
    ones = to.constant(np.ones((1, 1, channels // groups, 1)), "ones")
    each = to.emit(ops.Mul(), of_groups, ones)
    return to.emit(ops.Reshape((1, 1, 1, channels)), each)


def mean_of_channels(to: Builder, x: str) -> str:
    """Return the mean of each channel of `x` over the picture, (1, 1, 1, C).

    In two stages, lines first: float32 rounds sums of W, then of H numbers less than one of H * W.
    """
    return to.emit(ops.Mean((1,)), to.emit(ops.Mean((2,)), x))
