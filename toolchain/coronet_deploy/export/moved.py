"""Tensors that hold a value's numbers in another order or shape: permuted, viewed, flattened.

Nothing is moved for them. What is known is which number of the value stands where (`Moved`), and
torch itself moves those places on. What computes number by number, over whole axes, or from all
channels, computes on the value as it lies, whatever the order; so a norm over the last axis of a
picture with its channels last costs no transpose. As soon as the numbers stand as a picture's do,
shuffled or in squares at most, they are one again (`settled`); where another order is wanted than
that in which they lie, they are put into it (`permuted`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from coronet_deploy.export import means, pooled
from coronet_deploy.export import operators as ops
from coronet_deploy.export.reordering import permuted
from coronet_deploy.export.settled import settled
from coronet_deploy.export.translation import Moved, Refused, Translation

_RANK = 4
_CHANNELS = 1  # the axis of a picture, NCHW

MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "mT"),
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"),
        *("slice", "select", "unbind", "chunk", "split", "split_with_sizes", "index"),
        *("narrow", "index_select", "tensor_split", "flip", "fliplr", "flipud", "rot90", "roll"),
        *("channel_shuffle", "repeat_interleave", "repeat", "tile"),
        *("pixel_shuffle", "pixel_unshuffle"),
    )
)
_LINES = frozenset(f"aten.{name}" for name in ("flip", "fliplr", "flipud", "rot90", "roll"))
_REDUCTIONS: Mapping[str, Callable[..., str]] = {
    "aten.mean": means.mean,
    "aten.sum": means.total,
    "aten.var": means.variance,
    "aten.std": means.deviation,
    "aten.linalg_vector_norm": means.vector_norm,
    "aten.norm": means.vector_norm,
    "aten.amax": pooled.amax,
}

BY_THEMSELVES = frozenset({"aten.layer_norm", "aten.linear"})
"""Operators that take numbers as they lie by what they do to moved ones."""

_Result = str | Moved | list[str | Moved]


def translate(
    t: Translation,
    node: fx.Node,
    key: str,
    arguments: dict[str, Any],
    each_number: Mapping[str, Callable[..., str]],
    *,
    otherwise: bool,
) -> _Result | None:
    """Return what an operator makes if it moves numbers or takes moved ones; None if neither.

    `each_number` are the translations of those that compute number by number; `otherwise` tells
    whether this one takes pictures by itself.
    """
    moved = any(isinstance(t.values.get(source), Moved) for source in node.all_input_nodes)
    if key in MOVES and (moved or not otherwise):
        return _moves(t, node, as_picture=key in _LINES)
    if not moved and key not in BY_THEMSELVES:
        return None
    handler = _BY_LAYOUT.get(key)
    if handler is not None:
        return handler(t, node, **arguments)
    if key in _REDUCTIONS:
        return _reduced(t, node, _REDUCTIONS[key], **arguments)
    return _each_number(t, node, each_number[key], arguments) if key in each_number else None


def _moves(t: Translation, node: fx.Node, *, as_picture: bool) -> _Result:
    """Let torch move the places as it would the numbers, of a picture if it is lines that move."""
    if sum(t.is_picture(source) for source in node.all_input_nodes) > 1:
        raise Refused("takes places from a picture")
    value = ""

    def places(source: fx.Node) -> Any:  # noqa: ANN401 - a tensor
        nonlocal value
        if source in t.weights:
            return t.weights[source]
        held = _of_picture(t, as_moved(t, source)) if as_picture else as_moved(t, source)
        value = held.value
        # As a copy that torch makes of it is; and one that is turned in place is not another's.
        return held.index.clone(memory_format=torch.contiguous_format)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), places)
    target: Any = node.target
    made = target(*args, **kwargs)
    if isinstance(made, Tensor):
        return settled(t.builder, value, made)
    return [settled(t.builder, value, part) for part in made]


def _of_picture(t: Translation, held: Moved) -> Moved:
    """Return what `held` holds of a picture, whose channels may come last in torch's tensor."""
    index = held.index
    if index.ndim != _RANK or len(index) != 1:
        return held
    first = index[0, 0, 0]
    pixels = math.prod(nchw(t, held.value)[2:])
    last = len(first) > 1 and not int(first[1] - first[0]) % pixels
    planes = index.permute(0, 3, 1, 2) if last else index
    value = permuted(t.builder, held.value, planes)
    if value is None:
        return held
    places = torch.arange(planes.numel()).reshape(planes.shape)
    return Moved(value, places.permute(0, 2, 3, 1) if last else places)


def as_moved(t: Translation, source: fx.Node) -> Moved:
    """Return what `source` holds, numbers as they lie too."""
    held = t.values[source]
    if isinstance(held, Moved):
        return held
    shape = tuple(source.meta["val"].shape)
    return Moved(t.value(source), torch.arange(math.prod(shape)).reshape(shape))


def nchw(t: Translation, value: str) -> tuple[int, ...]:
    """Return the shape of a value as torch has it."""
    n, height, width, channels = t.builder.shapes[value]
    return n, channels, height, width


