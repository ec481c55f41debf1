"""Tensors that hold a value's numbers in another order or shape: permuted, viewed, flattened.

Nothing is moved for them. What is known is which number of the value stands where (`Moved`), and
torch itself moves those places on. What computes number by number, over whole axes, or from all
channels, computes on the value as it lies, whatever the order; so a norm over the last axis of a
picture with its channels last costs no transpose. As soon as the numbers stand as a picture's do,
shuffled or in squares at most, they are one again (`settled`); where another order is wanted than
that in which they lie, they are put into it (`permuted`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from coronet_deploy.export.aten import lines, padded, resampled, turned, vectors
from coronet_deploy.export.aten.orders import beside, leads, spread
from coronet_deploy.export.aten.reordering import cut
from coronet_deploy.export.aten.settled import settled
from coronet_deploy.export.aten.spans import as_lies, as_moved, checked
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.turned import of_picture

_RANK = 4

MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "mT"),
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"),
        *("slice", "select", "unbind", "chunk", "split", "split_with_sizes", "index"),
        *("narrow", "index_select", "tensor_split", "flip", "fliplr", "flipud", "roll"),
        *("channel_shuffle", "repeat_interleave", "repeat", "tile"),
        *("pixel_shuffle", "pixel_unshuffle", "numpy_T"),
        *("gather", "take_along_dim"),
    )
)
_LINES = frozenset(f"aten.{name}" for name in ("flip", "fliplr", "flipud", "roll"))
_BY_LAYOUT: Mapping[str, Callable[..., Any]] = {
    **vectors.TRANSLATIONS,
    **lines.TRANSLATIONS,
    **resampled.TRANSLATIONS,
    **padded.TRANSLATIONS,
    **turned.TRANSLATIONS,
}
BY_THEMSELVES = frozenset(
    f"aten.{name}"
    for name in (
        *("layer_norm", "rms_norm", "linear", "stack", "view_as", "reshape_as"),
        *(
            "conv1d",
            "adaptive_avg_pool1d",
            "max_pool1d",
            "im2col",
            "col2im",
            "logsumexp",
            "log_softmax",
            "rot90",
        ),
    )
) | frozenset([*resampled.TRANSLATIONS, *padded.TRANSLATIONS])
"""Operators that take numbers as they lie by what they do to moved ones."""
_OF_VECTORS = frozenset(
    f"aten.{name}" for name in ("cat", "batch_norm", "instance_norm", "group_norm")
)
"""Others that take a number a channel beside other numbers."""
_OVER_AXES = frozenset(
    [*vectors.REDUCTIONS, *vectors.REDUCTIONS_TO_TWO, "aten.max", "aten.min", "aten.group_norm"]
)
_SPREADING = frozenset({"aten.expand", "aten.expand_as"})
_OF_TWO = {"aten.max": "aten.maximum", "aten.min": "aten.minimum"}


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
    if key in each_number or key in _OF_VECTORS:
        moved = moved or _is_a_vector_beside_others(t, node)
    if key in MOVES and (moved or not otherwise):
        return _moves(t, node, as_picture=key in _LINES)
    if not moved and key not in BY_THEMSELVES and not _is_of_no_picture(node, key):
        return None
    if arguments.get("other") is not None:
        key = _OF_TWO.get(key, key)
    handler = _BY_LAYOUT.get(key)
    if handler is not None:
        found: _Result | None = handler(t, node, **arguments)
        return found
    if key in vectors.REDUCTIONS:
        return vectors.reduced(t, node.meta["val"], vectors.REDUCTIONS[key], **arguments)
    return _each_number(t, node, each_number[key], arguments) if key in each_number else None


def _is_a_vector_beside_others(t: Translation, node: fx.Node) -> bool:
    """Return whether a number a channel, as (1, C), stands by learnt ones or by another shape."""
    shapes = {s: tuple(s.meta["val"].shape) for s in node.all_input_nodes}
    shapes = {source: shape for source, shape in shapes.items() if math.prod(shape) > 1}
    learnt = any(source in t.weights for source in shapes)
    return (learnt or len(set(shapes.values())) > 1) and any(
        not t.is_whole(shape, str(t.values[source]))
        for source, shape in shapes.items()
        if isinstance(t.values.get(source), str)
    )


def _is_of_no_picture(node: fx.Node, key: str) -> bool:
    """Return whether an operator goes over axes of what has not four, as the numbers of a style."""
    shape = tuple(node.all_input_nodes[0].meta["val"].shape)
    if key in _SPREADING:
        made = tuple(node.meta["val"].shape)
        return made != shape and len(made) != _RANK
    return key in _OVER_AXES and len(shape) != _RANK


def _moves(t: Translation, node: fx.Node, *, as_picture: bool) -> _Result:
    """Let torch move the places as it would the numbers, of a picture if it is lines that move."""
    if sum(t.is_picture(source) for source in node.all_input_nodes) > 1:
        raise Refused("takes places from a picture")
    value = ""

    def places(source: fx.Node) -> Any:  # noqa: ANN401 - a tensor
        nonlocal value
        if source in t.weights:
            return t.weights[source]
        held = of_picture(t, source) if as_picture else as_moved(t, source)
        value = held.value
        # A view is of numbers that lie in order; and what is turned in place is not another's.
        index = held.index.contiguous() if views else held.index
        return index.clone() if target._schema.is_mutable else index  # noqa: SLF001 - torch's only way

    target: Any = node.target
    views = "view" in target._schema.name  # noqa: SLF001 - torch's only way
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), places)
    made = target(*args, **kwargs)
    if isinstance(made, Tensor):
        return settled(t.builder, value, made)
    return [settled(t.builder, value, part) for part in made]


def _each_number(
    t: Translation, node: fx.Node, translation: Callable[..., str], arguments: dict[str, Any]
) -> str | Moved:
    """Compute on the values as they lie."""
    sources = node.all_input_nodes
    several = sum(math.prod(source.meta["val"].shape) > 1 for source in sources) > 1

    def lying(source: fx.Node) -> Moved:
        held = as_moved(t, source)
        found = cut(t.builder, held.value, held.index) if several else None
        return held if found is None else Moved(*found)

    held = {source: lying(source) for source in sources if source in t.values}
    lead = max(held.values(), key=lambda m: leads(t, m))
    first, shape = spread(t, lead, tuple(node.meta["val"].shape))

    def as_it_lies(operand: Any) -> Any:  # noqa: ANN401 - whatever torch passes
        if not isinstance(operand, fx.Node):
            return operand
        count = math.prod(operand.meta["val"].shape)
        if operand in t.values and count > 1:
            return lead.value if held[operand] is lead else beside(t, held[operand], first, shape)
        if operand in t.weights and count > 1:
            return as_lies(t, t.array(operand), first, shape)
        return operand

    value = translation(t, **{name: as_it_lies(a) for name, a in arguments.items()})
    return checked(t, node.meta["val"], value, first.index)
