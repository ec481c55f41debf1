"""Operators of torch that go over axes of tensors whose numbers lie in another order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Exp, Log, Maximum
from coronet_deploy.export.aten import lengths, means, pooled
from coronet_deploy.export.aten.reordering import cut, permuted
from coronet_deploy.export.aten.spans import as_lies, as_moved, checked, nchw, spanning
from coronet_deploy.export.aten.stacked import few_parts, stack, tokens
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.graph import FloatArray

REDUCTIONS: Mapping[str, Callable[..., str]] = {
    "aten.mean": means.mean,
    "aten.sum": means.total,
    "aten.var": means.variance,
    "aten.std": means.deviation,
    "aten.linalg_vector_norm": lengths.vector_norm,
    "aten.norm": lengths.vector_norm,
    "aten.amax": pooled.amax,
    "aten.amin": pooled.amin,
}
REDUCTIONS_TO_TWO: Mapping[str, tuple[Callable[..., str], Callable[..., str]]] = {
    "aten.var_mean": (means.variance, means.mean),
    "aten.std_mean": (means.deviation, means.mean),
}
_OF_PARTS: Mapping[Callable[..., str], ops.Operator] = {
    means.mean: ops.Add(),
    means.total: ops.Add(),
    pooled.amax: Maximum(),
    pooled.amin: ops.Minimum(),
}
_BATCH = (0,)  # which holds one picture, and no reduction goes over


def reduced(
    t: Translation,
    made: Tensor,
    reduction: Callable[..., str],
    *,
    self: fx.Node,
    dim: list[int] | None = None,
    **arguments: Any,  # noqa: ANN401 - whatever torch passes
) -> str | Moved:
    """Reduce the axes of the value that `dim` are."""
    held = as_moved(t, self)
    if reduction in _OF_PARTS and (parts := few_parts(t, held, dim or [])) is not None:
        values, index = parts
        op, to = _OF_PARTS[reduction], t.builder
        value = functools.reduce(lambda one, other: to.emit(op, one, other), values)
        if reduction is means.mean:
            value = to.emit(ops.Mul(), value, to.constant([1 / len(values)]))
        return checked(t, made, value, index)
    held, axes, rest = spanning(t, held, dim or list(range(held.index.ndim)))
    # Of one number each, a norm or a deviation is another one still.
    value = reduction(t, self=held.value, dim=list(axes or _BATCH), **arguments)
    return checked(t, made, value, rest)


def _layer_norm(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    normalized_shape: list[int],
    weight: fx.Node | None,
    bias: fx.Node | None,
    eps: float,
    cudnn_enable: bool,
) -> str | Moved:
    """Return d * rsqrt(mean(d * d) + eps) over the last axes, where d = x - mean(x)."""
    del cudnn_enable
    held, axes, _ = spanning(t, as_moved(t, input), list(range(-len(normalized_shape), 0)))
    mean = means.mean_over(t.builder, held.value, axes)
    centred = Moved(t.builder.emit(ops.Sub(), held.value, mean), held.index)
    return _normed(t, node, centred, axes, eps, weight, bias)


def _rms_norm(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    normalized_shape: list[int],
    weight: fx.Node | None,
    eps: float | None,
) -> str | Moved:
    """Return x * rsqrt(mean(x * x) + eps) over the last axes."""
    held, axes, _ = spanning(t, as_moved(t, input), list(range(-len(normalized_shape), 0)))
    least = float(np.finfo(np.float32).eps) if eps is None else eps
    return _normed(t, node, held, axes, least, weight, None)


def _normed(
    t: Translation,
    node: fx.Node,
    held: Moved,
    axes: tuple[int, ...],
    eps: float,
    weight: fx.Node | None,
    bias: fx.Node | None,
) -> str | Moved:
    to = t.builder
    square = means.mean_over(to, to.emit(ops.Mul(), held.value, held.value), axes)
    shifted = to.emit(ops.Add(), square, to.constant([eps], "epsilon"))
    y = to.emit(ops.Mul(), held.value, to.emit(ops.Rsqrt(), shifted))
    for op, learnt in ((ops.Mul(), weight), (ops.Add(), bias)):
        if learnt is not None:
            y = to.emit(op, y, as_lies(t, t.array(learnt), held))
    return checked(t, node.meta["val"], y, held.index)


def _linear(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
) -> str | Moved:
    """Return the convolution of one pixel that nn.Linear over an axis is."""
    shift = None if bias is None else t.array(bias)
    return checked(
        t, node.meta["val"], *combined(t, as_moved(t, input), [-1], t.array(weight), shift)
    )


def combined(
    t: Translation, held: Moved, dims: list[int], weight: FloatArray, bias: FloatArray | None = None
) -> tuple[str, Tensor]:
    """Return sums of the numbers over `dims` by the rows of `weight`, (O, K); O comes last."""
    held, _, rest = spanning(t, held, dims, channels=True)
    weights = t.constants(weight=weight[:, None, None, :], bias=bias)
    value = t.builder.emit(ops.Conv2d(), held.value, *weights)
    outputs, pixels = weight.shape[0], math.prod(nchw(t, value)[2:])
    first = rest + rest // pixels * (outputs - 1) * pixels
    return value, first[:, None] + torch.arange(outputs) * pixels


def _batch_norm(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    running_mean: fx.Node | None,
    **how: Any,  # noqa: ANN401 - whatever torch passes
) -> str | Moved:
    """Normalise channels, of a tensor of any shape."""
    if running_mean is None or how.get("training"):
        held = _by_channels(t, input)
    else:
        held = spanning(t, as_moved(t, input), [1], channels=True)[0]
    value = _scaled(t, means.batch_norm, held.value, running_mean=running_mean, **how)
    return checked(t, node.meta["val"], value, held.index)


def _statistical_norm(norm: Callable[..., str]) -> Callable[..., str | Moved]:
    """Return the translation of a norm by a tensor's own statistics, of any shape."""

    def translate(
        t: Translation,
        node: fx.Node,
        *,
        input: fx.Node,  # noqa: A002 - the schema's name
        **how: Any,  # noqa: ANN401 - whatever torch passes
    ) -> str | Moved:
        held = _by_channels(t, input)
        return checked(t, node.meta["val"], _scaled(t, norm, held.value, **how), held.index)

    return translate


