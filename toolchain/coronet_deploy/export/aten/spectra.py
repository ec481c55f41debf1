"""Fourier transforms of fixed size, and the complex numbers that they give and take.

Along one axis a transform is a product with a matrix, which both runtimes have on their fast path.
A complex tensor of torch's is a value's numbers in the shape (..., 2), real and imaginary ones, as
`torch.view_as_real` has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from coronet_deploy.export import operators as ops
from coronet_deploy.export.arithmetic import Div, Sqrt
from coronet_deploy.export.aten import waves
from coronet_deploy.export.aten.orders import beside
from coronet_deploy.export.aten.reordering import cut
from coronet_deploy.export.aten.spans import as_lies, as_moved, checked
from coronet_deploy.export.aten.stacked import together, without_others
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.vectors import combined

_Result = str | Moved | list[str | Moved]
_CHANNEL = 3  # the axis, NHWC
_Part = Moved | Tensor | None  # of a complex tensor: of the picture, learnt, or zero


# Of the last axis in which a tensor is transformed, and of the others.
_LAST_AND_OTHERS: Mapping[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "fft": (torch.fft.fft, torch.fft.fft),
    "ifft": (torch.fft.ifft, torch.fft.ifft),
    "rfft": (torch.fft.rfft, torch.fft.fft),
    "irfft": (torch.fft.irfft, torch.fft.ifft),
}
TRANSFORMS = {
    f"aten.fft_{name}{axes}": both
    for name, both in _LAST_AND_OTHERS.items()
    for axes in ("", "2", "n")
}
"""The transforms that are taken, and those of one axis each is made of."""

SHIFTS = frozenset({"aten.fft_fftshift", "aten.fft_ifftshift"})
"""Operators that roll lines so that the lowest frequency lies in the middle, and back."""


def concerns(node: fx.Node, key: str) -> bool:
    """Return whether complex numbers go into an operator or come out of it."""
    return key in TRANSFORMS or any(map(_is_complex, (node, *node.all_input_nodes)))


def translate(
    t: Translation,
    node: fx.Node,
    key: str,
    arguments: dict[str, Any],
    moves: Iterable[str],
    identities: Iterable[str],
) -> _Result:
    """Return what an operator makes of complex numbers, or makes that are complex."""
    if key in TRANSFORMS:
        return _transformed(t, node, *TRANSFORMS[key], **arguments)
    if key in identities and _is_complex(node):
        return as_moved(t, node.all_input_nodes[0])
    if key in SHIFTS or key in moves:
        return _moved(t, node)
    if key not in TRANSLATIONS:
        raise Refused("takes complex numbers; x.real, x.imag and x.abs() are ordinary ones")
    return TRANSLATIONS[key](t, node, **arguments)


def _is_complex(argument: Any) -> bool:  # noqa: ANN401 - whatever torch passes
    made = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return isinstance(made, Tensor) and made.is_complex()


# Transforms -------------------------------------------------------------------------------


def _transformed(
    t: Translation,
    node: fx.Node,
    last: Callable[..., Tensor],
    others: Callable[..., Tensor],
    *,
    self: fx.Node,
    dim: int | list[int] | None,
    norm: str | None,
    **sizes: Any,  # noqa: ANN401 - `n` or `s`, by the operator
) -> _Result:
    """Return the transform of one axis after the other."""
    (size,) = sizes.values()
    rank = self.meta["val"].ndim
    if dim is None:
        dim = list(range(rank) if size is None else range(rank - len(size), rank))
    dims = dim if isinstance(dim, list) else [dim]
    counts = size if isinstance(size, list) else [size] * len(dims)
    steps = [(axis % rank, None if n == -1 else n) for axis, n in zip(dims, counts, strict=True)]
    if last is torch.fft.rfft:  # whose others take what it makes of real numbers
        steps.reverse()
    held, end = _pairs(t, self), dims[-1] % rank
    for axis, n in steps:
        function = last if axis == end else others
        held = _along(t, held, axis, partial(function, n=n, dim=1, norm=norm))
    if _is_complex(node):
        return held
    real = Moved(held.value, held.index[..., 0])
    # What comes next takes a picture, in whose order it does not lie yet.
    return t.as_picture(real) or checked(t, node.meta["val"], real.value, real.index)


def _along(t: Translation, held: Moved, axis: int, function: Callable[[Tensor], Tensor]) -> Moved:
    """Return what a linear function of lines (N, L), complex if `held` is, makes of an axis."""
    *shape, pairs = held.index.shape
    basis = torch.eye(shape[axis] * pairs, dtype=torch.float64).reshape(-1, shape[axis], pairs)
    made = function(torch.view_as_complex(basis) if pairs > 1 else basis[..., 0])
    made = torch.view_as_real(made) if made.is_complex() else made[..., None]
    # All real numbers, then all imaginary ones: each are a part of the channels.
    matrix = made.permute(2, 1, 0).reshape(-1, len(basis))
    value, index = combined(t, held, [axis, len(shape)], matrix.numpy().astype(np.float32))
    rest = shape[:axis] + shape[axis + 1 :]
    index = index.reshape(*rest, made.shape[2], made.shape[1])
    return Moved(value, index.movedim(-1, axis))


# What complex tensors are made of ---------------------------------------------------------


def _pairs(t: Translation, source: fx.Node) -> Moved:
    """Return (..., 2) of complex numbers of the picture's, (..., 1) of real ones."""
    held = as_moved(t, source)
    return held if _is_complex(source) else Moved(held.value, held.index[..., None])


