"""Writes a `Graph` as a ONNX file, in NCHW."""

from __future__ import annotations

from collections.abc import Mapping

from coronet_deploy.export.graph import Graph
from coronet_deploy.vocabulary import DType


def emit_onnx(graph: Graph, dtype: DType, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a ONNX file of `graph`."""
    raise NotImplementedError
