"""Operators that compare numbers and choose between them (see `operators`).

What is true is 1 and what is not is 0, as torch's own tensors of such are when they are made
floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from coronet_deploy.export.operators import Broadcast, Elementwise, Shape


class Relation(StrEnum):
    """What may be true of two numbers."""

    ABOVE = ">"
    AT_LEAST = ">="
    EQUAL = "=="
    UNLIKE = "!="


@dataclass(frozen=True)
class Compare(Broadcast):
    """Whether a is in a relation to b."""

    kind: ClassVar[str] = "compare"
    relation: Relation


@dataclass(frozen=True)
class Not(Elementwise):
    """Whether it is not so."""

    kind: ClassVar[str] = "not"


@dataclass(frozen=True)
class Both(Broadcast):
    """Whether a and b are so."""

    kind: ClassVar[str] = "both"


@dataclass(frozen=True)
class Either(Broadcast):
    """Whether a or b is so."""

    kind: ClassVar[str] = "either"


@dataclass(frozen=True)
class Choose(Broadcast):
    """Of (truth, a, b): a where it is so, else b, whatever the other is."""

    kind: ClassVar[str] = "choose"

    def infer(self, *shapes: Shape) -> Shape:
        """Return the broadcast shape of all three."""
        truth, one, other = shapes
        return super().infer(super().infer(one, other), truth)


@dataclass(frozen=True)
class Sign(Elementwise):
    """1 where x is above 0, -1 where it is below, else 0."""

    kind: ClassVar[str] = "sign"
