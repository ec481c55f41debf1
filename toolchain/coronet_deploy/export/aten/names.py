"""Operators that torch has by a second name; traced networks hold whichever was written."""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, str] = {
    f"aten.{second}": f"aten.{first}"
    for second, first in {
        "absolute": "abs",
        "clip": "clamp",
        "concat": "cat",
        "concatenate": "cat",
        "divide": "div",
        "greater": "gt",
        "greater_equal": "ge",
        "less": "lt",
        "less_equal": "le",
        "multiply": "mul",
        "negative": "neg",
        "not_equal": "ne",
        "ravel": "flatten",
        "sgn": "sign",
        "special_erf": "erf",
        "special_expit": "sigmoid",
        "special_expm1": "expm1",
        "special_log1p": "log1p",
        "subtract": "sub",
        "true_divide": "div",
    }.items()
}
"""By each second name, the one that tables go by."""
