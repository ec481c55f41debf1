"""Made on the fly for the tests of quality: feature weights and folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

# SqueezeNet 1.0: layer, input channels, squeezed, expanded.
FIRES = (
    (3, 96, 16, 64), (4, 128, 16, 64), (5, 128, 32, 128), (7, 256, 32, 128), (8, 256, 48, 192),
    (9, 384, 48, 192), (10, 384, 64, 256), (12, 512, 64, 256),
)  # fmt: skip

Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float16]]]


def squeezenet_tensors() -> Tensors:
    """Return seeded weights by torchvision's names, classifier and all, in float16."""
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, int, int]] = {"features.0": (96, 3, 7)}
    for layer, channels, squeezed, expanded in FIRES:
        shapes[f"features.{layer}.squeeze"] = (squeezed, channels, 1)
        shapes[f"features.{layer}.expand1x1"] = (expanded, squeezed, 1)
        shapes[f"features.{layer}.expand3x3"] = (expanded, squeezed, 3)
    shapes["classifier.1"] = (1000, 512, 1)
    tensors = {}
    for name, (to, of, k) in shapes.items():
        scale = np.sqrt(2 / (of * k * k))
        tensors[f"{name}.weight"] = (rng.normal(size=(to, of, k, k)) * scale).astype(np.float16)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, to).astype(np.float16)
    return tensors


def write_squeezenet(path: Path) -> Path:
    """Write `squeezenet_tensors` to `path`."""
    save_file(squeezenet_tensors(), path)
    return path


def write_picture(path: Path, seed: int, height: int, width: int) -> None:
    """Write a smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)


def write_pairs(folder: Path, count: int, height: int = 32, width: int = 48) -> Path:
    """Write pairs of `height` x 2 `width`, A left and B right, that differ in content."""
    for i in range(count):
        write_picture(folder / f"{i:02}.png", 100 + i, height, 2 * width)
    return folder