def _parts(t: Translation, source: Any) -> tuple[_Part, _Part]:  # noqa: ANN401 - a node or a number
    """Return real and imaginary numbers of an operand, those of one complex tensor lying alike."""
    if not t.is_picture(source):
        known = t.weights[source] if isinstance(source, fx.Node) else torch.tensor(source)
        return (known.real, known.imag) if known.is_complex() else (known, None)
    held = _pairs(t, source)
    found = [cut(t.builder, held.value, index) for index in held.index.unbind(-1)]
    parts = [Moved(*one) for one in found if one is not None]
    if len(parts) < len(found) or not all(torch.equal(p.index, parts[0].index) for p in parts):
        raise Refused("takes complex numbers whose real and imaginary ones do not lie apart")
    return parts[0], parts[1] if len(parts) > 1 else None


def _complex(t: Translation, node: fx.Node, real: _Part, imaginary: _Part) -> Moved:
    """Return the complex tensor of two parts, at least one of them the picture's."""
    by = next(part for part in (real, imaginary) if isinstance(part, Moved))
    parts = [
        part if isinstance(part, Moved) else _beside(t, part, by) for part in (real, imaginary)
    ]
    value, index = together(t, parts, -1)
    if index.shape[:-1] != node.meta["val"].shape:
        raise Refused(f"gives {tuple(node.meta['val'].shape)} of {tuple(index.shape[:-1])}")
    return Moved(value, index)


def _beside(t: Translation, learnt: Tensor | None, by: Moved) -> Moved:
    """Return learnt numbers, or zeros, as many and in the order as those of the picture."""
    zeros = t.builder.emit(ops.Mul(), by.value, t.builder.constant([0.0]))
    if learnt is not None and learnt.any():
        zeros = t.builder.emit(ops.Add(), zeros, _lying(t, learnt, by))
    return Moved(zeros, by.index)


def _combined(t: Translation, op: ops.Operator, one: _Part, other: _Part) -> _Part:
    """Return two parts by an operator of each number; None where one of them is zero."""
    to = t.builder
    if one is None or other is None:
        return None
    if isinstance(one, Moved) and isinstance(other, Moved) and isinstance(op, ops.Add | ops.Mul):
        # The smaller one is spread, as the magnitudes of one channel are over all.
        one, other = sorted((one, other), key=lambda part: -part.index.numel())
    if isinstance(one, Moved):
        more = beside(t, other, one) if isinstance(other, Moved) else _lying(t, other, one)
        return Moved(to.emit(op, one.value, more), one.index)
    if isinstance(other, Moved):
        return Moved(to.emit(op, _lying(t, one, other), other.value), other.index)
    raise Refused("takes learnt numbers alone")


