"""What stands in a `Graph` for each operator of torch (ATen) that one can be captured with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Ceil, Div, Exp, Log, Sqrt
from coronet_deploy.export.aten import (
    choices,
    composed,
    curves,
    lengths,
    means,
    padded,
    parts,
    pooled,
    resized,
    running,
    sums,
    waves,
)
from coronet_deploy.export.aten.translation import Refused, Translation
from coronet_deploy.export.choosing import Relation, Sign
from coronet_deploy.export.groups import GroupedConv2d
from coronet_deploy.export.operators import Padding
from coronet_deploy.export.several import dilated, grouped
from coronet_deploy.export.transposed import depthwise_transposed


def _pair(value: list[int]) -> tuple[int, int]:
    return (value[0], value[-1])


def _conv2d(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int] | str,
    dilation: list[int],
    groups: int,
) -> str:
    kernels, rate = t.array(weight), _pair(dilation)
    if isinstance(padding, str):
        lines = zip(kernels.shape[2:], rate, strict=True)
        spare = [(k - 1) * d if padding == "same" else 0 for k, d in lines]
        top, left = (s // 2 for s in spare)
        pad = Padding(top, spare[0] - top, left, spare[1] - left)
    else:
        (y, x) = _pair(padding)
        pad = Padding(y, y, x, x)
    if groups == 1:
        weights = t.kernel(weight, (0, 2, 3, 1), bias)
        return t.builder.emit(ops.Conv2d(_pair(stride), pad, rate), t.value(input), *weights)
    if kernels.shape[1] != 1:
        each = GroupedConv2d(ops.Conv2d(_pair(stride), pad, rate), groups)
        return t.builder.emit(each, t.value(input), *t.kernel(weight, (0, 2, 3, 1), bias))
    depthwise = ops.DepthwiseConv2d(_pair(stride), pad, kernels.shape[0] // groups, rate)
    weights = t.kernel(weight, (1, 2, 3, 0), bias)
    return t.builder.emit(depthwise, t.value(input), *weights)


def _conv_transpose2d(
    t: Translation,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    groups: int,
    dilation: list[int],
) -> str:
    op = ops.ConvTranspose2d(_pair(stride), _pair(padding), _pair(output_padding))
    if groups == t.builder.shapes[t.value(input)][3] > 1 and op.stride[0] == op.stride[1]:
        each = t.array(weight)  # (C, M, H, W)
        merged = each.reshape(1, -1, *each.shape[2:]).transpose(0, 2, 3, 1)
        kernels = dilated(merged, _pair(dilation))
        shifts = t.constants(bias=None if bias is None else t.array(bias))
        return depthwise_transposed(t.builder, op, t.value(input), kernels, shifts)
    if groups > 1 or any(d != 1 for d in dilation):
        # torch has the channels that come in first, those of a group together.
        parts = [part.transpose(1, 2, 3, 0) for part in np.split(t.array(weight), groups)]
        kernels = dilated(np.concatenate(parts), _pair(dilation))
        shift = None if bias is None else t.array(bias)
        return grouped(t.builder, op, t.value(input), kernels, shift, groups)
    weights = t.kernel(weight, (1, 2, 3, 0), bias)
    return t.builder.emit(op, t.value(input), *weights)


def _leaky_relu(t: Translation, *, self: fx.Node, negative_slope: float) -> str:
    # XNNPACK takes no leaky ReLU of slope 0.
    op = ops.LeakyRelu(float(negative_slope)) if negative_slope else ops.Relu()
    return t.builder.emit(op, t.value(self))


def _randomized_leaky_relu(
    t: Translation, *, self: fx.Node, lower: float, upper: float, training: bool, **_: object
) -> str:
    if training:
        raise Refused("is random in eval mode too: pass it training=self.training")
    return _leaky_relu(t, self=self, negative_slope=(lower + upper) / 2)


def _unary(op: ops.Operator) -> Callable[..., str]:
    def translate(t: Translation, *, self: fx.Node) -> str:
        return t.builder.emit(op, t.operand(self))

    return translate


def _same(t: Translation, **arguments: Any) -> str:  # noqa: ANN401 - whatever torch passes
    return t.value(next(iter(arguments.values())))


def _dropout(t: Translation, *, p: float, train: bool, **picture: fx.Node) -> str:
    if train and p > 0:
        raise Refused("is random in eval mode too: pass it training=self.training")
    return _same(t, **picture)


_WHY_NOT = {
    "grid_sampler": "neither runtime samples at computed places on its fast path",
    "conv3d": "a picture has two dimensions",
    "index_put": "what is written where is not known before; torch.where chooses by a mask",
    "argmax": "x == x.amax(dim, keepdim=True) marks where the largest is",
    "argmin": "x == x.amin(dim, keepdim=True) marks where the smallest is",
    "one_hot": "x == x.amax(dim, keepdim=True) is 1 where the largest is",
    "fmod": "x - y * torch.trunc(x / y) is the same",
    "cumprod": "of what is above 0, torch.exp(torch.cumsum(torch.log(x), dim)) is the same",
    "item": "arithmetic takes a tensor of one number as it is",
    "copy": "writes to a part of a tensor; torch.cat or torch.where makes one of parts",
}


def unsupported(key: str) -> Callable[..., str]:
    """Return what refuses an operator that stands in no table."""

    def refuse(_: Translation, **_arguments: object) -> str:
        name = key.removeprefix("aten.")
        reason = next((why for begin, why in _WHY_NOT.items() if name.startswith(begin)), "")
        raise Refused(f"is not supported{reason and ': '}{reason}")

    return refuse


IDENTITIES = frozenset(
    f"aten.{name}"
    for name in (
        *("alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy"),
        "type_as",
    )
)
"""Operators that give what they take, in float32."""

COPIES = frozenset({"aten.clone", "aten.lift_fresh_copy", "aten._to_copy"})
"""Those of them whose result shares no memory with what they take."""

DROPOUTS = frozenset(
    f"aten.{name}"
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
)

FILLING = frozenset(
    f"aten.{name}"
    for name in (
        *("zeros_like", "ones_like", "full_like", "empty_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty"),
    )
)
"""Operators that take of a tensor its shape alone."""

OF_ANOTHERS_SHAPE = frozenset(
    f"aten.{name}" for name in ("expand_as", "view_as", "reshape_as", "type_as")
)
"""Operators that take of their second tensor its shape, or its number type, alone."""

SPREADING = frozenset({"aten.expand", "aten.expand_as"})
"""Operators that repeat what they take along axes of size 1, as arithmetic does by itself."""

RESHAPING = frozenset(
    f"aten.{name}"
    for name in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "_unsafe_view")
)
"""Operators that give the same numbers in another shape; only a number a channel is taken."""

FOR_EACH_NUMBER: Mapping[str, Callable[..., str]] = {
    "aten.relu": _unary(ops.Relu()),
    "aten.leaky_relu": _leaky_relu,
    "aten.rrelu": _randomized_leaky_relu,
    "aten.tanh": _unary(ops.Tanh()),
    "aten.sigmoid": _unary(ops.Sigmoid()),
    "aten.rsqrt": _unary(ops.Rsqrt()),
    "aten.relu6": composed.relu6,
    "aten.hardtanh": composed.hardtanh,
    "aten.clamp": composed.clamp,
    "aten.clamp_min": composed.clamp,
    "aten.clamp_max": composed.clamp,
    "aten.elu": composed.elu,
    "aten.selu": composed.selu,
    "aten.celu": composed.celu,
    "aten.mish": composed.mish,
    "aten.silu": composed.silu,
    "aten.gelu": composed.gelu,
    "aten.hardsigmoid": composed.hardsigmoid,
    "aten.hardswish": composed.hardswish,
    "aten.square": composed.square,
    "aten.pow": curves.power,
    "aten.exp": _unary(Exp()),
    "aten.log": _unary(Log()),
    "aten.ceil": _unary(Ceil()),
    "aten.floor": choices.floor,
    "aten.round": choices.nearest,
    **dict.fromkeys(("aten.trunc", "aten.fix"), choices.truncated),
    "aten.frac": choices.fraction,
    "aten.remainder": choices.remainder,
    "aten.floor_divide": functools.partial(choices.quotient, rounding_mode="floor"),
    "aten.sin": waves.sine,
    "aten.cos": waves.cosine,
    "aten.erf": waves.error_function,
    "aten.log1p": curves.log1p,
    "aten.expm1": curves.expm1,
    "aten.softplus": curves.softplus,
    "aten.log_sigmoid": curves.log_sigmoid,
    "aten.lerp": sums.lerp,
    "aten.add": sums.binary(ops.Add()),
    "aten.sub": sums.binary(ops.Sub()),
    "aten.rsub": sums.rsub,
    "aten.mul": sums.binary(ops.Mul()),
    "aten.div": choices.quotient,
    "aten.addcmul": sums.added(ops.Mul()),
    "aten.addcdiv": sums.added(Div()),
    "aten.neg": sums.neg,
    "aten.sqrt": _unary(Sqrt()),
    "aten.reciprocal": sums.reciprocal,
    "aten.abs": sums.magnitude,
    "aten.maximum": sums.larger,
    "aten.minimum": sums.smaller,
    "aten.gt": choices.compared(Relation.ABOVE),
    "aten.lt": choices.compared(Relation.ABOVE, turned=True),
    "aten.le": choices.compared(Relation.AT_LEAST, turned=True),
    "aten.ge": choices.compared(Relation.AT_LEAST),
    "aten.eq": choices.compared(Relation.EQUAL),
    "aten.ne": choices.compared(Relation.UNLIKE),
    "aten.sign": _unary(Sign()),
    **dict.fromkeys(("aten.logical_and", "aten.bitwise_and", "aten.__and"), choices.both),
    **dict.fromkeys(("aten.logical_or", "aten.bitwise_or", "aten.__or"), choices.either),
    **dict.fromkeys(("aten.logical_not", "aten.bitwise_not"), choices.opposite),
    "aten.softshrink": choices.soft_shrunk,
    "aten.hardshrink": choices.hard_shrunk,
    "aten.threshold": choices.above_threshold,
    "aten.where": choices.chosen,
    "aten.masked_fill": choices.filled,
    **dict.fromkeys(sorted(DROPOUTS), _dropout),
    **dict.fromkeys(sorted(IDENTITIES | RESHAPING | SPREADING), _same),
}

_ALONG_AN_AXIS: Mapping[str, Callable[..., str | list[str]]] = {
    "aten.cat": parts.cat,
    "aten.slice": parts.cut,
    "aten.select": parts.select,
    "aten.unbind": parts.unbind,
    "aten.chunk": parts.chunk,
    "aten.split": parts.split,
    "aten.split_with_sizes": parts.split_with_sizes,
    "aten.repeat": parts.repeat,
    "aten.tile": parts.tile,
    "aten.glu": parts.glu,
}

OF_ANY_SHAPE = frozenset({*FOR_EACH_NUMBER, *_ALONG_AN_AXIS, "aten.batch_norm"})
"""Operators that take a number a channel in a tensor of fewer dimensions than a picture's four."""

