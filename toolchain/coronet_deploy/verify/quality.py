"""How good a generator's pictures are: beside their true pictures, and as a set among true ones.

A picture is compared as it comes out of the generator, real values in [-1, 1]; the networks that
distances are taken over see it as pixels, as a viewer would. Pictures pass through one at a time:
only figures, features and a few pictures to look at are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.images import Array, Pixels, from_pixels, to_pixels
from coronet_deploy.verify.distances import (
    Features,
    KernelDistance,
    fit,
    frechet_between,
    frechet_distance,
    frechet_is_reliable,
    halves,
    kernel_distance,
    kernel_value,
)
from coronet_deploy.verify.examples import Examples, read_single
from coronet_deploy.verify.parity import psnr_db, ssim

if TYPE_CHECKING:  # torch comes with it, and figures of an artifact alone need none
    from coronet_deploy.verify.features import FeatureNetwork

Translate = Callable[[Array], Array]
"""A generator: a (1, H, W, 3) picture of real values in [-1, 1] to another."""

_SHOWN = 4
_FEWEST_FOR_HALVES = 4


@dataclass(frozen=True)
class Figure:
    """A figure over all pairs: its mean, and the one of the pair that fares worst."""

    mean: float
    worst: float


@dataclass(frozen=True)
class Likeness:
    """How near the generated pictures are to their own true pictures.

    `psnr_db` and `ssim` as in `parity`; `l1` is the mean absolute difference of real values in
    [-1, 1], as the training loss has it: 2 is black against white.
    """

    psnr_db: Figure
    ssim: Figure
    l1: Figure
    pairs: int


@dataclass(frozen=True)
class Distances:
    """How far the generated pictures are from the true ones, as sets, over one network.

    `names` are those of the Fréchet and of the kernel distance. `frechet_floor` and
    `kernel_floor` are the distances between two halves of the true pictures, which is what equal
    sources of half as many pictures give; None of fewer than four. `frechet_untouched` and
    `kernel_untouched` are those of the inputs themselves to the true ones: of doing nothing.
    """

    network: FeatureNetwork
    frechet: float
    frechet_reliable: bool
    kernel: KernelDistance
    frechet_floor: float | None
    kernel_floor: float | None
    frechet_untouched: float
    kernel_untouched: float

    @property
    def names(self) -> tuple[str, str]:
        """Names of the Fréchet and of the kernel distance."""
        return self.network.names


@dataclass(frozen=True)
class Quality:
    """What was found; `likeness` is None where nothing is paired.

    `shown` are some of the pictures, evenly through the set: input, truth if paired, generated.
    """

    generated: int
    true: int
    likeness: Likeness | None
    distances: tuple[Distances, ...]
    shown: tuple[tuple[Pixels, ...], ...]


@dataclass
class _Tally:
    """What is kept of the pictures that have passed."""

    networks: Sequence[FeatureNetwork]
    figures: list[tuple[float, float, float]] = field(default_factory=list)
    generated: list[list[Features]] = field(init=False)
    true: list[list[Features]] = field(init=False)
    given: list[list[Features]] = field(init=False)
    shown: list[tuple[Pixels, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generated = [[] for _ in self.networks]
        self.true = [[] for _ in self.networks]
        self.given = [[] for _ in self.networks]

    def add(self, pixels: Pixels, kept: list[list[Features]]) -> None:
        for network, rows in zip(self.networks, kept, strict=True):
            numbers = network.features(pixels)
            if not np.isfinite(numbers).all():
                raise BadInput(f"{network.path} makes features that are not finite of a picture")
            rows.append(numbers)


def judge(
    what: str,
    translate: Translate,
    size: tuple[int, int],
    examples: Examples,
    networks: Sequence[FeatureNetwork] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    told: Callable[[str], None] = lambda _step: None,
) -> Quality:
    """Return how good `translate`'s pictures of `examples` are, at `size` (height, width).

    `what` names the generator in errors; `progress` is told how many pictures of how many are
    done, and `told` what takes its time after them.

    Raises:
        BadInput: a picture cannot be read, a generated one is of another shape, or nothing is
            paired and no network was given.
        GateFailed: a generated picture holds NaN or infinity, which no figure can describe.

    """
    if not examples.paired and not networks:
        raise BadInput(
            f"{examples.folder} holds no pairs, so only distances can be measured",
            hint="name a feature network with --features or --inception, or say --paired if "
            "files of the same names belong together",
        )
    examples.require_whole()
    tally = _Tally(networks)
    total = examples.input_count + (0 if examples.paired else examples.target_count)
    shown = _evenly(examples.input_count)
    for place, (given, truth) in enumerate(_inputs(examples, size)):
        output = translate(from_pixels(given)[None])[0]
        if bad := int(output.size - np.count_nonzero(np.isfinite(output))):
            raise GateFailed(f"{what}: picture {place + 1} has {bad} values that are not finite")
        if output.shape != given.shape:
            raise BadInput(
                f"{what} makes pictures of shape {output.shape} of {given.shape}: only those of "
                "the input's size and colours can be judged"
            )
        pixels = to_pixels(output)
        tally.add(pixels, tally.generated)
        tally.add(given, tally.given)
        if truth is not None:
            tally.add(truth, tally.true)
            tally.figures.append(_figures(from_pixels(truth), output))
        if place in shown:
            tally.shown.append((given, pixels) if truth is None else (given, truth, pixels))
        progress(place + 1, total)
    for place, path in enumerate(() if examples.paired else examples.targets):
        tally.add(read_single(path, *size), tally.true)
        progress(examples.input_count + place + 1, total)
    distances = []
    for network, *rows in zip(networks, tally.generated, tally.true, tally.given, strict=True):
        told(f"{' and '.join(network.names)} of {total} pictures")
        distances.append(_distances(network, *map(np.stack, rows)))
    return Quality(
        generated=examples.input_count,
        true=examples.target_count,
        likeness=_likeness(tally.figures) if tally.figures else None,
        distances=tuple(distances),
        shown=tuple(tally.shown),
    )


def _inputs(examples: Examples, size: tuple[int, int]) -> Iterator[tuple[Pixels, Pixels | None]]:
    """Yield each input, with its true picture where there is one."""
    yield from examples.read_pairs(*size)
    for path in () if examples.paired else examples.inputs:
        yield read_single(path, *size), None


def _evenly(count: int) -> frozenset[int]:
    """Return `_SHOWN` places, or all, evenly through `count`."""
    return frozenset(np.linspace(0, count - 1, min(_SHOWN, count)).astype(int).tolist())


def _figures(truth: Array, output: Array) -> tuple[float, float, float]:
    """Return PSNR in dB, SSIM and L1 of one picture."""
    l1 = float(np.mean(np.abs(truth.astype(np.float64) - output)))
    return psnr_db(truth, output), ssim(truth, output), l1


def _likeness(figures: Sequence[tuple[float, float, float]]) -> Likeness:
    psnr, similarity, l1 = np.asarray(figures).T
    return Likeness(
        psnr_db=Figure(float(psnr.mean()), float(psnr.min())),
        ssim=Figure(float(similarity.mean()), float(similarity.min())),
        l1=Figure(float(l1.mean()), float(l1.max())),
        pairs=len(figures),
    )


def _distances(
    network: FeatureNetwork, generated: Features, true: Features, given: Features
) -> Distances:
    frechet_floor = kernel_floor = None
    if len(true) >= _FEWEST_FOR_HALVES:
        first, second = halves(true)
        frechet_floor = frechet_distance(first, second)
        kernel_floor = kernel_value(first, second)
    truth = fit(true)
    return Distances(
        network=network,
        frechet=frechet_between(fit(generated), truth),
        frechet_reliable=frechet_is_reliable(generated, true),
        kernel=kernel_distance(generated, true),
        frechet_floor=frechet_floor,
        kernel_floor=kernel_floor,
        frechet_untouched=frechet_between(fit(given), truth),
        kernel_untouched=kernel_value(given, true),
    )
