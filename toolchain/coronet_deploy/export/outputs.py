"""What a network's pictures range over, which is what errors in them are measured against."""

from __future__ import annotations

from collections.abc import Iterable

from coronet_deploy.export.graph import FloatArray, Graph
from coronet_deploy.export.operators import Sigmoid, Tanh

ValueRange = tuple[float, float]

PICTURE: ValueRange = (-1.0, 1.0)
"""The real values of a picture that a tanh bounds."""


def output_range(graph: Graph) -> ValueRange | None:
    """Return what the network's last operator lets out, if it bounds anything."""
    last = graph.nodes[-1].op
    if isinstance(last, Tanh):
        return PICTURE
    return (0.0, 1.0) if isinstance(last, Sigmoid) else None


def spread_of(value_range: ValueRange | None, references: Iterable[FloatArray]) -> ValueRange:
    """Return `value_range`, or where nothing bounds the values what `references` reach."""
    if value_range is not None:
        return value_range
    ends = [(float(values.min()), float(values.max())) for values in references]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    # Of a picture all of one value, an error is measured against the value.
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))
