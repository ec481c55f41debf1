"""PSNR, SSIM and the comparison they make."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.verify.parity import CAP_DB, compare, psnr_db, ssim


def test_psnr_of_a_known_error(rng: np.random.Generator) -> None:
    picture = rng.uniform(-0.5, 0.5, (1, 16, 16, 3)).astype(np.float32)
    # A constant error of 0.2: 10 log10(2² / 0.2²) = 20 dB.
    assert psnr_db(picture, picture + np.float32(0.2)) == pytest.approx(20.0, abs=1e-4)


def test_equal_pictures_have_a_figure_that_json_can_hold(rng: np.random.Generator) -> None:
    picture = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    parity = compare("x", [picture], [picture.copy()], 100.0)
    assert parity.psnr_db == CAP_DB
    assert parity.max_abs == 0
    assert parity.ssim == pytest.approx(1.0)
    json.dumps(parity.psnr_db, allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_like_nothing(rng: np.random.Generator, value: float) -> None:
    picture = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    spoilt = picture.copy()
    spoilt[0, 3, 4, 1] = value
    assert psnr_db(picture, spoilt) == -math.inf


def test_ssim_is_that_of_the_paper(rng: np.random.Generator) -> None:
    # One window exactly: the formula of Wang et al. written out, weights and all.
    x = rng.uniform(-1, 1, (11, 11, 3)).astype(np.float32)
    y = np.clip(x + rng.normal(0, 0.3, x.shape), -1, 1).astype(np.float32)
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    weights = np.outer(line, line)
    weights /= weights.sum()
    expected = []
    for colour in range(3):
        a, b = x[:, :, colour].astype(float) + 1, y[:, :, colour].astype(float) + 1
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a = (weights * (a - mean_a) ** 2).sum()
        var_b = (weights * (b - mean_b) ** 2).sum()
        both = (weights * (a - mean_a) * (b - mean_b)).sum()
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        expected.append(
            (2 * mean_a * mean_b + c1)
            * (2 * both + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    assert ssim(x, y) == pytest.approx(np.mean(expected), rel=1e-9)


def test_ssim_falls_with_structure_and_hardly_with_brightness(rng: np.random.Generator) -> None:
    x = rng.uniform(-0.8, 0.8, (1, 32, 32, 3)).astype(np.float32)
    noise = rng.normal(0, 0.1, x.shape).astype(np.float32)
    brighter = x + np.float32(math.sqrt(np.mean(noise**2)))
    assert psnr_db(x, brighter) == pytest.approx(psnr_db(x, x + noise), abs=0.01)
    assert ssim(x, brighter) > ssim(x, x + noise)
    assert 0 < ssim(x, x + noise) < 1


def test_the_worst_picture_counts(rng: np.random.Generator) -> None:
    x = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    parity = compare("x", [x, x, x], [x, x + np.float32(0.2), x], 30.0)
    assert parity.psnr_db == pytest.approx(20.0, abs=1e-4)
    assert parity.max_abs == pytest.approx(0.2, abs=1e-6)
    assert parity.pictures == 3
    assert not parity.passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_fails_the_gate(bad: float) -> None:
    x = np.zeros((1, 16, 16, 3), np.float32)
    y = x.copy()
    y[0, 3, 4, 1] = bad
    with pytest.raises(GateFailed, match=r"a\.onnx: picture 2 has 1 values that are not finite"):
        compare("a.onnx", [x, x], [x, y], 30.0)


def test_nothing_to_compare_is_no_pass() -> None:
    with pytest.raises(BadInput, match="no picture"):
        compare("a.onnx", [], [], 30.0)


def test_figures_do_not_depend_on_the_range_in_which_a_picture_is_told(
    rng: np.random.Generator,
) -> None:
    x = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    y = x + rng.normal(0, 0.1, x.shape).astype(np.float32)
    told = compare("x", [x], [y], 30.0)
    for low, high in ((0.0, 1.0), (0.0, 255.0), (-0.1, 0.1)):
        other = [((v + 1) / 2 * (high - low) + low).astype(np.float32) for v in (x, y)]
        again = compare("x", other[:1], other[1:], 30.0, (low, high))
        assert again.psnr_db == pytest.approx(told.psnr_db, abs=1e-3)
        assert again.ssim == pytest.approx(told.ssim, abs=1e-5)
