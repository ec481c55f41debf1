"""Run a network in MNN: `python run_mnn.py FOLDER THREADS`; see `launch.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import launch
import MNN
import numpy as np


class Network:
    """`plain.mnn` in a folder, in float32 (precision "high")."""

    def __init__(self, folder: Path, threads: int) -> None:
        interpreter = MNN.Interpreter(str(folder / "plain.mnn"))
        settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
        self._interpreter = interpreter
        self._session = interpreter.createSession(settings)
        self._input = interpreter.getSessionInput(self._session)
        self._output = interpreter.getSessionOutput(self._session)

    def _host(self, tensor: Any, values: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - untyped
        kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        return MNN.Tensor(tensor.getShape(), kind, values, layout)

    def prepare(self, picture: np.ndarray[Any, Any]) -> None:
        """Take (1, 3, H, W)."""
        self._input.copyFrom(self._host(self._input, np.ascontiguousarray(picture)))

    def invoke(self) -> None:
        """Run one inference."""
        self._interpreter.runSession(self._session)

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (1, 3, H, W)."""
        shape = self._output.getShape()
        host = self._host(self._output, np.zeros(shape, np.float32))
        self._output.copyToHostTensor(host)
        return np.array(host.getData(), np.float32).reshape(shape)


launch.main(Network, sys.argv[1:])
