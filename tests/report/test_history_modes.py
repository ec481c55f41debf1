"""A history that goes to and fro between two levels is told as that, and calls nothing slower."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.report.history import open_past
from coronet_deploy.report.modes import modes_of
from coronet_deploy.report.outlook import judge_by_history
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.report.summary import summarize
from coronet_deploy.report.verdict import Judged
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run
from support import Cli

MakeRun = Callable[..., Run]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SLOW = 1.4
"""How many times the fast level the slow one is."""


@pytest.fixture
def session(make_run: MakeRun) -> Callable[[int, float], Run]:
    """Return a function that makes the session of a day."""

    def make(day: int, median: float) -> Run:
        created = (FIRST + timedelta(days=day)).isoformat(timespec="seconds")
        return make_run({"a.onnx": median}, id=f"day{day:02}", created=created)

    return make


def levels(modes: Sequence[bool], seed: int = 4) -> list[float]:
    """Return medians that vary by 1 % around one of two levels: 10 ms, or where true the slow."""
    noise = np.random.default_rng(seed).normal(1.0, 0.01, len(modes))
    return [
        float(10.0 * (SLOW if slow else 1.0) * one) for slow, one in zip(modes, noise, strict=True)
    ]


def judged(place: Path, run: Run) -> Judged:
    with open_past(str(place)) as past:
        return judge_by_history([run], past, Bounds()).rows[0]


def test_a_verdict_says_both_modes_of_its_history(
    session: Callable[[int, float], Run], tmp_path: Path, cli: Cli
) -> None:
    medians: list[float] = []
    for day, level in enumerate(levels([bool(day % 2) for day in range(20)])):
        run = session(day, level)
        write_run(run, tmp_path / "past")
        medians.append(
            next(row for row in summarize(run) if row.target.threads == 1).median_ms or 0
        )
    now = write_run(session(40, 10.0), tmp_path / "now")
    done = cli("compare", "--history", tmp_path / "past", now)
    assert done.returncode == 5, done.stderr
    fast, slow = (statistics.median(medians[start::2]) for start in (0, 1))
    told = f"{fast:.2f} ms (10 sessions) and {slow:.1f} ms (10 sessions)."
    assert f"would decide (42 launches); earlier sessions have two modes, {told}" in (
        " ".join(done.stdout.split())
    )


@pytest.mark.parametrize(
    ("seldom", "same_as", "beyond", "verdict"),
    [(True, SLOW, 1.8, Verdict.SLOWER), (False, 1.0, 0.7, Verdict.FASTER)],
)
def test_what_lies_where_a_mode_does_is_neither_slower_nor_faster(
    session: Callable[[int, float], Run],
    tmp_path: Path,
    seldom: bool,
    same_as: float,
    beyond: float,
    verdict: Verdict,
) -> None:
    # One day in six is of the other mode: the slow one, or the fast.
    for day, median in enumerate(levels([(day % 6 == 4) is seldom for day in range(24)])):
        write_run(session(day, median), tmp_path)
    as_before = judged(tmp_path, session(40, 10.0 * same_as))
    assert as_before.verdict is Verdict.INCONCLUSIVE
    assert "(4 sessions)" in as_before.reason
    assert f"and this is no {verdict} than one of them: artifacts" in as_before.reason
    new = judged(tmp_path, session(40, 10.0 * beyond))
    assert new.verdict is verdict
    assert "not confirmed by a re-run; earlier sessions have two modes, " in new.reason


def test_one_step_a_wide_spread_and_two_odd_sessions_are_no_modes() -> None:
    assert modes_of(levels([bool(day % 2) for day in range(10)])) is not None
    assert modes_of(levels([day >= 10 for day in range(20)])) is None
    assert modes_of(levels([day in {4, 10} for day in range(20)])) is None
    assert modes_of([10.0] * 20) is None
    assert modes_of([10.0, 10.1] * 10) is None  # within the margin
    random = np.random.default_rng(1)
    found = [modes_of(np.exp(random.normal(0, 0.03, 20)).tolist()) for _ in range(400)]
    assert sum(one is not None for one in found) <= 12
