"""Operators of torch that take means: of pictures, of channels, and norms over groups of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Sqrt
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.graph import Builder
from coronet_deploy.export.groups import GroupNorm

_NCHW_TO_NHWC = (0, 3, 1, 2)
_LINES_FIRST = (2, 1, 3)  # float32 rounds sums of W, then of H numbers less than one of H * W


def mean(t: Translation, *, self: fx.Node, dim: list[int] | None = None, **_: Any) -> str:  # noqa: ANN401 - keepdim, dtype: the graph keeps all, in float32
    """Return the mean over some axes of a picture, or over all."""
    return mean_over(t.builder, t.value(self), dim or range(4))


def total(t: Translation, *, self: Any, dim: list[int] | None = None, **_: Any) -> str:  # noqa: ANN401 - as for the mean; a node, or a value's name
    """Return the sum over some axes of a picture, or over all: the mean, so many times."""
    to, x = t.builder, t.value(self)
    y = mean_over(to, x, dim or range(4))
    count = math.prod(to.shapes[x]) // math.prod(to.shapes[y])
    return to.emit(ops.Mul(), y, to.constant([count]))


def variance(
    t: Translation,
    *,
    self: fx.Node,
    dim: list[int] | None = None,
    unbiased: bool = True,
    correction: float | None = None,
    **_: Any,  # noqa: ANN401 - keepdim: the graph keeps all
) -> str:
    """Return the mean square of what is left without the mean, of one less than there are."""
    to, x = t.builder, t.value(self)
    dims = dim or range(4)
    centred = to.emit(ops.Sub(), x, mean_over(to, x, dims))
    y = mean_over(to, to.emit(ops.Mul(), centred, centred), dims)
    count = math.prod(to.shapes[x]) // math.prod(to.shapes[y])
    left = count - (float(unbiased) if correction is None else correction)
    if left <= 0:
        raise Refused(f"has a variance of {count} number, which torch divides by {left:g}")
    return y if left == count else to.emit(ops.Mul(), y, to.constant([count / left]))


def deviation(t: Translation, **arguments: Any) -> str:  # noqa: ANN401 - as for the variance
    """Return the root of the variance."""
    return t.builder.emit(Sqrt(), variance(t, **arguments))


def variance_and_mean(t: Translation, **arguments: Any) -> list[str]:  # noqa: ANN401 - as for the variance
    """Return both."""
    return [variance(t, **arguments), mean(t, self=arguments["self"], dim=arguments.get("dim"))]


def deviation_and_mean(t: Translation, **arguments: Any) -> list[str]:  # noqa: ANN401 - as for the variance
    """Return both."""
    squared, middle = variance_and_mean(t, **arguments)
    return [t.builder.emit(Sqrt(), squared), middle]


def mean_over(to: Builder, x: str, dims: Sequence[int]) -> str:
    """Return the mean of `x` over torch's `dims`, which stay with size 1."""
    axes = {_NCHW_TO_NHWC[dim] for dim in dims}
    for axis in _LINES_FIRST:
        if axis in axes and to.shapes[x][axis] > 1:
            x = to.emit(ops.Mean((axis,)), x)
    return x


def batch_norm(
    t: Translation,
    *,
    input: Any,  # noqa: A002, ANN401 - the schema's name; a node, or a value's name
    weight: fx.Node | None,
    bias: fx.Node | None,
    running_mean: fx.Node | None,
    running_var: fx.Node | None,
    eps: float,
    training: bool = False,
    **_: Any,  # noqa: ANN401 - momentum, cudnn: nothing in eval mode
) -> str:
    """Normalise by what was learnt of the channels, or by the picture's own statistics."""
    if training or running_mean is None or running_var is None:
        # The statistics of a batch of one picture are the picture's.
        x = t.value(input)
        learnt = affine(t, t.builder.shapes[x][3], weight, bias)
        return t.builder.emit(ops.InstanceNorm(eps), x, *learnt)
    mean, variance = t.array(running_mean), t.array(running_var)
    scale = np.ones_like(mean) if weight is None else t.array(weight)
    shift = np.zeros_like(mean) if bias is None else t.array(bias)
    weights = [
        # Equal arrays share a constant, so the four are looked up one by one.
        *t.constants(scale=scale),
        *t.constants(shift=shift),
        *t.constants(mean=mean),
        *t.constants(variance=variance),
    ]
    return t.builder.emit(ops.BatchNorm(eps), t.value(input), *weights)


def instance_norm(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node | None,
    bias: fx.Node | None,
    running_mean: fx.Node | None,
    running_var: fx.Node | None,
    use_input_stats: bool,
    eps: float,
    **_: Any,  # noqa: ANN401 - momentum, cudnn: nothing in eval mode
) -> str:
    """Normalise by the picture's own statistics, or by what was learnt of the channels."""
    return batch_norm(
        t,
        input=input,
        weight=weight,
        bias=bias,
        running_mean=running_mean,
        running_var=running_var,
        eps=eps,
        training=use_input_stats,
    )


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
    """Normalise groups of channels by the picture's own statistics."""
    del cudnn_enabled
    to, x = t.builder, t.value(input)
    channels = to.shapes[x][3]
    each = num_groups == channels
    op = ops.InstanceNorm(eps) if each else GroupNorm(num_groups, eps)
    return to.emit(op, x, *affine(t, channels, weight, bias))


def affine(
    t: Translation, channels: int, weight: fx.Node | None, bias: fx.Node | None
) -> list[str]:
    """Return the names of a norm's scale and shift, (channels,) both; none if it learns neither."""
    if weight is None and bias is None:
        return []
    scale = np.ones(channels, np.float32) if weight is None else t.array(weight)
    shift = np.zeros(channels, np.float32) if bias is None else t.array(bias)
    return [*t.constants(scale=scale), *t.constants(shift=shift)]