TRANSLATIONS: Mapping[str, Callable[..., str | list[str]]] = {
    "aten.conv2d": _conv2d,
    "aten.conv_transpose2d": _conv_transpose2d,
    "aten.batch_norm": means.batch_norm,
    "aten.instance_norm": means.instance_norm,
    "aten.group_norm": means.group_norm,
    "aten.mean": means.mean,
    "aten.sum": means.total,
    "aten.cumsum": running.cumsum,
    "aten.var": means.variance,
    "aten.std": means.deviation,
    "aten.var_mean": means.variance_and_mean,
    "aten.std_mean": means.deviation_and_mean,
    "aten.linalg_vector_norm": lengths.vector_norm,
    "aten.norm": lengths.vector_norm,
    "aten.cosine_similarity": lengths.cosine_similarity,
    "aten.amax": pooled.amax,
    "aten.amin": pooled.amin,
    "aten.max": pooled.largest,
    "aten.min": pooled.smallest,
    "aten.adaptive_max_pool2d": pooled.adaptive_max_pool2d,
    "aten.avg_pool2d": pooled.avg_pool2d,
    "aten.max_pool2d": pooled.max_pool2d,
    "aten.reflection_pad2d": padded.reflection_pad2d,
    "aten.replication_pad2d": padded.replication_pad2d,
    "aten.prelu": composed.prelu,
    "aten.pixel_shuffle": resized.pixel_shuffle,
    "aten.pixel_unshuffle": resized.pixel_unshuffle,
    **_ALONG_AN_AXIS,
    **FOR_EACH_NUMBER,
}
"""What stands for each operator of torch; one in place ("relu_") goes by the name without "_"."""
