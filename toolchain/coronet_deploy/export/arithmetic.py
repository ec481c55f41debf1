"""Operators on numbers, one by one, of norms and curves written by hand (see `operators`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coronet_deploy.export.operators import Broadcast, Elementwise


@dataclass(frozen=True)
class Sqrt(Elementwise):
    """The square root of x."""

    kind: ClassVar[str] = "sqrt"


@dataclass(frozen=True)
class Exp(Elementwise):
    """e to the power of x."""

    kind: ClassVar[str] = "exp"


@dataclass(frozen=True)
class Log(Elementwise):
    """The natural logarithm of x."""

    kind: ClassVar[str] = "log"


@dataclass(frozen=True)
class Ceil(Elementwise):
    """The least whole number that is not below x."""

    kind: ClassVar[str] = "ceil"


@dataclass(frozen=True)
class Floor(Elementwise):
    """The largest whole number that is not above x."""

    kind: ClassVar[str] = "floor"


@dataclass(frozen=True)
class Abs(Elementwise):
    """max(x, -x)."""

    kind: ClassVar[str] = "abs"


@dataclass(frozen=True)
class Round(Elementwise):
    """The whole number that is nearest to x; of two, the even one."""

    kind: ClassVar[str] = "round"


@dataclass(frozen=True)
class Clamp(Elementwise):
    """max(min(x, high), low); an end that is missing is infinite."""

    kind: ClassVar[str] = "clamp"
    low: float
    high: float


@dataclass(frozen=True)
class HardSwish(Elementwise):
    """x * max(min(x / 6 + 1/2, 1), 0) (arXiv 1905.02244)."""

    kind: ClassVar[str] = "hard_swish"


@dataclass(frozen=True)
class HardSigmoid(Elementwise):
    """max(min(x / 6 + 1/2, 1), 0)."""

    kind: ClassVar[str] = "hard_sigmoid"


@dataclass(frozen=True)
class GeluByTanh(Elementwise):
    """x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) (arXiv 1606.08415)."""

    kind: ClassVar[str] = "gelu_by_tanh"


@dataclass(frozen=True)
class ScaledElu(Elementwise):
    """Return scale * x where positive, else scale * alpha * (exp(x) - 1)."""

    kind: ClassVar[str] = "scaled_elu"
    alpha: float
    scale: float


@dataclass(frozen=True)
class Div(Broadcast):
    """a / b."""

    kind: ClassVar[str] = "div"


@dataclass(frozen=True)
class Maximum(Broadcast):
    """The larger of a and b."""

    kind: ClassVar[str] = "maximum"