def _each_number(
    t: Translation, node: fx.Node, translation: Callable[..., str], arguments: dict[str, Any]
) -> str | Moved:
    """Compute on the values as they lie."""
    held = [as_moved(t, source) for source in node.all_input_nodes if source in t.values]
    first = max(held, key=lambda m: _leads(t, m))

    def as_it_lies(operand: Any) -> Any:  # noqa: ANN401 - whatever torch passes
        if not isinstance(operand, fx.Node):
            return operand
        count = math.prod(operand.meta["val"].shape)
        if operand in t.values and count > 1:
            return _beside(t, as_moved(t, operand), first)
        if operand in t.weights and count > 1:
            return _as_lies(t, t.array(operand), first)
        return operand

    value = translation(t, **{name: as_it_lies(a) for name, a in arguments.items()})
    return checked(t, node, value, first.index)


def _leads(t: Translation, held: Moved) -> tuple[int, bool]:
    """Return what is larger for a value in whose order others are put: pictures', not lines'."""
    n, height, *_ = shape = t.builder.shapes[held.value]
    return math.prod(shape), n == 1 and height > 1


def _beside(t: Translation, one: Moved, other: Moved) -> str:
    """Return the value of `one` with its numbers where those of `other` are that they stand by."""
    if _stands_as(t, one, other):
        return _on_lines_of(t, one, other)
    shape = nchw(t, other.value)
    whole = one.index.shape == other.index.shape and one.index.numel() == math.prod(shape)
    if whole and int(other.index.reshape(-1).bincount().max()) == 1:
        places = torch.empty_like(one.index).reshape(-1)
        places[other.index.reshape(-1)] = one.index.reshape(-1)
        if (found := permuted(t.builder, one.value, places.reshape(shape))) is not None:
            return found
    raise Refused("takes numbers in unlike orders")


def _on_lines_of(t: Translation, one: Moved, other: Moved) -> str:
    """Return a value on as many lines as another, if both hold as many pixels."""
    shape, wanted = t.builder.shapes[one.value], t.builder.shapes[other.value]
    if shape == wanted or not _same_but_for_lines(shape, wanted):
        return one.value
    return t.builder.emit(ops.Reshape(wanted), one.value)


def _same_but_for_lines(one: ops.Shape, other: ops.Shape) -> bool:
    return one[0] == other[0] and one[3] == other[3] and math.prod(one) == math.prod(other)


def _stands_as(t: Translation, one: Moved, other: Moved) -> bool:
    """Return whether each number of `one` stands beside that of `other` that it lies beside."""
    shapes = t.builder.shapes
    if _same_but_for_lines(shapes[one.value], shapes[other.value]):
        return torch.equal(one.index, other.index)
    wide, small = nchw(t, other.value), nchw(t, one.value)
    if any(n not in {1, m} for n, m in zip(small, wide, strict=True)):
        return False
    rest, wanted, step = other.index, torch.zeros_like(other.index), 1
    for n, m in zip(reversed(small), reversed(wide), strict=True):
        wanted = wanted + (rest % m) * (step if n > 1 else 0)
        rest, step = rest // m, step * n
    try:
        return torch.equal(one.index.expand(wanted.shape), wanted)
    except RuntimeError:  # of shapes that do not spread to each other's
        return False


def _as_lies(t: Translation, array: np.ndarray[Any, Any], beside: Moved) -> str:
    """Return a learnt tensor in the order of the value beside whose numbers torch has it."""
    shape, index = nchw(t, beside.value), beside.index.reshape(-1)
    try:
        spread = torch.from_numpy(array).expand(beside.index.shape).reshape(-1)
    except RuntimeError:
        told = f"{list(array.shape)} beside {tuple(beside.index.shape)}"
        raise Refused(f"takes a learnt tensor of shape {told}") from None
    if len(index) != math.prod(shape) or int(index.bincount().max()) > 1:
        raise Refused("takes a learnt tensor beside some of a picture's numbers")
    whole = torch.empty_like(spread)
    whole[index] = spread
    plane = whole.reshape(shape)
    for axis in (0, 2, 3):  # along which it may be the same all over
        once = plane.narrow(axis, 0, 1)
        plane = once if torch.equal(plane, once.expand(plane.shape)) else plane
    return t.plane(plane.numpy(), batch=shape[0])


def checked(t: Translation, node: fx.Node, value: str, index: Tensor) -> str | Moved:
    """Return what `node` makes: the numbers of `value` at `index`, in the shape that torch says."""
    made = tuple(node.meta["val"].shape)
    if math.prod(made) != index.numel():
        raise Refused(f"gives {made} of {tuple(index.shape)}")
    if node.meta["val"].dtype != torch.float32:
        raise Refused(f"gives {node.meta['val'].dtype}; everything is captured in float32")
    return settled(t.builder, value, index.reshape(made))


