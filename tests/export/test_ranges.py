"""Ranges of int8 numbers, and the pictures that they are measured on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coronet_deploy.errors import BadInput
from coronet_deploy.export.calibrate import Pictures, choose, hold_out, with_flips
from coronet_deploy.ranges import QMAX, QMIN, Range, Seen, best_range, fitted


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_a_range_holds_zero_exactly_and_lies_within_the_extremes(values: list[float]) -> None:
    array = np.asarray(values, np.float32)
    low, high = float(array.min()), float(array.max())
    r = best_range(array, low, high)
    assert QMIN <= r.zero_point <= QMAX
    assert r.low <= 0 <= r.high
    assert r.low < r.high
    if max(abs(low), abs(high)) > 1e-30:
        assert min(low, 0) <= r.low
        assert r.high <= max(high, 0)


def test_one_stray_value_does_not_coarsen_the_range() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 2_000_000).astype(np.float32)
    plain = best_range(values, float(values.min()), float(values.max()))
    values[0] = 20
    stray = best_range(values, float(values.min()), float(values.max()))
    assert stray.high < 8
    assert stray.scale < 1.5 * plain.scale


def test_values_a_third_larger_than_those_seen_are_not_clipped() -> None:
    values = np.random.default_rng(0).uniform(-2, 6, 50_000).astype(np.float32)
    r = fitted(Seen(float(values.min()), float(values.max()), values))
    assert r.low <= 4 / 3 * values.min()
    assert r.high >= 4 / 3 * values.max()


def test_range_numbers() -> None:
    r = Range(-1.0, 3.0)
    assert r.scale == pytest.approx(4 / 255)
    assert r.zero_point == round(-128 + 255 / 4)


def test_calibration_pictures_are_the_same_ones_each_time() -> None:
    names = tuple(f"{i:02}.png" for i in range(20))
    values = tuple(np.full((1, 4, 4, 3), i / 20, np.float32) for i in range(20))
    pictures = Pictures(names, values)
    chosen = choose(pictures, 6)
    assert chosen.names == choose(pictures, 6).names
    assert len(chosen) == 6
    assert list(chosen.names) == sorted(chosen.names)
    assert chosen.names != names[:6]
    for name, value in zip(chosen.names, chosen.values, strict=True):
        assert value[0, 0, 0, 0] == np.float32(int(name[:2]) / 20)
    assert len(choose(pictures, 50)) == 20
    assert len(hold_out(Pictures(names[:3], values[:3]))) == 2
    assert len(hold_out(Pictures(names[:1], values[:1]))) == 1
    with pytest.raises(BadInput, match="no picture"):
        Pictures((), ())


def test_few_pictures_are_joined_by_their_mirror_images() -> None:
    value = np.arange(24, dtype=np.float32).reshape(1, 2, 4, 3)
    pictures = with_flips(Pictures(("a.png",), (value,)))
    assert pictures.names[0] == "a.png"
    assert len(pictures) == len(set(pictures.names)) == 4
    assert [float(v[0, 0, 0, 0]) for v in pictures.values] == [0, 9, 12, 21]
    assert len(with_flips(Pictures(("a",) * 9, (value,) * 9), 12)) == 12
    assert len(with_flips(Pictures(("a",) * 15, (value,) * 15), 12)) == 15