def _scaled(t: Translation, part: _Part, factor: float) -> _Part:
    if isinstance(part, Moved) and factor != 1:
        return Moved(
            t.builder.emit(ops.Mul(), part.value, t.builder.constant([factor])), part.index
        )
    return part * factor if isinstance(part, Tensor) else part


def _lying(t: Translation, learnt: Tensor, by: Moved) -> str:
    return as_lies(t, learnt.detach().float().numpy(), by)


# Operators --------------------------------------------------------------------------------


def _moved(t: Translation, node: fx.Node) -> _Result:
    """Return what torch makes of the places of the numbers, which it moves as it does numbers."""
    target: Any = node.target
    source, *others = node.all_input_nodes
    if any(map(t.is_picture, others)):
        raise Refused("takes several complex tensors")
    held, made = as_moved(t, source), []
    for places in held.index.unbind(-1):
        given: dict[fx.Node, Tensor] = {source: places, **{n: t.weights[n] for n in others}}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
        made.append(target(*args, **kwargs))
    if isinstance(made[0], Tensor):
        return without_others(t, Moved(held.value, torch.stack(made, -1)))
    both = (torch.stack(parts, -1) for parts in zip(*made, strict=True))
    return [without_others(t, Moved(held.value, index)) for index in both]


def _side_by_side(t: Translation, node: fx.Node, *, tensors: list[fx.Node], dim: int) -> Moved:
    """Return complex tensors one after another, if their values have the same shape."""
    if not all(t.is_picture(tensor) and _is_complex(tensor) for tensor in tensors):
        raise Refused("puts complex numbers beside others")
    held = [as_moved(t, tensor) for tensor in tensors]
    values = [one.value for one in held]
    dim %= node.meta["val"].ndim
    if len(set(values)) == 1:
        return Moved(values[0], torch.cat([one.index for one in held], dim))
    if len({t.builder.shapes[value] for value in values}) > 1:
        raise Refused("puts complex numbers beside others that lie otherwise")
    count = math.prod(t.builder.shapes[values[0]])
    places = [one.index + count * i for i, one in enumerate(held)]
    return Moved(t.builder.concat(values, _CHANNEL), torch.cat(places, dim))


def _one_part(place: int) -> Callable[..., _Result]:
    def translate(t: Translation, node: fx.Node, *, self: fx.Node) -> _Result:
        del node
        held = as_moved(t, self)
        return Moved(held.value, held.index[..., place])

    return translate


def _viewed(t: Translation, node: fx.Node, *, self: fx.Node) -> Moved:
    """Return (..., 2) of a complex tensor, or the other way round, which are held alike."""
    del node
    return as_moved(t, self)


def _of_two(t: Translation, node: fx.Node, *, real: fx.Node, imag: fx.Node) -> Moved:
    return _complex(t, node, *(_parts(t, part)[0] for part in (real, imag)))


def _polar(t: Translation, node: fx.Node, *, abs: fx.Node, angle: fx.Node) -> Moved:  # noqa: A002 - the schema's name
    """Return abs cos(angle) + i abs sin(angle)."""
    if not t.is_picture(angle):
        raise Refused("takes a learnt angle; multiply by torch.polar(torch.ones(...), angle)")
    (at, _), (size, _) = _parts(t, angle), _parts(t, abs)
    assert isinstance(at, Moved)  # noqa: S101 - it is the picture's
    turned = (Moved(wave(t, at.value), at.index) for wave in (waves.cosine_of, waves.sine_of))
    return _complex(t, node, *(_combined(t, ops.Mul(), part, size) for part in turned))


def _magnitude(t: Translation, node: fx.Node, *, self: fx.Node) -> _Result:
    """Return sqrt(re * re + im * im)."""
    squares = [_combined(t, ops.Mul(), part, part) for part in _parts(t, self)]
    total = _combined(t, ops.Add(), *squares)
    assert isinstance(total, Moved)  # noqa: S101 - a complex tensor of the picture's has both
    return checked(t, node.meta["val"], t.builder.emit(Sqrt(), total.value), total.index)


