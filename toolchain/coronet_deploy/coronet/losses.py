"""The adversarial losses that users of pytorch-CycleGAN-and-pix2pix know."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F


class GANLoss(StrEnum):
    """`vanilla` is cross-entropy on logits (pix2pix), `lsgan` least squares (CycleGAN)."""

    VANILLA = "vanilla"
    LSGAN = "lsgan"

    def __call__(self, logits: Tensor, *, real: bool) -> Tensor:
        """Return the mean loss of judging `logits` (N, 1, H, W) to be `real` or not."""
        wanted = torch.full_like(logits, 1.0 if real else 0.0)
        if self is GANLoss.LSGAN:
            return F.mse_loss(logits, wanted)
        return F.binary_cross_entropy_with_logits(logits, wanted)
