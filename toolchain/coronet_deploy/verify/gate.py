"""The gate: an artifact in its real runtime beside torch, on real pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.outputs import PICTURE, ValueRange, spread_of
from coronet_deploy.export.theirs import importable_here
from coronet_deploy.images import Array
from coronet_deploy.verify.parity import compare
from coronet_deploy.verify.runtimes import Partitions, open_session
from coronet_deploy.vocabulary import Architecture, Parity, Runtime

if TYPE_CHECKING:
    from torch import nn

# A fixed number: the figures then do not depend on how many cores the host has.
_THREADS = 2


@dataclass(frozen=True)
class Trial:
    """What one artifact made of the pictures, (1, H, W, C) each, and how it compares.

    `value_range` is what its errors were measured against.
    """

    outputs: tuple[Array, ...]
    parity: Parity
    partitions: Partitions
    value_range: ValueRange = PICTURE


def translate(generator: nn.Module, pictures: Pictures) -> tuple[Array, ...]:
    """Return torch's pictures of `pictures`; both (1, H, W, C) real values, those in in [-1, 1].

    Raises:
        BadInput: torch itself gives what is not finite, which nothing can be compared with.

    """
    outputs = []
    for picture in pictures.values:
        outputs.append(drawn(generator, picture))
        if not np.isfinite(outputs[-1]).all():
            raise BadInput(
                f"torch itself gives {_not_finite(outputs[-1])} values that are not finite",
                hint="look at the weights, and at the pictures",
            )
    return tuple(outputs)


def drawn(generator: nn.Module, picture: Array) -> Array:
    """Return torch's (1, H, W, C) picture of one; what the generator prints goes to stderr.

    Raises:
        BadInput: it gives no picture, nor one alone in a tuple, a list or a dict.

    """
    import torch

    told = contextlib.redirect_stdout(sys.stderr)
    with torch.inference_mode(), importable_here(), told:
        x = torch.from_numpy(picture.transpose(0, 3, 1, 2).copy())
        weights = next(generator.parameters(), x)
        output: object = generator(x.to(weights.device))
    while isinstance(output, tuple | list | dict) and len(output) == 1:  # as capture takes them
        (output,) = output.values() if isinstance(output, dict) else output
    if not isinstance(output, torch.Tensor) or output.ndim != picture.ndim:
        raise BadInput(f"{type(generator).__name__} gives a {_kind(output)}, not one picture")
    return np.ascontiguousarray(output.cpu().numpy().transpose(0, 2, 3, 1))


def _kind(output: object) -> str:
    shape = getattr(output, "shape", None)
    return type(output).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def _not_finite(values: Array) -> int:
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def try_artifact(
    path: Path,
    runtime: Runtime,
    pictures: Pictures,
    references: Sequence[Array],
    bound_db: float,
    name: str | None = None,
    value_range: ValueRange | None = PICTURE,
) -> Trial:
    """Run an artifact on `pictures` and compare it with torch's `references`.

    `name` stands for the artifact in errors, if its path does not. `value_range` is that of its
    output; where nothing bounds it, errors are measured against what the references reach.

    Raises:
        BadInput: the pictures are not of the artifact's size.
        ConversionFailed: its runtime does not load it.
        GateFailed: its output holds NaN or infinity. (A PSNR below the bound does not raise here:
            see `require`.)

    """
    with open_session(path, runtime, _THREADS) as session:
        outputs = tuple(session.run(picture) for picture in pictures.values)
        partitions = session.partitions
    against = spread_of(value_range, references)
    parity = compare(name or str(path), references, outputs, bound_db, against)
    return Trial(outputs, parity, partitions, against)


def require(parity: Parity, name: str, hint: str | None = None) -> None:
    """Let an artifact through whose worst picture reaches its bound.

    Raises:
        GateFailed: it does not; names the artifact, the figure and the bound.

    """
    if not parity.passed:
        raise GateFailed(
            f"{name}: PSNR against torch is {parity.psnr_db:.2f} dB, "
            f"below the bound of {parity.bound_db:g} dB",
            hint=hint,
        )


def check_size(height: int, width: int, architecture: Architecture) -> None:
    """Let a picture size through that the generator can take.

    Raises:
        BadInput: a side is less than the architecture needs, or no multiple of what it does.

    """
    from coronet_deploy.networks.generator import least_side, size_multiple

    multiple, least = size_multiple(architecture), least_side(architecture)
    if min(height, width) < least or height % multiple or width % multiple:
        further = f", at least {least}" if least > multiple else ""
        raise BadInput(
            f"pictures of {height}x{width} do not fit {architecture}: "
            f"height and width must be multiples of {multiple}{further}"
        )
