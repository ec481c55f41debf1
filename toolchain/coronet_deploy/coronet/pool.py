"""The image pool of CycleGAN: the discriminator judges a history of fakes, not the last one only.

After Shrivastava et al. (CVPR 2017), as CycleGAN uses it (Zhu et al., ICCV 2017, section 4).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SWAPPED = 0.5  # chance that a fake is swapped with one of the pool


class ImagePool:
    """Holds up to `size` fakes; what it draws is a function of seed, step and process alone."""

    def __init__(self, size: int, seed: int, rank: int = 0) -> None:
        self.size, self.seed, self.rank = size, seed, rank
        self.held: list[Tensor] = []

    def swap(self, fakes: Tensor, step: int) -> Tensor:
        """Return fakes to judge for `fakes` (N, 3, H, W), and keep what they were swapped for.

        While the pool fills, and always for a pool of size 0, they are `fakes` themselves; later
        each is, half the time, swapped with a random one of the pool.
        """
        if self.size == 0:
            return fakes
        others = [self.rank] if self.rank else []
        rng = np.random.default_rng([self.seed, 3, step, *others])
        judged = []
        for fake in fakes.detach():
            if len(self.held) < self.size:
                self.held.append(fake.clone())  # a view would keep its batch alive
                judged.append(fake)
            elif rng.random() < _SWAPPED:
                place = int(rng.integers(self.size))
                judged.append(self.held[place])
                self.held[place] = fake.clone()
            else:
                judged.append(fake)
        return torch.stack(judged)

    def state(self) -> Tensor:
        """Return what is held, (N, 3, H, W), or an empty tensor."""
        return torch.stack(self.held) if self.held else torch.empty(0)

    def load(self, state: Tensor) -> None:
        """Hold what `state` returned."""
        self.held = [fake.clone() for fake in state]