def spanned(t: Translation, held: Moved, dims: list[int]) -> tuple[tuple[int, ...], Tensor]:
    """Return the axes of the value, NCHW, that torch's `dims` of `held` are; the rest's places.

    Raises:
        Refused: they are no whole axes, in the order in which they lie.

    """
    shape, rank = nchw(t, held.value), held.index.ndim
    over = sorted(dim % rank for dim in dims)
    rest = [dim for dim in range(rank) if dim not in over]
    rows = held.index.permute(*rest, *over).reshape(
        -1, math.prod(held.index.shape[dim] for dim in over)
    )
    places = torch.arange(math.prod(shape)).reshape(shape)
    for count in range(_RANK):
        for axes in itertools.combinations(range(1, _RANK), count):
            inside = places[tuple(slice(None) if a in axes else slice(0, 1) for a in range(_RANK))]
            if inside.numel() != rows.shape[1]:
                continue
            begins = places[tuple(slice(0, 1) if a in axes else slice(None) for a in range(_RANK))]
            whole = torch.isin(rows[:, 0], begins).all()
            if whole and torch.equal(rows, rows[:, :1] + inside.reshape(1, -1)):
                # Where each beginning stands among all of them.
                return axes, torch.searchsorted(
                    begins.flatten().contiguous(), rows[:, 0].contiguous()
                )
    raise Refused(f"works over axes {tuple(dims)}, which are no whole axes of a picture")


def spanning(
    t: Translation, held: Moved, dims: list[int], *, channels: bool = False
) -> tuple[Moved, tuple[int, ...], Tensor]:
    """Return what `spanned` tells, of `held` or of its numbers with those of `dims` for channels.

    With `channels` only these will do.
    """
    with contextlib.suppress(Refused):
        axes, rest = spanned(t, held, dims)
        if axes == (_CHANNELS,) or not channels:
            return held, axes, rest
    rank, shape = held.index.ndim, held.index.shape
    over = sorted(dim % rank for dim in dims)
    order = [*(dim for dim in range(rank) if dim not in over), *over]
    count = math.prod(shape[dim] for dim in over)
    rows = held.index.permute(order)
    lines = rows.reshape(1, 1, -1, count).permute(0, 3, 1, 2)
    value = permuted(t.builder, held.value, lines)
    if value is None:
        return held, *spanned(t, held, dims)
    places = torch.arange(lines.numel()).reshape(count, -1).T.reshape(rows.shape)
    laid = Moved(value, places.permute([order.index(dim) for dim in range(rank)]))
    return laid, *spanned(t, laid, dims)


def _reduced(
    t: Translation,
    node: fx.Node,
    reduction: Callable[..., str],
    *,
    self: fx.Node,
    dim: list[int] | None = None,
    **arguments: Any,  # noqa: ANN401 - whatever torch passes
) -> str | Moved:
    """Reduce the axes of the value that `dim` are."""
    held = as_moved(t, self)
    held, axes, rest = spanning(t, held, dim or list(range(held.index.ndim)))
    value = held.value
    if axes:
        value = reduction(t, self=held.value, dim=list(axes), **arguments)
    return checked(t, node, value, rest)


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
    to, held = t.builder, as_moved(t, input)
    held, axes, _ = spanning(t, held, list(range(-len(normalized_shape), 0)))
    centred = to.emit(ops.Sub(), held.value, means.mean_over(to, held.value, axes))
    variance = means.mean_over(to, to.emit(ops.Mul(), centred, centred), axes)
    shifted = to.emit(ops.Add(), variance, to.constant([eps], "epsilon"))
    y = to.emit(ops.Mul(), centred, to.emit(ops.Rsqrt(), shifted))
    for op, learnt in ((ops.Mul(), weight), (ops.Add(), bias)):
        if learnt is not None:
            y = to.emit(op, y, _as_lies(t, t.array(learnt), held))
    return checked(t, node, y, held.index)


def _linear(
    t: Translation,
    node: fx.Node,
    *,
    input: fx.Node,  # noqa: A002 - the schema's name
    weight: fx.Node,
    bias: fx.Node | None,
) -> str | Moved:
    """Return the convolution of one pixel that nn.Linear over the channels is."""
    held, _, rest = spanning(t, as_moved(t, input), [-1], channels=True)
    kernel = t.array(weight)[:, None, None, :]
    weights = t.constants(weight=kernel, bias=None if bias is None else t.array(bias))
    value = t.builder.emit(ops.Conv2d(), held.value, *weights)
    outputs, pixels = kernel.shape[0], math.prod(nchw(t, value)[2:])
    first = rest + rest // pixels * (outputs - 1) * pixels
    return checked(t, node, value, first[:, None] + torch.arange(outputs) * pixels)


def _expanded(t: Translation, node: fx.Node, *, self: fx.Node, **_: Any) -> Moved:  # noqa: ANN401 - the shape, which torch says
    """Return the numbers at as many places as torch has."""
    held = as_moved(t, self)
    return Moved(held.value, held.index.expand(node.meta["val"].shape))


_BY_LAYOUT: Mapping[str, Callable[..., str | Moved]] = {
    "aten.layer_norm": _layer_norm,
    "aten.linear": _linear,
    "aten.expand": _expanded,
    "aten.expand_as": _expanded,
}