def _scaled(
    t: Translation,
    norm: Callable[..., str],
    x: str,
    *,
    weight: fx.Node | None,
    bias: fx.Node | None,
    **how: Any,  # noqa: ANN401 - whatever torch passes
) -> str:
    """Return a norm of `x`, whose scale and shift may come from the picture, as styles do."""
    if not (t.is_picture(weight) or t.is_picture(bias)):
        return norm(t, input=x, weight=weight, bias=bias, **how)
    y = norm(t, input=x, weight=None, bias=None, **how)
    for op, by in ((ops.Mul(), weight), (ops.Add(), bias)):
        if by is not None:
            y = t.builder.emit(op, y, _number_a_channel(t, by))
    return y


def _number_a_channel(t: Translation, source: fx.Node) -> str:
    """Return a vector, of the picture's or learnt, as what stands by channels."""
    if not t.is_picture(source):
        return t.builder.constant(t.array(source))
    held = as_moved(t, source)
    found = permuted(t.builder, held.value, held.index.reshape(1, -1, 1, 1))
    if found is None:
        raise Refused(f"takes {tuple(held.index.shape)} in an order that no channels have")
    return found


def _by_channels(t: Translation, source: fx.Node) -> Moved:
    """Return all numbers of one value whose channels are those of a tensor (1, C, ...)."""
    held = as_moved(t, source)
    found = cut(t.builder, held.value, held.index)
    if found is None or len(held.index) != 1:
        raise Refused(f"takes {tuple(held.index.shape)}, which is no picture by its statistics")
    return spanning(t, Moved(*found), [1], channels=True)[0]


