"""What every peer's runner shares: one process, one runtime, timed inferences, a picture to check.

    NETWORK THREADS WARMUP SAMPLES

NETWORK is a folder that holds the network, or its file in one; the folder holds `picture.npy`,
(1, 3, H, W), and `reference.npy`. Prints one line of JSON: "samples_ms", "peak_mb" of resident
memory, and "psnr_db" of the picture against the reference, with a peak-to-peak of 2.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Network(Protocol):
    """A network loaded into its runtime."""

    def prepare(self, picture: np.ndarray[Any, Any]) -> None:
        """Place (1, 3, H, W) where the runtime reads its input."""

    def invoke(self) -> None:
        """Run one inference: what is timed."""

    def fetch(self) -> np.ndarray[Any, Any]:
        """Return the latest picture, (1, 3, H, W)."""


def peak_mb() -> float:
    """Return the most memory this process held; getrusage would tell its parent's, if larger."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main(load: Callable[[Path, int], Network], arguments: Sequence[str]) -> None:
    """Load, run, print."""
    path, (threads, warmup, samples) = Path(arguments[0]), map(int, arguments[1:])
    folder = path if path.is_dir() else path.parent
    network, picture = load(path, threads), np.load(folder / "picture.npy")
    measured = []
    for _ in range(warmup + samples):
        network.prepare(picture)  # each time: MNN computes in the memory of its input
        start = time.perf_counter()
        network.invoke()
        measured.append((time.perf_counter() - start) * 1e3)
    error = network.fetch().astype(np.float64) - np.load(folder / "reference.npy")
    mean = float(np.mean(np.square(error)))
    told = {
        "samples_ms": measured[warmup:],
        "peak_mb": peak_mb(),
        "psnr_db": 200.0 if mean == 0 else min(200.0, float(10 * np.log10(4 / mean))),
    }
    print(json.dumps(told))
