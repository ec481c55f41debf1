"""Run an .onnx or .tflite file: `python run_session.py FILE THREADS`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import launch
import numpy as np

from coronet_deploy.verify.runtimes import open_session, runtime_of


class Network:
    """A file in its runtime, as `coronet-deploy bench` runs it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_session(path, runtime_of(path), threads)
        self.invoke = self._session.invoke

    def prepare(self, picture: np.ndarray[Any, Any]) -> None:
        """Take (1, 3, H, W)."""
        self._session.prepare(np.ascontiguousarray(picture.transpose(0, 2, 3, 1)))

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return (1, 3, H, W)."""
        return self._session.fetch().transpose(0, 3, 1, 2)


launch.main(Network, sys.argv[1:])
