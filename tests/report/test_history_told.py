"""What a verdict by history leaves out is told: rows that are gone, and sessions of later dates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coronet_deploy.report.ci import junit_xml
from coronet_deploy.report.comparison import sentences
from coronet_deploy.report.history import open_past
from coronet_deploy.report.html import render_report
from coronet_deploy.report.outlook import judge_by_history
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.report.verdict import Comparison, Judged, exit_status
from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs
from coronet_deploy.results.store import open_store
from coronet_deploy.vocabulary import Run

Night = Callable[..., Run]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def night(make_run: Callable[..., Run]) -> Night:
    """Return a function that makes the session of a day, of artifacts with these medians."""

    def make(day: int, medians: Mapping[str, float]) -> Run:
        created = (FIRST + timedelta(days=day)).isoformat(timespec="seconds")
        return make_run(medians, id=f"day{day:02}", created=created)

    return make


def judged(place: Path, run: Run) -> Comparison:
    with open_past(str(place)) as past:
        return judge_by_history([run], past, Bounds())


def test_rows_that_the_session_before_has_are_told(night: Night, tmp_path: Path) -> None:
    for day in range(12):
        write_run(night(day, {"a.onnx": 10.0, "b.onnx": 20.0}), tmp_path / "runs")
    # Of other models in the same folder nothing is said.
    write_run(night(13, {"other.onnx": 5.0}), tmp_path / "runs")
    with open_store(tmp_path / "s.sqlite", make=True) as store:
        import_runs(store, [tmp_path / "runs"])
    tonight = night(20, {"a.onnx": 10.0})
    for place in (tmp_path / "runs", tmp_path / "s.sqlite"):
        comparison = judged(place, tonight)
        assert exit_status(comparison) == 0
        assert comparison.no_candidate == (
            "b.onnx on host cpu, 1 thread",
            "b.onnx on host cpu, 2 threads",
        )
        told = "b.onnx on host cpu, 1 thread: only the session before has it, not compared."
        assert told in sentences(comparison)
        assert 'message="only the session before has it"' in junit_xml(comparison)
    # Once it is gone for good it is no news.
    write_run(tonight, tmp_path / "runs")
    assert judged(tmp_path / "runs", night(21, {"a.onnx": 10.0})).no_candidate == ()
    assert judged(tmp_path / "runs", night(21, {"a.onnx": 10.0, "b.onnx": 20.0})).no_base == ()


def test_sessions_of_later_dates_are_told_where_others_decide(night: Night, tmp_path: Path) -> None:
    for day in range(26):
        write_run(night(day, {"a.onnx": 10.0 if day < 12 else 8.0}), tmp_path)
    # A clock that was set back: tonight is no longer behind the sessions that it should be
    # judged by.
    late = night(12, {"a.onnx": 10.0})
    comparison = judged(tmp_path, late)
    assert comparison.rows[0].sessions == (12, 1)
    told = "13 sessions are dated no earlier than this run and do not count."
    assert f"a.onnx on host cpu, 1 thread: {told}" in comparison.notes
    assert not any("dated" in note for note in judged(tmp_path, night(30, {"a.onnx": 8.0})).notes)


def test_the_page_says_why_sessions_that_are_there_do_not_count(
    night: Night, tmp_path: Path
) -> None:
    for day in range(3):
        busy = night(day, {"a.onnx": 10.0})
        write_run(replace(busy, conditions={**busy.conditions, "throttled": True}), tmp_path)
    write_run(night(25, {"a.onnx": 10.0}), tmp_path)
    with open_past(str(tmp_path)) as past:
        page = render_report(night(20, {"a.onnx": 10.0}), past=past)
    rows = "a.onnx (1 thread), a.onnx (2 threads)"
    assert f"No earlier session counts for {rows}." in page
    assert f"<li>3 earlier sessions were spoilt and do not count: {rows}</li>" in page
    told = "1 session is dated no earlier than this run and does not count"
    assert f"<li>{told}: {rows}</li>" in page


def test_so_many_sessions_as_are_said_decide_one_of_many_rows(night: Night, tmp_path: Path) -> None:
    names = [f"{number:02}.onnx" for number in range(12)]
    for day in range(12):
        level = 10 * math.exp(0.028 * (-1) ** day)
        write_run(night(day, dict.fromkeys(names, level)), tmp_path)

    def verdicts(sessions: int) -> tuple[Judged, ...]:
        runs = [
            night(20 + one, {**dict.fromkeys(names, 10.0), "03.onnx": 10.6})
            for one in range(sessions)
        ]
        with open_past(str(tmp_path)) as past:
            rows = judge_by_history(runs, past, Bounds()).rows
        return tuple(row for row in rows if row.pair.artifact == "03.onnx")

    (row, _) = verdicts(1)
    assert row.verdict is Verdict.INCONCLUSIVE
    told = re.match(r"about (\d) sessions of the candidate would decide", row.reason)
    assert told
    assert {row.verdict for row in verdicts(int(told[1]))} == {Verdict.SLOWER}
    assert {row.verdict for row in verdicts(int(told[1]) - 1)} == {Verdict.INCONCLUSIVE}
