"""torch.einsum of two tensors, as products of matrices, or of one by a learnt one, as sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, fx

from coronet_deploy.export.aten.attention import multiplied
from coronet_deploy.export.aten.spans import as_moved, checked
from coronet_deploy.export.aten.translation import Moved, Refused, Translation
from coronet_deploy.export.aten.vectors import combined


def einsum(
    t: Translation, node: fx.Node, *, equation: str, tensors: list[fx.Node], path: object = None
) -> str | Moved:
    """Return sums over the letters that are not made, of products of both tensors' numbers."""
    del path
    taken, arrow, made = equation.replace(" ", "").partition("->")
    of = taken.split(",")
    if len(of) != 2 or not arrow or "." in taken or any(len(set(x)) < len(x) for x in of):  # noqa: PLR2004
        raise Refused(f"takes {equation!r}; only two tensors, a letter an axis, and what they make")
    if t.is_picture(tensors[0]) and t.is_picture(tensors[1]):
        value, index, letters = _of_pictures(t, tensors, of, made)
    else:
        value, index, letters = _by_learnt(t, tensors, of, made)
    index = index.permute([letters.index(letter) for letter in made])
    return checked(t, node.meta["val"], value, index)


def _of_pictures(
    t: Translation, tensors: list[fx.Node], of: list[str], made: str
) -> tuple[str, Tensor, str]:
    """Return the products of as many pairs of matrices as letters stand in all three."""
    left, right = of
    many = "".join(x for x in left if x in right and x in made)
    summed = "".join(x for x in left if x in right and x not in made)
    rows, columns = ("".join(x for x in one if x not in many + summed) for one in of)
    if not set(rows + columns) <= set(made):
        raise Refused(f"sums over one tensor alone, {','.join(of)}->{made}")
    sizes: dict[str, int] = {}
    matrices = []
    for tensor, one, order in zip(tensors, of, ((rows, summed), (summed, columns)), strict=True):
        held = as_moved(t, tensor)
        sizes |= dict(zip(one, held.index.shape, strict=True))
        index = held.index.permute([one.index(x) for x in many + "".join(order)])
        shape = (math.prod(sizes[x] for x in letters) for letters in order)
        matrices.append(Moved(held.value, index.reshape(*(sizes[x] for x in many), *shape)))
    value, index = multiplied(t, *matrices)
    letters = many + rows + columns
    return value, index.reshape([sizes[x] for x in letters]), letters


def _by_learnt(
    t: Translation, tensors: list[fx.Node], of: list[str], made: str
) -> tuple[str, Tensor, str]:
    """Return sums over letters of the picture's by the rows of a learnt matrix."""
    picture = int(t.is_picture(tensors[1]))
    letters, learnt = of[picture], of[1 - picture]
    summed = [x for x in letters if x in learnt]
    new = [x for x in learnt if x not in letters]
    if not summed or set(summed) & set(made) or not set(new) <= set(made):
        raise Refused(f"weighs {letters!r} by a learnt {learnt!r}; only sums over what both have")
    held, array = as_moved(t, tensors[picture]), t.array(tensors[1 - picture])
    order = [learnt.index(x) for x in (*new, *summed)]
    weight = array.transpose(order)
    outputs = weight.shape[: len(new)]
    value, index = combined(
        t, held, [letters.index(x) for x in summed], weight.reshape(math.prod(outputs), -1)
    )
    rest = [x for x in letters if x not in summed]
    sizes = [held.index.shape[letters.index(x)] for x in rest]
    return value, index.reshape(*sizes, *outputs), "".join([*rest, *new])


TRANSLATIONS: Mapping[str, Callable[..., str | Moved]] = {"aten.einsum": einsum}
