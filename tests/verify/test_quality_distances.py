"""The Fréchet and the kernel distance, against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.verify.distances import (
    Features,
    frechet_distance,
    frechet_is_reliable,
    halves,
    kernel_distance,
)


def test_frechet_of_one_dimension_is_that_of_two_gaussians() -> None:
    # Means 2 and 6, standard deviations sqrt(2) and sqrt(8): (2 - 6)² + (sqrt 2 - sqrt 8)² = 18.
    first, second = np.array([[1.0], [3.0]]), np.array([[4.0], [8.0]])
    assert frechet_distance(first, second) == pytest.approx(18.0)


def test_frechet_of_diagonal_covariances_adds_up(rng: np.random.Generator) -> None:
    # Columns of a Hadamard matrix are centred and orthogonal: the covariances are diagonal.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    a, b, shift = rng.uniform(0.5, 3, 3), rng.uniform(0.5, 3, 3), rng.normal(size=3)
    # With N - 1 = 3 below the line, a column of +-a has variance 4 a² / 3.
    expected = np.sum(shift**2) + np.sum((a - b) ** 2) * 4 / 3
    assert frechet_distance(signs * a, signs * b + shift) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 50, 8), (9, 7, 40)])
def test_frechet_takes_the_root_of_the_product(
    rng: np.random.Generator, n: int, m: int, d: int
) -> None:
    x: Features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    y: Features = rng.gamma(2.0, 1.0, (m, d))
    c1, c2 = np.cov(x.T), np.cov(y.T)
    # The root's trace by another way: eigenvalues of the product, which are real and positive.
    root = np.sqrt(np.clip(np.linalg.eigvals(c1 @ c2).real, 0, None)).sum()
    shift = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    expected = shift + np.trace(c1) + np.trace(c2) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-5)
    assert frechet_is_reliable(x, y) == (min(n, m) > d)


def test_equal_sets_have_no_frechet_distance(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 12))
    assert 0 <= frechet_distance(x, x[::-1]) < 1e-9


def test_kernel_distance_of_four_numbers() -> None:
    # D = 1, k = (xy + 1)³. Within {0, 1}: k(0, 1) = 1. Within {1, 2}: k(1, 2) = 27.
    # Between: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27, mean 37 / 4.
    found = kernel_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
    assert found.value == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert found.spread is None


def test_kernel_distance_is_unbiased_and_tells_sets_apart(rng: np.random.Generator) -> None:
    # Of equal sources the mean is 0 however few the pictures are; a biased estimate of sets of 6
    # would stand at about 0.5.
    values = [
        kernel_distance(rng.normal(size=(6, 16)), rng.normal(size=(6, 16))).value
        for _ in range(300)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0
    near, far = (
        kernel_distance(rng.normal(size=(80, 16)), rng.normal(offset, 1, (80, 16)))
        for offset in (0.0, 0.5)
    )
    assert near.spread is not None
    assert abs(near.value) < 3 * near.spread
    assert far.value > 0.5
    assert (far.subsets, far.subset_size) == (100, 40)


def test_more_rows_than_a_block_change_nothing(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(1500, 3)), rng.normal(0.2, 1, (1100, 3))

    def kernel(a: Features, b: Features) -> Features:
        return (a @ b.T / 3 + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    expected = (xx.sum() - np.trace(xx)) / (1500 * 1499) + (yy.sum() - np.trace(yy)) / (1100 * 1099)
    assert kernel_distance(x, y).value == pytest.approx(expected - 2 * kernel(x, y).mean())


def test_the_same_sets_give_the_same_spread_and_the_same_halves(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(21, 5)), rng.normal(size=(20, 5))
    assert kernel_distance(x, y) == kernel_distance(x.copy(), y.copy())
    first, second = halves(x)
    assert len(first) == len(second) == 10
    rows = {tuple(row) for row in np.concatenate([first, second])}
    assert len(rows) == 20
    assert rows < {tuple(row) for row in x}


def test_sets_that_have_no_distance_are_refused(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 4))
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(BadInput, match="at least 2 pictures, not 1"):
            distance(x, x[:1])
        with pytest.raises(BadInput, match="4 and 3 dimensions"):
            distance(x, x[:, :3])
    with pytest.raises(BadInput, match="3 pictures are too few"):
        halves(x[:3])
