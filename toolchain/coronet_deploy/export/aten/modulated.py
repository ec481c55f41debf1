"""Weights of convolutions that a style scales, as StyleGAN2's, where the picture gives the style.

No runtime convolves by weights that are made while it draws. But numbers that scale all taps of a
channel that comes in scale that channel as well, and those of one that leaves, what leaves. So of
such weights it is kept what is learnt, and which number of which vector scales each of them; sums
of their squares, by which they are demodulated, are a matrix by the vector's squares.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Div, Sqrt
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.settled import reordered
from coronet_deploy.export.aten.spans import as_moved, checked
from coronet_deploy.export.aten.translation import Factor, Modulated, Moved, Refused, Translation

CONVOLUTIONS = frozenset({"aten.conv2d", "aten.conv_transpose2d"})
_RANK = 4
_NORMS = {"aten.linalg_vector_norm": "ord", "aten.norm": "p"}  # and what each calls its order
_EUCLIDEAN = 2
_MOST_SUMMED = 4096  # numbers of the picture's that a sum of weights is made of

_Result = str | Moved | Modulated


def weights_of(graph: fx.Graph, name: Callable[[fx.Node], str]) -> Iterator[fx.Node]:
    """Yield what the weights of a graph's convolutions are made of, as `name` calls operators."""
    made = [node.args[1] for node in graph.nodes if name(node) in CONVOLUTIONS]
    seen: set[Any] = set()
    while made:
        node = made.pop()
        if isinstance(node, fx.Node) and node not in seen:
            seen.add(node)
            yield node
            made.extend(node.all_input_nodes)


def translate(
    t: Translation,
    node: fx.Node,
    key: str,
    arguments: dict[str, Any],
    convolution: Callable[..., Any],
    moves: frozenset[str],
    identities: frozenset[str],
) -> _Result | None:
    """Return what an operator makes of weights that a style scales; None if it takes none.

    `convolution` translates one of learnt weights, `moves` are what puts numbers elsewhere, and
    `identities` what gives those that it takes.
    """
    held = [s for s in node.all_input_nodes if isinstance(t.values.get(s), Modulated)]
    if not held:
        return _begun(t, node, key)
    if node.target._schema.is_mutable:  # type: ignore[union-attr]  # noqa: SLF001 - torch's only way
        raise Refused("changes weights that the picture scales in place")
    if key in CONVOLUTIONS and held == [arguments["weight"]]:
        return _convolved(t, arguments, convolution)
    if key in _OPERATORS:
        return _OPERATORS[key](t, node, **arguments)
    if key in identities and node.meta["val"].dtype == torch.float32:
        return _held(t, held[0])
    if key in moves and len(held) == 1:
        return _moved(t, node)
    raise Refused("takes weights that the picture scales, which convolutions alone do")


def _begun(t: Translation, node: fx.Node, key: str) -> Modulated | None:
    """Return learnt weights by a vector of the picture, if it is these that `node` makes."""
    if key != "aten.mul" or node not in t.kernels:
        return None
    shape = tuple(node.meta["val"].shape)
    if len(shape) < _RANK or (len(shape) == _RANK and shape[0] == 1):
        return None  # as a picture may be
    learnt = next((s for s in node.all_input_nodes if s in t.weights), None)
    style = next((s for s in node.all_input_nodes if s in t.values), None)
    if learnt is None or style is None or style.meta["val"].numel() == math.prod(shape):
        return None
    weights = torch.from_numpy(t.array(learnt)).expand(shape)
    return Modulated(weights.contiguous(), (_factor(t, style, shape),))


def _factor(t: Translation, style: fx.Node, shape: tuple[int, ...]) -> Factor:
    """Return numbers of the picture's, and which of them scales each of as many as `shape`."""
    held = as_moved(t, style)
    vector = permuted(t.builder, held.value, held.index.reshape(1, -1, 1, 1))
    if vector is None:
        raise Refused(f"scales weights by {tuple(held.index.shape)}, which is no vector")
    places = torch.arange(held.index.numel()).reshape(held.index.shape)
    return Factor(vector, places.expand(shape).contiguous())


