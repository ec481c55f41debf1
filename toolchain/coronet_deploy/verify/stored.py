"""Real values as the tensors of an artifact store them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from coronet_deploy.images import Array
from coronet_deploy.vocabulary import TensorContract

_TIE = 1 / 1024
INTEGER_TYPES = {"int8": np.int8, "uint8": np.uint8}


def to_stored(values: Array, contract: TensorContract) -> np.ndarray[Any, Any]:
    """Return (N, H, W, C) real values as the tensor `contract` describes, in its layout."""
    arranged = values.transpose(0, 3, 1, 2) if contract.layout == "NCHW" else values
    if contract.dtype not in INTEGER_TYPES:
        return np.ascontiguousarray(arranged, dtype=contract.dtype)
    kind = INTEGER_TYPES[contract.dtype]
    bounds = np.iinfo(kind)
    real = arranged.astype(np.float64) / (contract.scale or 1.0)
    # Of two steps as near the lower, with room for float32's rounding: pixels may lie half-way
    # between steps, and all must go the same way.
    steps = np.floor(real + 0.5 - _TIE) + (contract.zero_point or 0)
    return np.ascontiguousarray(np.clip(steps, bounds.min, bounds.max).astype(kind))


def to_real(stored: np.ndarray[Any, Any], contract: TensorContract) -> Array:
    """Return a tensor as `contract` describes it as (N, H, W, C) float32 real values."""
    values = stored.astype(np.float32)
    if contract.dtype in INTEGER_TYPES:
        values = (values - np.float32(contract.zero_point or 0)) * np.float32(contract.scale or 1)
    arranged = values.transpose(0, 2, 3, 1) if contract.layout == "NCHW" else values
    return np.ascontiguousarray(arranged)
