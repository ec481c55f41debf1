"""Writes a `Graph` as a TFLite file, straight into its schema, without a converter."""

from __future__ import annotations

from collections.abc import Mapping

from coronet_deploy.export.graph import Graph
from coronet_deploy.vocabulary import DType


def emit_tflite(graph: Graph, dtype: DType, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a TFLite file of `graph`."""
    raise NotImplementedError
