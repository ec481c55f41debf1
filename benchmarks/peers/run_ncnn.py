"""Run a network in ncnn: `python run_ncnn.py FOLDER THREADS`; see `launch.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import launch
import ncnn
import numpy as np


class Network:
    """`traced.ncnn.param` and `.bin` in a folder, in float32."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{half}", False)
        self._net.load_param(str(folder / "traced.ncnn.param"))
        self._net.load_model(str(folder / "traced.ncnn.bin"))
        self._inputs, self._outputs = self._net.input_names(), self._net.output_names()

    def prepare(self, picture: np.ndarray[Any, Any]) -> None:
        """Take (1, 3, H, W)."""
        self._picture = ncnn.Mat(np.ascontiguousarray(picture[0])).clone()

    def invoke(self) -> None:
        """Run one inference."""
        extractor = self._net.create_extractor()
        extractor.input(self._inputs[0], self._picture)
        _, self._result = extractor.extract(self._outputs[0])

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (1, 3, H, W)."""
        return np.array(self._result)[None]


launch.main(Network, sys.argv[1:])
