"""Operators of torch that attention is made of: products of matrices, and softmax.

Pixels by channels is how a picture lies, and so are the products of such matrices: which of two
stands first, and which is turned, is chosen so that as little as may be has to be moved. Those of
several heads, and of windows, are computed at once: to put these side by side is less than to join
what each head gives for every pair of places.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.aten.reordering import permuted
from coronet_deploy.export.aten.settled import picked
from coronet_deploy.export.aten.spans import as_lies, as_moved, checked, nchw, spanning
from coronet_deploy.export.aten.stacked import few_parts, joined
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.vectors import combined
from coronet_deploy.export.products import MatMul, Softmax, Turn

_MATRIX = 2  # axes
_LOW = -1e4  # whose exponential is 0


def softmax(t: Translation, node: fx.Node, *, self: fx.Node, dim: int, **_: Any) -> str | Moved:  # noqa: ANN401 - dtype: all is float32
    """Return the shares of each pixel's channels, or of all pixels of one channel."""
    to, held = t.builder, as_moved(t, self)
    if held.index.shape[dim] == 2 and (pair := few_parts(t, held, [dim])) is not None:  # noqa: PLR2004
        return _of_two(t, node, pair, dim)
    held, axes, _places = spanning(t, held, [dim])
    shape = to.shapes[held.value]
    if axes == (1,):
        value = to.emit(Softmax(), held.value)
    elif shape[3] == 1 and math.prod(shape) == held.index.shape[dim]:
        line = to.emit(ops.Reshape((1, 1, 1, math.prod(shape))), held.value)
        value = to.emit(ops.Reshape(shape), to.emit(Softmax(), line))
    else:
        held = spanning(t, held, [dim], channels=True)[0]
        value = to.emit(Softmax(), held.value)
    return checked(t, node.meta["val"], value, held.index)


def _of_two(t: Translation, node: fx.Node, pair: tuple[list[str], Tensor], dim: int) -> str | Moved:
    """Return the shares of two, which sigmoid(a - b) and sigmoid(b - a) are."""
    to, ((a, b), index) = t.builder, pair
    made = [to.emit(ops.Sigmoid(), to.emit(ops.Sub(), *both)) for both in ((a, b), (b, a))]
    return checked(t, node.meta["val"], *joined(t, made, index, dim))


def product(t: Translation, node: fx.Node, *, self: fx.Node, **other: fx.Node) -> str | Moved:
    """Return the product of two matrices, or of as many pairs as there are heads."""
    (right,) = other.values()  # `mat2` or `other`, by the operator
    learnt = [t.array(x) for x in (self, right) if not t.is_picture(x)]
    if any(math.prod(array.shape[:-_MATRIX]) == 1 for array in learnt):
        return checked(t, node.meta["val"], *_by_learnt(t, self, right))
    return checked(t, node.meta["val"], *multiplied(t, _held(t, self), _held(t, right)))


def added_product(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    beta: float = 1,
    alpha: float = 1,
    **matrices: fx.Node,
) -> str | Moved:
    """Return `alpha` times the product of two matrices, and `beta` times what is learnt."""
    left, right = matrices.values()  # `mat1` and `mat2`, or `batch1` and `batch2`
    if beta and t.is_picture(self):
        raise Refused("adds what comes of the picture to a product; add it apart, by +")
    more = t.array(self) * np.float32(beta) if beta else None
    if t.is_picture(left) and not t.is_picture(right) and t.array(right).ndim == _MATRIX:
        weight = t.array(right).T * np.float32(alpha)
        a_column = more is not None and more.shape[-1:] == (len(weight),) == (more.size,)
        bias = more.reshape(-1) if more is not None and a_column else None
        value, index = combined(t, as_moved(t, left), [-1], weight, bias)
        more = None if a_column else more
    else:
        value, index = multiplied(t, _held(t, left), _held(t, right))
        value = value if alpha == 1 else _times(t, value, alpha)
    index = index.reshape(node.meta["val"].shape)
    if more is not None:
        value = t.builder.emit(ops.Add(), value, as_lies(t, more, Moved(value, index)))
    return checked(t, node.meta["val"], value, index)


def _by_learnt(t: Translation, left: fx.Node, right: fx.Node) -> tuple[str, Tensor]:
    """Return the product of matrices with a learnt one, which sums of rows or of columns are."""
    picture, learnt = (left, right) if t.is_picture(left) else (right, left)
    array, held = t.array(learnt), as_moved(t, picture)
    if held.index.ndim < _MATRIX:
        raise Refused(f"multiplies by a learnt tensor of shape {list(array.shape)}")
    matrix = array.reshape(array.shape[-_MATRIX:])
    axis = -1 if picture is left else -2
    value, index = combined(t, held, [axis], matrix.T if picture is left else matrix)
    rest = [n for place, n in enumerate(held.index.shape) if place != held.index.ndim + axis]
    return value, index.reshape(*rest, -1).movedim(-1, axis)


