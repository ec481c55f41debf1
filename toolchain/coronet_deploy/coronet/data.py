"""Paired pictures as users of pytorch-CycleGAN-and-pix2pix lay them out: A and B side by side.

What a training step sees is a function of the seed and the step alone, so a run that was stopped
and resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.images import Array, Pixels, at_size, from_pixels, list_pictures, open_pair

_FLIPPED = 0.5  # share of the pairs that training sees mirrored


class Direction(StrEnum):
    """Which half of a pair is the generator's input: the left (A) or the right (B)."""

    A_TO_B = "AtoB"
    B_TO_A = "BtoA"


class PairedPictures:
    """The pairs of one folder, in memory as (2, load, load, 3) uint8: input, then truth."""

    def __init__(
        self,
        folder: Path,
        direction: Direction,
        load: int,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        paths = list_pictures(folder)
        self.pairs: list[Pixels] = []
        for i, path in enumerate(paths):
            self.pairs.append(_read_pair(path, direction, load))
            progress((i + 1) / len(paths))

    def batch(self, step: int, size: int, crop: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return input and truth of a training step, each (size, 3, crop, crop) in [-1, 1].

        Every pair is seen once an epoch, in an order shuffled by epoch, cropped and flipped at
        random, both halves alike.
        """
        chosen = [self._augmented(step * size + i, crop, seed) for i in range(size)]
        stacked = torch.from_numpy(np.stack(chosen)).permute(1, 0, 4, 2, 3).contiguous()
        return stacked[0], stacked[1]

    def _augmented(self, index: int, crop: int, seed: int) -> Array:
        epoch, place = divmod(index, len(self.pairs))
        order = np.random.default_rng([seed, 0, epoch]).permutation(len(self.pairs))
        rng = np.random.default_rng([seed, 1, index])
        pair = self.pairs[order[place]]
        top, left = rng.integers(0, pair.shape[1] - crop + 1, 2)
        pair = pair[:, top : top + crop, left : left + crop]
        return from_pixels(pair[:, :, ::-1] if rng.random() < _FLIPPED else pair)

    def whole(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return input and truth of the given pairs, uncropped, each (N, 3, load, load)."""
        stacked = from_pixels(np.stack([self.pairs[i] for i in indices]))
        tensor = torch.from_numpy(stacked).permute(1, 0, 4, 2, 3).contiguous()
        return tensor[0], tensor[1]


def _read_pair(path: Path, direction: Direction, load: int) -> Pixels:
    """Return the pair in `path` as (2, load, load, 3) uint8, input first.

    Raises:
        BadInput: the file is no picture, or too narrow to be two side by side.

    """
    pixels = np.stack([at_size(half, load, load) for half in open_pair(path)])
    return pixels if direction is Direction.A_TO_B else pixels[::-1].copy()
