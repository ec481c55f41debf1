"""Operators that put a value's numbers in another order (see `operators`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from coronet_deploy.export.operators import Elementwise, Operator, Shape


@dataclass(frozen=True)
class Permute(Operator):
    """The same numbers in another order: axes taken apart, and put together of others' parts.

    `factors` are the sizes of the parts of each axis, the slowest first; `order` are those parts
    that each axis made is of, counted through all axes. Windows of a picture, say, are made of
    rows of windows, rows of each, columns of windows, columns of each.
    """

    kind: ClassVar[str] = "permute"
    factors: tuple[Shape, ...]
    order: tuple[Shape, ...]

    def infer(self, *shapes: Shape) -> Shape:
        """Return the sizes of what the axes are put together of."""
        if tuple(map(math.prod, self.factors)) != shapes[0]:
            raise ValueError(f"{self.kind}: {shapes[0]} is not of {self.factors}")
        sizes = [size for axis in self.factors for size in axis]
        return tuple(math.prod(sizes[part] for part in axis) for axis in self.order)

    def transposed(
        self, axes: Sequence[int], made: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Return into what shape to bring the numbers, and the axes of that to transpose.

        `axes` tells how those of the value lie, (0, 1, 2, 3) if as NHWC; `made` those of what is
        made, if otherwise.
        """
        sizes = [size for axis in self.factors for size in axis]
        parts, first = [], 0
        for axis in self.factors:
            parts.append(range(first, first + len(axis)))
            first += len(axis)
        place = {part: i for i, part in enumerate(p for axis in axes for p in parts[axis])}
        runs: list[list[int]] = []
        for part in (p for axis in made or axes for p in self.order[axis]):
            if runs and place[part] == place[runs[-1][-1]] + 1:
                runs[-1].append(part)
            else:
                runs.append([part])
        lying = sorted(runs, key=lambda run: place[run[0]])
        return (
            [math.prod(sizes[part] for part in run) for run in lying],
            [lying.index(run) for run in runs],
        )


@dataclass(frozen=True)
class Mirror(Elementwise):
    """Lines across `axes`, 1 or 2 or both, in reverse."""

    kind: ClassVar[str] = "mirror"
    axes: tuple[int, ...]


@dataclass(frozen=True)
class PickChannels(Operator):
    """The channels of a value in `order`, left out or several times too."""

    kind: ClassVar[str] = "pick_channels"
    order: tuple[int, ...]

    def infer(self, *shapes: Shape) -> Shape:
        """Return the shape with as many channels as are picked."""
        return *shapes[0][:3], len(self.order)


def factors(number: int) -> list[int]:
    """Return numbers whose product `number` is, 4 where it can be and primes."""
    found, factor = [], 4
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor = {4: 2, 2: 3}.get(factor, factor + 2)
    return found


@dataclass(frozen=True)
class Transpose(Operator):
    """The axes of a value of any rank in another order."""

    kind: ClassVar[str] = "transpose"
    order: Shape

    def infer(self, *shapes: Shape) -> Shape:
        """Return the sizes in that order."""
        return tuple(shapes[0][axis] for axis in self.order)