def scaled_dot_product_attention(
    t: Translation,
    node: fx.Node,
    *,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> str | Moved:
    """Return softmax(query * key' * scale) * value."""
    if dropout_p or is_causal or enable_gqa or (attn_mask is not None and t.is_picture(attn_mask)):
        raise Refused("with dropout, groups or a mask that is not learnt is not supported")
    to, (q, k, v) = t.builder, (_held(t, x) for x in (query, key, value))
    factor = 1 / math.sqrt(q.index.shape[-1]) if scale is None else scale
    turned = Moved(k.value, k.index.transpose(-1, -2))
    # Whichever are fewer are scaled: the places, or the pairs of them.
    pairs = math.prod(q.index.shape[:-1]) * turned.index.shape[-1]
    before = math.prod(to.shapes[q.value]) < pairs
    if before:
        q = Moved(_times(t, q.value, factor), q.index)
    held = spanning(t, Moved(*multiplied(t, q, turned)), [-1], channels=True)[0]
    scores, index = held.value, held.index
    if not before:
        scores = _times(t, scores, factor)
    if attn_mask is not None:
        mask = t.array(attn_mask)
        more = np.where(mask, 0, _LOW).astype(np.float32) if mask.dtype == bool else mask
        whole = index.reshape(*query.meta["val"].shape[:-1], -1)
        scores = to.emit(ops.Add(), scores, as_lies(t, more, Moved(scores, whole)))
    shares = to.emit(Softmax(), scores)
    return checked(t, node.meta["val"], *multiplied(t, Moved(shares, index), v))


def _times(t: Translation, value: str, factor: float) -> str:
    if (learnt := t.builder.constants.get(value)) is not None:
        return t.builder.constant(learnt * factor, "learnt")
    return t.builder.emit(ops.Mul(), value, t.builder.constant([factor]))


TRANSLATIONS: Mapping[str, Callable[..., str | Moved]] = {
    "aten.softmax": softmax,
    "aten.bmm": product,
    "aten.mm": product,
    "aten.matmul": product,
    "aten.addmm": added_product,
    "aten.baddbmm": added_product,
    "aten.scaled_dot_product_attention": scaled_dot_product_attention,
}


def _held(t: Translation, operand: fx.Node) -> Moved:
    held = as_moved(t, operand) if t.is_picture(operand) else _learnt(t, operand)
    index = held.index
    while index.ndim > _MATRIX + 1 and index.shape[0] == 1:
        index = index[0]
    if index.ndim == _MATRIX:
        index = index[None]
    return Moved(held.value, index)


def _learnt(t: Translation, operand: fx.Node) -> Moved:
    """Return learnt matrices, as of queries, as a constant that products take as it lies."""
    array = t.array(operand)
    *batch, rows, columns = array.shape
    heads = array.reshape(1, -1, rows, columns)
    index = torch.arange(array.size).reshape(columns, -1, rows).permute(1, 2, 0)
    return Moved(t.builder.constant(heads, "learnt"), index.reshape(*batch, rows, columns))


def multiplied(t: Translation, left: Moved, right: Moved) -> tuple[str, Tensor]:
    """Return the products of the matrices of `left` and `right`, (..., rows, columns)."""
    if left.index.shape[:-_MATRIX] != right.index.shape[:-_MATRIX]:
        raise Refused("multiplies unlike numbers of matrices")
    if left.index.ndim == _MATRIX + 1 and len(left.index) == 1:
        with contextlib.suppress(Refused):
            return _of_one(t, left, right)
    return _at_once(t, left, right)


def _at_once(t: Translation, left: Moved, right: Moved) -> tuple[str, Tensor]:
    """Return the products of many matrices by one operator, their numbers put side by side."""
    batch = left.index.shape[:-_MATRIX]
    a, _ = _matrices(t, left, by_rows=True)
    b, turned = _matrices(t, right)
    value = t.builder.emit(MatMul(turned), a, b)
    n, height, rows, columns = t.builder.shapes[value]
    places = torch.arange(n * columns * height * rows).reshape(n, columns, height, rows)
    return value, places.permute(0, 2, 3, 1).reshape(*batch, rows, columns)


def _matrices(t: Translation, held: Moved, *, by_rows: bool = False) -> tuple[str, bool]:
    """Return the value of matrices, (N, H, rows, columns), and whether they lie turned in it.

    They do, but for `by_rows`, where numbers of a row lie far apart and those of a column do not.
    """
    *batch, rows, columns = held.index.shape
    index = held.index.reshape(-1, batch[-1], rows, columns)
    pixels = math.prod(nchw(t, held.value)[2:])
    across, down = (
        int(line[min(1, len(line) - 1)] - line[0]) for line in (index[0, 0, 0], index[0, 0, :, 0])
    )
    turned = not by_rows and bool(across % pixels) and not down % pixels
    lying = index.transpose(2, 3) if turned else index
    found = permuted(t.builder, held.value, lying.permute(0, 3, 1, 2))
    if found is None:
        raise Refused(f"takes matrices of {(rows, columns)} that are no parts of a picture")
    return found, turned


def _of_one(t: Translation, left: Moved, right: Moved) -> tuple[str, Tensor]:
    """Return the product of two matrices, (1, rows, columns)."""
    to, (one,), (other,) = t.builder, left.index, right.index
    (a, a_turned), (b, b_turned) = (
        _matrix(t, m.value, index) for m, index in ((left, one), (right, other))
    )
    # (A B)' = B' A', which lies so, or whose columns are fewer: channels, and not pixels.
    turned = b_turned and (a_turned or one.shape[0] < other.shape[1])
    if turned:
        value = to.emit(MatMul(not a_turned), b, a)
    else:
        value = to.emit(MatMul(b_turned), to.emit(Turn(), a) if a_turned else a, b)
    _, _, rows, columns = to.shapes[value]
    index = torch.arange(columns * rows).reshape(1, columns, rows)
    return value, index if turned else index.transpose(1, 2)


def _matrix(t: Translation, value: str, index: Tensor) -> tuple[str, bool]:
    """Return the matrix that holds the numbers at `index`, and whether it lies turned."""
    to = t.builder
    n, channels, height, width = nchw(t, value)
    bases = [value]
    if height > 1:  # the same places, on one line
        bases.insert(0, to.emit(ops.Reshape((n, 1, height * width, channels)), value))
    for base in bases:
        for turned in (False, True):
            lying = index if turned else index.T
            found = picked(to, base, lying[:, None, :])
            if found is not None:
                return found, turned
    raise Refused(f"takes a matrix of {tuple(index.shape)} that is no part of a picture")
