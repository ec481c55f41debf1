"""Distances between two sets of pictures, by what a frozen network makes of them.

Features are (N, D) numbers, a row a picture. Pure arithmetic in float64: which network made the
features, and so what the distance is called, is for `features` to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coronet_deploy.errors import BadInput

Features = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

MIN_PICTURES = 2
"""A variance takes two; so does each term of the unbiased kernel distance."""

SUBSETS = 100
SUBSET_SIZE = 1000
"""The most pictures in a subset; of smaller sets it is half of the smaller one."""

_SEED = 0
_BLOCK = 1024  # rows of a kernel matrix that are held at once


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased kernel distance over all pictures, and how far it wanders.

    `spread` is the standard deviation over `subsets` draws of `subset_size` pictures from each
    set; None where the sets are too small to draw different ones.
    """

    value: float
    spread: float | None
    subsets: int
    subset_size: int


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance takes of a set of features, for several distances to one set.

    `mean` is (D,); `root` is R, of min(N, D) rows, with R'R the covariance.
    """

    mean: Features
    root: Features


def fit(features: Features) -> Gaussian:
    """Return the Gaussian fitted to an (N, D) set of features.

    Raises:
        BadInput: it has fewer than two pictures.

    """
    _check_count(features)
    return Gaussian(features.mean(axis=0), _root_of_covariance(features))


def frechet_distance(first: Features, second: Features) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two (N, D) sets of features.

    Raises:
        BadInput: a set has fewer than two pictures, or the sets differ in dimensions.

    """
    _check(first, second)
    return frechet_between(fit(first), fit(second))


def frechet_between(first: Gaussian, second: Gaussian) -> float:
    """Return the Fréchet distance of two Gaussians of as many dimensions.

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), of Heusel et al., "GANs trained by a two time-scale
    update rule" (2017), C with N - 1 below the line. With C1 = A'A and C2 = B'B, the trace of the
    root is the sum of the singular values of AB': no matrix root is taken, and covariances of
    fewer pictures than dimensions, which are singular, are as exact as others. They are poor
    estimates all the same: see `frechet_is_reliable`.
    """
    a, b = first.root, second.root
    shift = float(np.sum(np.square(first.mean - second.mean)))
    cross = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    # The distance is not negative; what rounding leaves of equal sets may be.
    return max(0.0, shift + float(np.sum(a * a) + np.sum(b * b)) - 2 * cross)


def frechet_is_reliable(first: Features, second: Features) -> bool:
    """Return whether both sets have more pictures than dimensions: covariances of full rank."""
    return min(len(first), len(second)) > first.shape[1]


def kernel_value(first: Features, second: Features) -> float:
    """Return `kernel_distance`'s value alone, without its spread, which takes a hundred draws.

    Raises:
        BadInput: see `frechet_distance`.

    """
    _check(first, second)
    return _mmd2(first, second)


def kernel_distance(first: Features, second: Features) -> KernelDistance:
    """Return the unbiased squared maximum mean discrepancy under (x.y / D + 1)³.

    Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs" (2018). Its mean does not
    depend on how many pictures there are, and it may be negative for sets that are alike. The
    subsets are drawn by a fixed seed, without repetition inside a subset.

    Raises:
        BadInput: see `frechet_distance`.

    """
    _check(first, second)
    smaller = min(len(first), len(second))
    size = min(SUBSET_SIZE, smaller // 2)
    if size < MIN_PICTURES:
        return KernelDistance(_mmd2(first, second), None, 0, 0)
    rng = np.random.default_rng(_SEED)
    drawn = [
        _mmd2(
            first[rng.choice(len(first), size, replace=False)],
            second[rng.choice(len(second), size, replace=False)],
        )
        for _ in range(SUBSETS)
    ]
    return KernelDistance(_mmd2(first, second), float(np.std(drawn, ddof=1)), SUBSETS, size)


def halves(features: Features) -> tuple[Features, Features]:
    """Return two halves of a set, drawn by a fixed seed: equals, to compare others with.

    Raises:
        BadInput: there are too few pictures for two halves that can be compared.

    """
    half = len(features) // 2
    if half < MIN_PICTURES:
        raise BadInput(f"{len(features)} pictures are too few for two halves of {MIN_PICTURES}")
    order = np.random.default_rng(_SEED).permutation(len(features))
    return features[order[:half]], features[order[half : 2 * half]]


def _check(first: Features, second: Features) -> None:
    _check_count(first)
    _check_count(second)
    if first.shape[1] != second.shape[1]:
        raise BadInput(
            f"features of {first.shape[1]} and {second.shape[1]} dimensions have no distance"
        )


def _check_count(features: Features) -> None:
    if len(features) < MIN_PICTURES:
        raise BadInput(f"a distance takes sets of at least 2 pictures, not {len(features)}")


def _root_of_covariance(features: Features) -> Features:
    """Return R, of min(N, D) rows, with R'R the covariance of (N, D) features."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    # numpy's types know only the modes that return two matrices.
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _mmd2(first: Features, second: Features) -> float:
    n, m = len(first), len(second)
    within_first = (_kernel_sum(first, first) - _kernel_diagonal(first)) / (n * (n - 1))
    within_second = (_kernel_sum(second, second) - _kernel_diagonal(second)) / (m * (m - 1))
    return within_first + within_second - 2 * _kernel_sum(first, second) / (n * m)


def _kernel_sum(first: Features, second: Features) -> float:
    dimensions = first.shape[1]
    starts = range(0, len(first), _BLOCK)
    return sum(
        float(np.sum((first[i : i + _BLOCK] @ second.T / dimensions + 1) ** 3)) for i in starts
    )


def _kernel_diagonal(features: Features) -> float:
    return float(np.sum((np.sum(features * features, axis=1) / features.shape[1] + 1) ** 3))