def _moved(t: Translation, node: fx.Node) -> Modulated:
    """Let torch move the numbers, and what each is scaled by."""
    (source,) = (s for s in node.all_input_nodes if s in t.values)
    target: Any = node.target

    def move(tensor: Tensor) -> Tensor:
        args, kwargs = fx.node.map_arg(
            (node.args, node.kwargs), lambda s: tensor if s is source else t.weights[s]
        )
        moved: Tensor = target(*args, **kwargs)
        return moved.contiguous()

    held = _held(t, source)
    factors = tuple(Factor(f.vector, move(f.places)) for f in held.factors)
    return Modulated(move(held.learnt), factors)


def _held(t: Translation, source: fx.Node) -> Modulated:
    held = t.values[source]
    assert isinstance(held, Modulated)  # noqa: S101 - by what was asked
    return held


def _times(t: Translation, node: fx.Node, *, self: Any, other: Any) -> Modulated:  # noqa: ANN401 - numbers or tensors
    """Return weights by a number, a learnt tensor, another vector or other such weights."""
    shape = tuple(node.meta["val"].shape)
    learnt, factors = torch.ones(()), []
    for operand in (self, other):
        if not isinstance(operand, fx.Node):
            learnt = learnt * operand
        elif operand in t.weights:
            learnt = learnt * torch.from_numpy(t.array(operand))
        elif isinstance(held := t.values[operand], Modulated):
            learnt = learnt * held.learnt
            factors += [Factor(f.vector, f.places.expand(shape)) for f in held.factors]
        else:
            factors.append(_factor(t, operand, shape))
    return Modulated(learnt.expand(shape).contiguous(), tuple(factors))


def _quotient(t: Translation, node: fx.Node, *, self: Any, other: Any, **how: Any) -> Modulated:  # noqa: ANN401 - whatever torch passes
    """Return weights by a number, a learnt tensor or a vector."""
    if not isinstance(t.values.get(self), Modulated) or how.get("rounding_mode") is not None:
        raise Refused("divides by weights that the picture scales")
    shape = tuple(node.meta["val"].shape)
    if other in t.values:
        if isinstance(t.values[other], Modulated):
            raise Refused("divides by weights that the picture scales")
        made = _factor(t, other, shape)
        one = t.builder.emit(Div(), t.builder.constant([1]), made.vector)
        by = Modulated(torch.ones(shape), (Factor(one, made.places),))
    else:
        number = torch.from_numpy(t.array(other)) if other in t.weights else torch.tensor(other)
        by = Modulated((1 / number.double()).float().expand(shape), ())
    held = _held(t, self)
    factors = tuple(Factor(f.vector, f.places.expand(shape)) for f in held.factors)
    return Modulated((held.learnt * by.learnt).contiguous(), factors + by.factors)


def _power(t: Translation, node: fx.Node, *, self: fx.Node, exponent: float = 2) -> Modulated:
    """Return weights by themselves."""
    del node
    if exponent != int(exponent) or exponent < 1:
        raise Refused(f"takes weights that the picture scales to the power of {exponent}")
    held = _held(t, self)
    return Modulated(held.learnt ** int(exponent), held.factors * int(exponent))


def _sum(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    dim: list[int] | None = None,
    **_: Any,  # noqa: ANN401 - keepdim, which torch's shape tells
) -> str | Moved:
    """Return sums over axes: a matrix by the numbers that scale along these."""
    return checked(t, node.meta["val"], *_summed(t, _held(t, self), dim))


def _mean(t: Translation, node: fx.Node, *, self: fx.Node, **how: Any) -> str | Moved:  # noqa: ANN401 - as above
    held, made = _held(t, self), node.meta["val"].numel()
    share = Modulated(held.learnt * (made / held.learnt.numel()), held.factors)
    return checked(t, node.meta["val"], *_summed(t, share, how.get("dim")))


def _norm(order: str, t: Translation, node: fx.Node, *, self: fx.Node, **how: Any) -> str | Moved:  # noqa: ANN401 - as above
    """Return the root of the sum of squares."""
    if how.get(order) not in {None, _EUCLIDEAN}:
        raise Refused(f"is of order {how.get(order)}; of weights that the picture scales only 2")
    square = _power(t, node, self=self)
    value, index = _summed(t, square, how.get("dim"))
    return checked(t, node.meta["val"], t.builder.emit(Sqrt(), value), index)


