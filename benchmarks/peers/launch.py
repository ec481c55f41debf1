"""What every peer's runner shares: one process, one runtime, inferences when told, a picture.

    NETWORK THREADS

NETWORK is a folder that holds the network, or its file in one; the folder holds `picture.npy`,
(1, 3, H, W), and `reference.npy`. See `serve` for what it is told and answers; its last line has
"psnr_db" of the picture against the reference, with a peak-to-peak of 2.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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


def serve(
    invoke: Callable[[], None],
    prepare: Callable[[], None] = lambda: None,
    last: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Infer whenever a line comes in, and answer "ms" as a line of JSON.

    The line is a number: of inferences before the one that is timed, so that it finds its caches
    as it left them. At the end of input the answer is "peak_mb" of resident memory and what `last`
    tells.
    """
    for line in sys.stdin:
        for _ in range(int(line) + 1):
            prepare()
            start = time.perf_counter()
            invoke()
            taken = time.perf_counter() - start
        print(json.dumps({"ms": taken * 1e3}), flush=True)
    print(json.dumps({"peak_mb": peak_mb(), **last()}), flush=True)


def main(load: Callable[[Path, int], Network], arguments: Sequence[str]) -> None:
    """Load, infer when told, compare the picture."""
    path, threads = Path(arguments[0]), int(arguments[1])
    folder = path if path.is_dir() else path.parent
    network, picture = load(path, threads), np.load(folder / "picture.npy")

    def psnr() -> dict[str, float]:
        error = network.fetch().astype(np.float64) - np.load(folder / "reference.npy")
        mean = float(np.mean(np.square(error)))
        return {"psnr_db": 200.0 if mean == 0 else min(200.0, float(10 * np.log10(4 / mean)))}

    # The picture each time: MNN computes in the memory of its input.
    serve(network.invoke, lambda: network.prepare(picture), psnr)
