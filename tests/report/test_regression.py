"""The statistics of a verdict: known values, and what seeded noise may and may not do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report.regression import (
    Bounds,
    Look,
    Shift,
    Verdict,
    compare_launches,
    decide,
    holm,
    is_counted,
    launches_to_decide,
    settled,
)

BOUNDS = Bounds()


def launches(random: np.random.Generator, level_ms: float, count: int = 10) -> list[float]:
    made = level_ms * random.lognormal(0, 0.03, count)
    return [float(one) for one in made]


def verdict(base: Sequence[float], candidate: Sequence[float], rerun: float | None = None) -> str:
    return decide([Look(compare_launches(base, candidate), rerun)], BOUNDS)[0].value


def test_p_is_that_of_all_splits_counted_one_by_one() -> None:
    random = np.random.default_rng(3)
    base, candidate = launches(random, 10, 5), launches(random, 10.4, 6)
    both = np.array(base + candidate)

    def wins(chosen: Sequence[int]) -> int:
        mask = np.isin(np.arange(11), chosen)
        return int(np.sum(both[mask][:, None] > both[~mask]))

    observed = wins(range(5, 11))
    counted = [wins(split) for split in itertools.combinations(range(11), 6)]
    shift = compare_launches(base, candidate)
    assert shift.p_slower == pytest.approx(np.mean([one >= observed for one in counted]))
    assert shift.p_faster == pytest.approx(np.mean([one <= observed for one in counted]))


def test_the_smallest_p_of_k_launches_is_one_in_their_splits() -> None:
    for count, splits in ((4, 70), (6, 924), (10, 184_756)):
        far = compare_launches(range(1, count + 1), range(100, 100 + count))
        assert far.p_slower == pytest.approx(1 / splits)
        assert far.p_faster == pytest.approx(1)


@pytest.mark.parametrize(("base", "candidate"), [(60, 4), (4, 60), (120, 200)])
def test_far_more_launches_are_counted_too(base: int, candidate: int) -> None:
    quiet = [1 + 1e-6 * place for place in range(base)]
    far = compare_launches(quiet, [2 + 1e-6 * place for place in range(candidate)])
    assert far.p_slower == pytest.approx(1 / math.comb(base + candidate, base))
    assert far.p_faster == pytest.approx(1)


def test_p_of_sixty_launches_is_that_of_splits_drawn_at_random() -> None:
    random = np.random.default_rng(4)
    base, candidate = launches(random, 10, 60), launches(random, 10.05, 60)
    shift = compare_launches(base, candidate)
    ranks = np.argsort(np.argsort(base + candidate))
    observed = ranks[60:].sum()
    drawn = np.array([random.permutation(ranks)[60:].sum() for _ in range(20_000)])
    assert 0.001 < shift.p_slower < 0.999
    assert shift.p_slower == pytest.approx(np.mean(drawn >= observed), abs=0.01)
    assert shift.low < shift.ratio < shift.high


def test_where_they_are_counted_no_more_the_test_is_nearly_the_same() -> None:
    random = np.random.default_rng(9)
    base, candidate = launches(random, 10, 201), launches(random, 10.05, 201)
    assert is_counted(200, 200)
    assert not is_counted(201, 201)
    many, fewer = compare_launches(base, candidate), compare_launches(base[:-1], candidate[:-1])
    assert many.p_slower == pytest.approx(fewer.p_slower, abs=0.01)
    assert many.low == pytest.approx(fewer.low, abs=1e-3)


def test_ties_never_make_a_difference() -> None:
    shift = compare_launches([5.0] * 6, [5.0] * 6)
    assert shift.ratio == shift.low == shift.high == 1
    assert shift.p_slower > 0.4
    assert decide([Look(shift)], BOUNDS) == [Verdict.SAME]


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        shift = compare_launches(launches(random, 10), launches(random, 10.7))
        covered += shift.low <= 1.07 <= shift.high
    assert 0.88 <= covered / 600 <= 0.95


def test_holm_on_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_file_against_itself_is_hardly_ever_slower_and_10_percent_always_is() -> None:
    random = np.random.default_rng(6)
    unchanged = [verdict(launches(random, 10), launches(random, 10)) for _ in range(400)]
    changed = [verdict(launches(random, 10), launches(random, 11)) for _ in range(100)]
    assert unchanged.count("slower") <= 20
    assert unchanged.count("same") >= 320
    assert changed.count("slower") == 100


def test_several_rows_need_more_evidence_than_one() -> None:
    base = [10.0, 10.1, 10.2, 10.3]
    candidate = [10.25, 10.7, 10.8, 10.9]
    look = Look(compare_launches(base, candidate))
    same = Look(compare_launches(base, base))
    assert look.shift.p_slower == pytest.approx(2 / 70)
    assert decide([look], BOUNDS) == [Verdict.SLOWER]
    assert decide([look, same, same], BOUNDS)[0] is Verdict.INCONCLUSIVE


def test_a_significant_change_below_the_margin_is_not_reported() -> None:
    base = [10.0 + 0.001 * one for one in range(10)]
    assert verdict(base, [1.02 * one for one in base]) == "same"
    assert verdict(base, [1.03 * one for one in base]) == "slower"
    assert verdict(base, [one / 1.03 for one in base]) == "faster"


def test_slower_stands_only_if_the_rerun_says_so_too() -> None:
    base = [10.0 + 0.001 * one for one in range(10)]
    candidate = [1.1 * one for one in base]
    assert verdict(base, candidate, rerun=1.08) == "slower"
    assert verdict(base, candidate, rerun=0.99) == "inconclusive"
    assert verdict(candidate, base, rerun=1.01) == "inconclusive"


def test_one_disturbed_launch_decides_nothing() -> None:
    base = [10.0, 10.02, 10.04, 10.06, 10.08, 10.1]
    assert verdict(base, [*base[:5], 100.0]) == "same"
    assert verdict(base, [1.1 * one for one in base[:5]] + [1.0]) == "slower"
    # With four, the bound is one of the few launches: nothing can be told.
    assert verdict(base[:4], [*base[:3], 100.0]) == "inconclusive"


def test_the_first_look_settles_only_what_is_plainly_the_same() -> None:
    quiet = [10.0, 10.01, 10.02, 10.03, 10.04, 10.05]
    assert settled(compare_launches(quiet, quiet[::-1]), BOUNDS)
    assert not settled(compare_launches(quiet, [1.1 * one for one in quiet]), BOUNDS)
    # Four launches cannot bound a difference with 98 % confidence.
    assert not settled(compare_launches(quiet[:4], quiet[:4]), BOUNDS)


def test_the_launches_that_would_decide_do_decide() -> None:
    random = np.random.default_rng(7)
    noisy = [
        Look(compare_launches(launches(random, 10, 6), launches(random, 10, 6))) for _ in range(60)
    ]
    open_ones = [look.shift for look in noisy if decide([look], BOUNDS) == [Verdict.INCONCLUSIVE]]
    assert open_ones
    for shift in open_ones:
        needed = launches_to_decide(shift, 1, BOUNDS)
        assert needed is not None
        assert needed > 6
    wide = Shift(1.0, 0.9, 1 / 0.9, 0.8, 1.25, 0.5, 0.5, 6, 6)
    # The interval must become half as wide, or a little less: four to five times the launches.
    assert 24 <= (launches_to_decide(wide, 1, BOUNDS) or 0) <= 30


@pytest.mark.parametrize("rows", [1, 10, 50])
def test_so_many_launches_as_are_said_can_tell_a_great_change_of_many_rows(rows: int) -> None:
    def look(count: int, ratio: float) -> Look:
        quiet = [10 + 0.001 * place for place in range(count)]
        return Look(compare_launches(quiet, [ratio * one for one in quiet]))

    needed = launches_to_decide(look(4, 1.5).shift, rows, BOUNDS)
    assert needed is not None
    decided = decide([look(needed, 1.5), *[look(needed, 1.0)] * (rows - 1)], BOUNDS)
    assert decided[0] is Verdict.SLOWER


@pytest.mark.parametrize(("base", "candidate"), [(3, 10), (10, 0), (1, 1)])
def test_fewer_than_four_launches_are_refused(base: int, candidate: int) -> None:
    with pytest.raises(BadInput, match=r"cannot tell a change.*at least 4"):
        compare_launches([1.0] * base, [1.0] * candidate)


def test_a_margin_beyond_the_resolution_is_refused() -> None:
    with pytest.raises(BadInput, match=r"6\.0%.*5\.0%"):
        Bounds(margin=0.06)