def _scaled_by(re: float, im: float) -> Callable[..., _Result]:
    """Return the translation of what multiplies real and imaginary numbers by one each."""

    def translate(t: Translation, node: fx.Node, *, self: fx.Node) -> _Result:
        del node
        held = as_moved(t, self)
        factors = as_lies(t, np.array([re, im], np.float32), held)
        return Moved(t.builder.emit(ops.Mul(), held.value, factors), held.index)

    return translate


def _sum(sign: float) -> Callable[..., _Result]:
    def translate(
        t: Translation,
        node: fx.Node,
        *,
        self: Any,  # noqa: ANN401 - a node or a number
        other: Any,  # noqa: ANN401 - a node or a number
        alpha: float = 1,
    ) -> _Result:
        made = []
        for one, more in zip(_parts(t, self), _parts(t, other), strict=True):
            scaled = _scaled(t, more, sign * alpha)
            both = _combined(t, ops.Add(), one, scaled) if one is not None else scaled
            made.append(one if scaled is None else both)
        return _complex(t, node, *made)

    return translate


def _turned_difference(
    t: Translation,
    node: fx.Node,
    *,
    self: fx.Node,
    other: Any,  # noqa: ANN401 - a node or a number
    alpha: float = 1,
) -> _Result:
    return _sum(-1)(t, node, self=other, other=self, alpha=alpha)


def _product(t: Translation, node: fx.Node, *, self: Any, other: Any) -> Moved:  # noqa: ANN401 - nodes or numbers
    """Return (a + ib)(c + id) = ac - bd + i(ad + bc)."""
    return _multiplied(t, node, _parts(t, self), _parts(t, other))


def _multiplied(
    t: Translation, node: fx.Node, one: tuple[_Part, _Part], other: tuple[_Part, _Part]
) -> Moved:
    (a, b), (c, d) = one, other
    ac, bd, ad, bc = (_combined(t, ops.Mul(), *pair) for pair in ((a, c), (b, d), (a, d), (b, c)))
    real = _combined(t, ops.Sub(), ac, bd) if bd is not None else ac
    imaginary = _combined(t, ops.Add(), ad, bc)
    return _complex(t, node, real, imaginary if imaginary is not None else ad or bc)


def _quotient(t: Translation, node: fx.Node, *, self: Any, other: Any, **how: Any) -> Moved:  # noqa: ANN401 - nodes or numbers
    """Return complex numbers divided by real ones, or by learnt ones of either kind."""
    one, (c, d) = _parts(t, self), _parts(t, other)
    if how.get("rounding_mode") or isinstance(d, Moved):
        raise Refused("divides by complex numbers; multiply by x.conj() / x.abs() ** 2")
    if isinstance(c, Tensor):
        inverse = 1 / (c if d is None else torch.complex(c, d))
        parts = (inverse, None) if d is None else (inverse.real, inverse.imag)
        return _multiplied(t, node, one, parts)
    return _complex(t, node, *(_combined(t, Div(), part, c) for part in one))


TRANSLATIONS: Mapping[str, Callable[..., _Result]] = {
    "aten.real": _one_part(0),
    "aten.imag": _one_part(1),
    "aten.view_as_real": _viewed,
    "aten.view_as_complex": _viewed,
    "aten.complex": _of_two,
    "aten.polar": _polar,
    "aten.abs": _magnitude,
    "aten._conj": _scaled_by(1, -1),
    "aten.conj_physical": _scaled_by(1, -1),
    "aten.neg": _scaled_by(-1, -1),
    "aten.resolve_conj": _viewed,
    "aten.resolve_neg": _viewed,
    "aten.cat": _side_by_side,
    "aten.add": _sum(1),
    "aten.sub": _sum(-1),
    "aten.rsub": _turned_difference,
    "aten.mul": _product,
    "aten.div": _quotient,
}
"""Operators of complex numbers, but for the transforms and what moves numbers."""
