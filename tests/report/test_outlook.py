"""A run judged by earlier sessions: what it finds, what it refuses, and that it says how."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report.ci import explain, junit_xml
from coronet_deploy.report.comparison import comparison_json, sentences
from coronet_deploy.report.history import open_past
from coronet_deploy.report.outlook import judge_by_history
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.report.sessions import (
    change_points,
    compare_sessions,
    student_cdf,
    student_quantile,
)
from coronet_deploy.report.verdict import Comparison
from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs
from coronet_deploy.results.store import open_store
from coronet_deploy.vocabulary import Run
from support import Cli

MakeRun = Callable[..., Run]
MakeSession = Callable[..., Run]


def kept(folder: Path, *runs: Run) -> Path:
    for run in runs:
        write_run(run, folder)
    return folder


def judged(place: Path | str, *runs: Run, **options: Any) -> Comparison:
    with open_past(str(place), **options) as past:
        return judge_by_history(runs, past, Bounds())


def verdicts(comparison: Comparison) -> set[Verdict]:
    return {row.verdict for row in comparison.rows}


def test_students_t_is_that_of_the_tables() -> None:
    # Abramowitz and Stegun, table 26.10.
    for share, freedom, t in (
        (0.95, 1, 6.314),
        (0.975, 4, 2.776),
        (0.95, 9, 1.833),
        (0.995, 30, 2.75),
    ):
        assert student_quantile(share, freedom) == pytest.approx(t, abs=6e-4)
        assert student_cdf(-t, freedom) == pytest.approx(1 - share, abs=1e-4)


def test_the_interval_covers_what_it_says_and_a_tenth_more_is_found() -> None:
    random = np.random.default_rng(4)
    inside = found = 0
    for _ in range(400):
        medians = np.exp(random.normal(0, 0.03, 13))
        shift = compare_sessions(medians[:12].tolist(), medians[12:].tolist())
        inside += shift.low <= 1 <= shift.high
        found += (
            compare_sessions(medians[:12].tolist(), (1.1 * medians[12:]).tolist()).p_slower < 0.05
        )
    assert 0.86 < inside / 400 < 0.94
    assert found / 400 > 0.8


def test_a_step_is_found_where_it_is_and_noise_is_seldom_one() -> None:
    random = np.random.default_rng(8)
    step = np.where(np.arange(30) < 17, 1, 1.1)
    histories = np.exp(random.normal(0, 0.02, (10, 30)))
    assert sum(bool(change_points(one.tolist())) for one in histories) <= 1
    assert all(change_points((one * step).tolist())[-1] == 17 for one in histories)
    assert change_points([5.0] * 20) == []
    assert change_points([5.0] * 10 + [6.0] * 10) == [10]


def test_slower_faster_and_same_by_history(session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path, *(session(day) for day in range(20)))
    slower = judged(past, session(30, 1.2), session(31, 1.2, id="again"))
    assert verdicts(slower) == {Verdict.SLOWER}
    assert {row.sessions for row in slower.rows} == {(20, 2)}
    assert {row.reason for row in slower.rows} == {""}
    alone = judged(past, session(30, 1.2))
    assert {row.reason for row in alone.rows} == {"not confirmed by a re-run"}
    assert verdicts(judged(past, session(30, 0.8))) == {Verdict.FASTER}
    fine = judged(past, *(session(day, id=f"fine{day}") for day in range(40, 48)))
    assert verdicts(fine) == {Verdict.SAME}
    denied = judged(past, session(30, 1.25), session(31, 0.99, id="again"))
    assert verdicts(denied) == {Verdict.INCONCLUSIVE}


def test_the_method_is_told_in_words_and_in_json(session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path, *(session(day) for day in range(12)))
    comparison = judged(past, session(30, 1.2))
    told = " ".join(sentences(comparison))
    assert "Method: history" in told
    assert "PELT, ruptures" in told
    plain = json.loads(json.dumps(comparison_json(comparison, [])))
    assert plain["method"] == "history"
    assert (plain["rows"][0]["sessions"], plain["rows"][0]["launches"]) == ([12, 1], [None, 6])
    assert "the latency of 12 earlier sessions" in explain(comparison.rows[0])
    assert 'failures="2"' in junit_xml(comparison)
    assert '<property name="method" value="history"' in junit_xml(comparison)


def test_fewer_than_ten_sessions_decide_nothing(session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path, *(session(day) for day in range(9)))
    comparison = judged(past, session(30, 2.0))
    assert verdicts(comparison) == {Verdict.INCONCLUSIVE}
    assert comparison.rows[0].reason.startswith("9 earlier sessions, 10 are needed; ")
    with pytest.raises(BadInput, match="holds no earlier session of it"):
        judged(tmp_path, session(0, id="first"))


def test_a_history_that_begins_with_the_candidate_decides_nothing(
    session: MakeSession, tmp_path: Path
) -> None:
    first = session(0)
    comparison = judged(kept(tmp_path / "begun", first), first)
    assert verdicts(comparison) == {Verdict.INCONCLUSIVE}
    assert comparison.rows[0].reason.startswith("0 earlier sessions, 10 are needed; ")
    assert "0 earlier sessions" in junit_xml(comparison)
    # An update ends the history before it, and another begins that night.
    updated = session(9, conditions={**first.conditions, "kernel": "6.8"})
    comparison = judged(kept(tmp_path / "begun", updated), updated)
    assert verdicts(comparison) == {Verdict.INCONCLUSIVE}
    assert comparison.rows[0].reason.startswith(
        "0 earlier sessions, 10 are needed; others differ in kernel: nothing and 6.8; "
    )
    # Elsewhere it is a mistake: the wrong folder, or another machine's.
    with pytest.raises(BadInput, match="holds no earlier session of it; others differ in kernel"):
        judged(kept(tmp_path / "other", first), updated)


def test_a_candidate_without_launches_is_nothing_measured(
    cli: Cli, session: MakeSession, tmp_path: Path
) -> None:
    past = kept(tmp_path / "runs", session(0))
    empty = write_run(replace(session(30), launches=()), tmp_path)
    done = cli("compare", "--history", past, empty)
    assert (done.returncode, done.stdout) == (5, "")
    (line,) = done.stderr.splitlines()
    assert "run day030 holds no launch" in line


def test_sessions_before_a_change_do_not_count(session: MakeSession, tmp_path: Path) -> None:
    past = kept(
        tmp_path,
        *(session(day, 1.5) for day in range(15)),
        *(session(day) for day in range(15, 27)),
    )
    comparison = judged(past, session(40, 1.2))
    assert verdicts(comparison) == {Verdict.SLOWER}
    assert comparison.rows[0].sessions == (12, 1)
    told = next(note for note in comparison.notes if "earlier sessions changed on" in note)
    assert re.search(r"changed on 2026-01-16 \(-3[0-9]\.[0-9] %\)\.", told)
    short = kept(tmp_path / "short", *(session(day, 1.5 if day < 15 else 1) for day in range(21)))
    comparison = judged(short, session(40, 1.2))
    assert verdicts(comparison) == {Verdict.INCONCLUSIVE}
    assert "6 earlier sessions since the change of 2026-01-16" in comparison.rows[0].reason


def test_without_ruptures_it_says_that_no_change_was_looked_for(
    session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ruptures", None)
    past = kept(tmp_path, *(session(day) for day in range(12)))
    comparison = judged(past, session(30, 1.3))
    assert verdicts(comparison) == {Verdict.SLOWER}
    assert any("not looked for" in note and "[history]" in note for note in comparison.notes)


BUILD = {"cpu": "Some CPU", "fingerprint": "old"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditions": {**BUILD, "fingerprint": "new"}}, "fingerprint: old and new"),
        ({"tools": {"coronet-runner": "2"}}, "version of coronet-runner: 1 and 2"),
        ({"emulated": True}, "emulated: False and True"),
    ],
)
def test_another_phone_build_or_runner_is_refused_by_its_name(
    session: MakeSession, tmp_path: Path, changes: Mapping[str, Any], told: str
) -> None:
    old = {"conditions": BUILD, "tools": {"coronet-runner": "1"}}
    past = kept(tmp_path, *(session(day, **old) for day in range(12)))
    with pytest.raises(BadInput, match=told):
        judged(past, session(30, **(old | dict(changes))))


def test_another_network_is_refused_unless_it_is_asked_for(
    session: MakeSession, tmp_path: Path
) -> None:
    def of(digest: str) -> dict[str, Any]:
        return {"artifacts": {"a.onnx": {"runtime": "onnx", "source": {"sha256": digest * 32}}}}

    past = kept(tmp_path, *(session(day, **of("ab")) for day in range(12)))
    with pytest.raises(BadInput, match="checkpoint: abababababab and cdcdcdcdcdcd"):
        judged(past, session(30, **of("cd")))
    across = judged(past, session(30, 1.2, **of("cd")), across_models=True)
    assert verdicts(across) == {Verdict.SLOWER}


def test_spoilt_sessions_are_no_part_of_the_history(session: MakeSession, tmp_path: Path) -> None:
    hot = {"cpu": "Some CPU", "cores": 2, "throttled": True}
    good = [session(day) for day in range(11)]
    one = judged(kept(tmp_path, *good, session(11, 3.0, conditions=hot)), session(30))
    assert any("1 earlier session was spoilt and does not" in note for note in one.notes)
    past = kept(
        tmp_path,
        *(session(day, 3.0, conditions=hot) for day in range(12, 15)),
        *(session(day, 3.0, rounds=2) for day in range(15, 18)),
    )
    comparison = judged(past, session(30, 1.2))
    assert comparison.rows[0].sessions == (11, 1)
    assert any("7 earlier sessions were spoilt and do not" in note for note in comparison.notes)
    spoilt = judged(past, session(30, 1.2, conditions=hot))
    assert verdicts(spoilt) == {Verdict.INVALID}


def resumed(run: Run, earlier: Run) -> Run:
    """Return `run` as the one that went on with `earlier`: it holds its launches too."""
    kept = earlier.launches[: len(earlier.launches) // 2]
    launches = (*kept, *run.launches[len(kept) :])
    return replace(run, launches=launches, conditions={**run.conditions, "resumed": earlier.id})


def test_a_run_that_another_went_on_with_is_no_session_beside_it(
    session: MakeSession, tmp_path: Path
) -> None:
    cut, again = session(12), session(13)
    chain = [cut, resumed(again, cut), resumed(session(14), again)]
    past = kept(tmp_path, *(session(day) for day in range(11)), *chain)
    assert judged(past, session(30)).rows[0].sessions == (12, 1)
    # Nor is it one beside the candidate that went on with it.
    candidate = resumed(session(30, 1.2), session(29, 1.2))
    kept(tmp_path, session(29, 1.2))
    assert judged(past, candidate).rows[0].sessions == (12, 1)
    # Where what it was part of does not count, it does.
    hot = replace(resumed(session(28), session(27)), id="hot")
    hot = replace(hot, conditions={**hot.conditions, "throttled": True})
    kept(tmp_path, session(27), hot)
    assert judged(past, candidate).rows[0].sessions == (13, 1)


def test_the_order_that_runs_are_given_in_does_not_matter(
    session: MakeSession, tmp_path: Path
) -> None:
    runs = [session(30, 1.2), session(31, 1.2)]
    past = kept(tmp_path, *(session(day) for day in range(12)), *runs)
    forward, backward = (
        comparison_json(judged(past, *order), []) for order in (runs, reversed(runs))
    )
    assert forward == backward
    assert forward["rows"][0]["sessions"] == [12, 2]
    assert forward["rows"][0]["verdict"] == "slower"
    # Nor is what a re-run went on with part of its past.
    begun = session(29, 1.2)
    kept(tmp_path, begun)
    assert judged(past, runs[0], resumed(runs[1], begun)).rows[0].sessions == (12, 2)


def test_a_copy_of_a_run_file_is_no_other_session(session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path, *(session(day) for day in range(10)))
    kept(tmp_path / "copies", *(session(day) for day in range(5)))
    assert judged(past, session(30)).rows[0].sessions == (10, 1)


def test_a_run_is_no_rerun_of_itself(cli: Cli, session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path / "runs", *(session(day) for day in range(12)))
    first = session(30, 1.2)
    with pytest.raises(BadInput, match="run day031 went on with day030"):
        judged(past, first, resumed(session(31, 1.2), first))
    path = write_run(first, tmp_path)
    done = cli("compare", "--history", past, path, path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "run day030 is given twice" in line


def of_another_file(run: Run) -> Run:
    launches = tuple(replace(one, artifact_sha256="cd" * 32) for one in run.launches)
    return replace(run, launches=launches)


def test_a_rerun_must_be_of_the_same_files(session: MakeSession, tmp_path: Path) -> None:
    past = kept(tmp_path, *(session(day) for day in range(12)))
    run = session(30)
    with pytest.raises(BadInput, match="is no re-run of day030"):
        judged(past, run, of_another_file(replace(run, id="other")))


def test_a_store_gives_the_same_verdict_as_its_files(
    cli: Cli, session: MakeSession, tmp_path: Path
) -> None:
    folder = kept(tmp_path / "runs", *(session(day) for day in range(14)))
    with open_store(tmp_path / "s.sqlite", make=True) as store:
        import_runs(store, [folder])
    candidate = write_run(session(30, 1.2), tmp_path)
    told = {}
    for place in (folder, tmp_path / "s.sqlite"):
        done = cli("compare", "--history", place, candidate, "--json", "--github")
        assert done.returncode == 1, done.stderr
        assert "::error title=a.onnx" in done.stderr
        told[place] = json.loads(done.stdout)
    assert told[folder] == told[tmp_path / "s.sqlite"]
    assert told[folder]["rows"][0]["verdict"] == "slower"


def test_sessions_whose_run_files_are_gone_count_if_they_are_of_the_very_file(
    session: MakeSession, tmp_path: Path
) -> None:
    runs = [session(day) for day in range(14)]
    folder = kept(tmp_path / "runs", *runs)
    with open_store(tmp_path / "s.sqlite", make=True) as store:
        import_runs(store, [folder])
    whole = judged(folder, session(30, 1.2))
    for run in runs[:4]:
        (folder / f"{run.id}.json").unlink()
    # Another run in its place is not it.
    write_run(replace(runs[5], id="day004"), tmp_path)
    (folder / "day005.json").write_bytes((tmp_path / "day004.json").read_bytes())

    comparison = judged(tmp_path / "s.sqlite", session(30, 1.2))
    assert comparison.rows == whole.rows
    gone = "5 sessions' run files are gone: whether something spoilt them is not known."
    assert comparison.notes == (*whole.notes, *(f"{row.pair.name}: {gone}" for row in whole.rows))
    other = of_another_file(session(30, 1.2))
    few = judged(tmp_path / "s.sqlite", other)
    assert verdicts(few) == {Verdict.INCONCLUSIVE}
    told = "9 earlier sessions, 10 are needed; others differ in checkpoint: not known, the run file"
    assert few.rows[0].reason.startswith(told)
    across = judged(tmp_path / "s.sqlite", other, across_models=True)
    assert across.rows[0].sessions == (14, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--history", "runs", "model.onnx"], "model.onnx is not a run file"),
        (["--history", "nowhere", "run.json"], "--history nowhere does not exist (a folder of"),
        (["--history", "run.json", "run.json"], "run.json is one run file"),
        (["run.json"], "a comparison is of BASE and CANDIDATE"),
        (["--history", "runs", "cut.json"], "cut short"),
        (["--history", "cut", "run.json"], "cut/half.json"),
        (["--history", "newer", "run.json"], "newer/n.json: schema_version 99 is newer"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Cli, session: MakeSession, tmp_path: Path, arguments: list[str], told: str
) -> None:
    whole = write_run(session(30), tmp_path / "runs").read_bytes()
    (tmp_path / "run.json").write_bytes(whole)
    (tmp_path / "cut.json").write_bytes(whole[: len(whole) // 2])
    for name, data in (
        ("cut/half.json", whole[:5000]),
        ("newer/n.json", b'{"schema_version": 99, "launches": []}'),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    done = cli("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