def _farthest(reduction: Callable[..., str]) -> Callable[..., Any]:
    """Return the translation of the largest or smallest over an axis or over all, not its place."""

    def translate(
        t: Translation,
        node: fx.Node,
        *,
        self: fx.Node,
        dim: int | None = None,
        **_: Any,  # noqa: ANN401 - keepdim, which torch's shape tells
    ) -> str | Moved | list[str | Moved]:
        dims = list(range(self.meta["val"].ndim)) if dim is None else [dim]
        made = node.meta["val"] if dim is None else node.meta["val"][0]
        found = reduced(t, made, reduction, self=self, dim=dims)
        return found if dim is None else [found]

    return translate


def _log_of_sum(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    dim: list[int],
    **_: Any,  # noqa: ANN401 - keepdim, which torch's shape tells
) -> str | Moved:
    """Return m + log(sum(exp(x - m))), where m is the largest."""
    held, axes, rest = spanning(t, as_moved(t, self), dim)
    largest, under = _logs(t, held.value, axes)
    return checked(t, node.meta["val"], t.builder.emit(ops.Add(), largest, under), rest)


def _log_of_shares(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    dim: int,
    **_: Any,  # noqa: ANN401 - dtype: all is float32
) -> str | Moved:
    """Return x - m - log(sum(exp(x - m))), where m is the largest."""
    to, (held, axes, _places) = t.builder, spanning(t, as_moved(t, self), [dim])
    largest, under = _logs(t, held.value, axes)
    y = to.emit(ops.Sub(), to.emit(ops.Sub(), held.value, largest), under)
    return checked(t, node.meta["val"], y, held.index)


def _logs(t: Translation, x: str, axes: tuple[int, ...]) -> tuple[str, str]:
    """Return the largest number over axes, and the logarithm of the sum of what is less than it."""
    largest = pooled.amax(t, self=x, dim=list(axes))
    powers = t.builder.emit(Exp(), t.builder.emit(ops.Sub(), x, largest))
    return largest, t.builder.emit(Log(), means.total(t, self=powers, dim=list(axes)))


def _viewed(t: Translation, node: fx.Node, *, self: fx.Node, other: fx.Node) -> str | Moved:
    """Return the numbers in the shape, or of the type, of another tensor."""
    del other
    held = as_moved(t, self)
    return checked(t, node.meta["val"], held.value, held.index)


def _reduced_to(two: tuple[Callable[..., str], ...]) -> Callable[..., Any]:
    """Return the translation of what gives two reductions of the same axes."""

    def translate(t: Translation, node: fx.Node, **how: Any) -> list[str | Moved]:  # noqa: ANN401 - whatever torch passes
        both = zip(node.meta["val"], two, strict=True)
        return [reduced(t, made, reduction, **how) for made, reduction in both]

    return translate


def _expanded(t: Translation, node: fx.Node, *, self: fx.Node, **_: Any) -> Moved:  # noqa: ANN401 - the shape, which torch says
    """Return the numbers at as many places as torch has."""
    held = as_moved(t, self)
    return Moved(held.value, held.index.expand(node.meta["val"].shape))


TRANSLATIONS: Mapping[str, Callable[..., Any]] = {
    **{key: _reduced_to(two) for key, two in REDUCTIONS_TO_TWO.items()},
    "aten.rms_norm": _rms_norm,
    "aten.logsumexp": _log_of_sum,
    "aten.log_softmax": _log_of_shares,
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _statistical_norm(means.instance_norm),
    "aten.group_norm": _statistical_norm(means.group_norm),
    "aten.max": _farthest(pooled.amax),
    "aten.min": _farthest(pooled.amin),
    **dict.fromkeys(("aten.view_as", "aten.reshape_as", "aten.type_as"), _viewed),
    "aten.stack": stack,
    "aten.cat": tokens,
    "aten.layer_norm": _layer_norm,
    "aten.linear": _linear,
    "aten.expand": _expanded,
    "aten.expand_as": _expanded,
}