def _summed(t: Translation, held: Modulated, dim: list[int] | None) -> tuple[str, Tensor]:
    to, rank = t.builder, held.learnt.ndim
    over = sorted(d % rank for d in (dim or range(rank)))
    rest = [d for d in range(rank) if d not in over]
    rows = math.prod(held.learnt.shape[d] for d in rest)

    def matrix(tensor: Tensor) -> Tensor:
        return tensor.permute(*rest, *over).reshape(rows, -1)

    outside, inside, places = [], [], []
    for factor in held.factors:
        table = matrix(factor.places)
        if torch.equal(table, table[:, :1].expand_as(table)):
            outside.append((factor.vector, table[:, 0]))
        else:
            inside.append(factor.vector)
            places.append(table)
    weights = matrix(held.learnt).double()
    if inside:
        # Taps of one channel are scaled by the same numbers, in each row most often.
        if all(torch.equal(table, table[:1].expand_as(table)) for table in places):
            places = [table[:1] for table in places]
        flat = torch.stack([table.reshape(-1) for table in places])
        once, column = torch.unique(flat, dim=1, return_inverse=True)
        if once.shape[1] > _MOST_SUMMED:
            raise Refused("sums weights that the picture scales for each two channels")
        summed = torch.zeros(rows, once.shape[1], dtype=torch.float64)
        summed.scatter_add_(1, column.reshape(len(places[0]), -1).expand_as(weights), weights)
        scales = [reordered(to, v, order.tolist()) for v, order in zip(inside, once, strict=True)]
        product = functools.reduce(lambda a, b: to.emit(ops.Mul(), a, b), scales)
        kernel = to.constant(summed.float().numpy()[:, None, None, :], "weight")
        value = to.emit(ops.Conv2d(), product, kernel)
    else:
        value = to.constant(weights.sum(1).float().numpy()[None, None, None], "constant")
    for vector, order in outside:
        value = to.emit(ops.Mul(), reordered(to, vector, order.tolist()), value)
    return value, torch.arange(rows)


def _convolved(t: Translation, arguments: dict[str, Any], convolution: Callable[..., Any]) -> str:
    """Return the convolution by what is learnt of what is scaled before, and scaled behind."""
    to, held, groups = t.builder, _held(t, arguments["weight"]), arguments["groups"]
    transposed = "output_padding" in arguments
    before, behind = [], []
    for factor in held.factors:
        channels = factor.places.flatten(2)
        if not torch.equal(channels, channels[:, :, :1].expand_as(channels)):
            raise Refused("takes weights that the picture scales tap by tap")
        # (groups, channels of each that leave, channels that come in), or turned.
        table = channels[:, :, 0].reshape(groups, -1, channels.shape[1])
        table = table.transpose(1, 2) if transposed else table
        if torch.equal(table, table[:, :1].expand_as(table)):
            before.append((factor.vector, table[:, 0].reshape(-1)))
        elif torch.equal(table, table[:, :, :1].expand_as(table)):
            behind.append((factor.vector, table[:, :, 0].reshape(-1)))
        else:
            raise Refused("takes weights that the picture scales for each two channels")
    x = t.value(arguments["input"])
    for vector, order in before:
        x = to.emit(ops.Mul(), x, reordered(to, vector, order.tolist()))
    weight = fx.Graph().placeholder("learnt")
    t.weights[weight] = held.learnt
    y = str(convolution(t, **{**arguments, "input": x, "weight": weight, "bias": None}))
    for vector, order in behind:
        y = to.emit(ops.Mul(), y, reordered(to, vector, order.tolist()))
    bias = arguments["bias"]
    if bias is None:
        return y
    if not t.is_picture(bias):
        return to.emit(ops.Add(), y, to.constant(t.array(bias)))
    shift = _factor(t, bias, (to.shapes[y][3],))
    return to.emit(ops.Add(), y, shift.vector)


_OPERATORS: Mapping[str, Callable[..., _Result]] = {
    "aten.mul": _times,
    "aten.div": _quotient,
    "aten.square": _power,
    "aten.pow": _power,
    "aten.sum": _sum,
    "aten.mean": _mean,
    **{key: functools.partial(_norm, order) for key, order in _NORMS.items()},
}
