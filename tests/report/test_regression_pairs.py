"""Run files compared: what may be, what is refused and why, and what makes a row invalid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coronet_deploy.bench.compare import Subject, match
from coronet_deploy.errors import BadInput, NothingMeasured
from coronet_deploy.report.pairs import Pair, filed_pairs, measured_pairs, subjects_of
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.report.verdict import Comparison, Judged, exit_status, judge, needs_rerun
from coronet_deploy.results.keys import differences, setup_of
from coronet_deploy.vocabulary import Launch, Run, Target

MakeRun = Callable[..., Run]


def compared(base: Run, candidate: Run) -> list[Pair]:
    matching = match(subjects_of(base), subjects_of(candidate))
    return filed_pairs(base, candidate, matching.pairs)


def test_rows_are_matched_by_target_and_judged(make_run: MakeRun) -> None:
    base = make_run({"a.onnx": 100.0}, rounds=10)
    slower = make_run({"a.onnx": 112.0}, rounds=10, id="later")
    rows = judge(compared(base, slower), Bounds())
    assert [row.pair.name for row in rows] == [
        "a.onnx on host cpu, 1 thread",
        "a.onnx on host cpu, 2 threads",
    ]
    assert [row.verdict for row in rows] == [Verdict.SLOWER] * 2
    assert {row.reason for row in rows} == {"not confirmed by a re-run"}
    assert rows[0].shift is not None
    assert rows[0].shift.ratio == pytest.approx(1.12)
    assert exit_status(Comparison(rows, Bounds())) == 1
    same = judge(compared(base, base), Bounds())
    assert [row.verdict for row in same] == [Verdict.SAME] * 2
    assert exit_status(Comparison(same, Bounds())) == 0


def placed(run: Run, taken: int | None, nodes: int, parts: int | None, whole: bool | None) -> Run:
    """Return `run` with what a back end took of the graph in each launch."""
    own = {"nodes_taken": taken, "nodes": nodes, "partitions": parts, "fully_accelerated": whole}
    return replace(run, launches=tuple(replace(one, details=own) for one in run.launches))


def test_a_part_of_the_graph_that_the_back_end_left_is_named_beside_the_verdict(
    make_run: MakeRun,
) -> None:
    base = placed(make_run({"a.onnx": 100.0}, rounds=10), 12, 12, 1, whole=True)
    run = make_run({"a.onnx": 140.0}, rounds=10, id="later")
    (row, _) = judge(compared(base, placed(run, 10, 14, 3, whole=False)), Bounds())
    assert row.verdict is Verdict.SLOWER
    assert row.reason == (
        "not confirmed by a re-run; the back end took 10 of 14 nodes in 3 partitions of the "
        "candidate's graph, and all nodes of the base's"
    )
    # A runtime may tell no more than that it did not take all.
    (row, _) = judge(compared(base, placed(run, None, 14, None, whole=False)), Bounds())
    assert "took not all nodes of the candidate's graph" in row.reason
    # Another network has other nodes; and of a runtime that tells nothing, nothing is told.
    for other in (placed(run, 14, 14, 1, whole=True), run):
        (row, _) = judge(compared(base, other), Bounds())
        assert row.reason == "not confirmed by a re-run"


def test_a_side_that_the_cpu_did_part_of_is_said_to_be_elsewhere(make_run: MakeRun) -> None:
    run = make_run({"base/a.tflite": 9.0, "candidate/a.tflite": 20.0})
    whole, part = (
        {"nodes_taken": taken, "nodes": 12, "fully_accelerated": taken == 12} for taken in (12, 7)
    )
    mixed = replace(
        run,
        launches=tuple(
            replace(
                one,
                target=Target("sm8550", "gpu" if base else "gpu+cpu", one.target.threads),
                details=whole if base else part,
            )
            for one in run.launches
            for base in [one.artifact.startswith("base/")]
        ),
    )
    pair = (Subject("a.tflite", {}), Subject("a.tflite", {}))
    on_gpu, _, on_both, _ = judge(measured_pairs([mixed], [pair]), Bounds())
    assert on_gpu.reason == (
        "the candidate was not measured there, but on gpu+cpu, whose back end took 7 of 12 nodes"
    )
    assert on_both.reason == (
        "the base was not measured there, but on gpu, whose back end took all nodes"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditions": {"cpu": "Another", "cores": 2}}, "cpu: Some CPU and Another"),
        ({"tools": {"onnxruntime": "1.3.0"}}, "version of onnxruntime: 1.2.3 and 1.3.0"),
        (
            {"conditions": {"cpu": "Some CPU", "settings": {"samples": 5}}},
            "setting samples: None and 5",
        ),
        ({"emulated": True}, "emulated: False and True"),
        ({"created": "2026-01-04T03:04:05+00:00"}, "48 hours apart"),
        ({"created": "2026-01-04T03:04:05"}, "48 hours apart"),  # UTC, where it says no zone
        ({"created": "0001-01-01T00:00:00+14:00"}, "is not a date"),
        ({"created": "yesterday"}, "yesterday"),
    ],
)
def test_runs_of_different_machines_tools_settings_or_days_are_refused(
    make_run: MakeRun, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        compared(make_run(), make_run(id="other", **changes))


def test_runs_on_other_cpus_of_a_phone_or_with_other_options_are_refused(
    make_run: MakeRun,
) -> None:
    def on_gpu(**told: Any) -> Run:
        run = make_run(conditions={"cpu": "Some CPU", **told})
        target = Target("sm8550", "gpu", 1)
        return replace(run, launches=tuple(replace(one, target=target) for one in run.launches))

    exact = {"kit": {"backend-option gpu": ["precision=2"], "backend-option qnn": ["a=b"]}}
    quick = {"kit": {"backend-option gpu": ["precision=1"]}}
    for base, candidate, told in (
        ({"settings": {"mask": None}}, {"settings": {"mask": "f0"}}, "setting mask: None and f0"),
        ({}, exact, r"backend-option gpu: None and \['precision=2'\]"),
        (quick, exact, r"backend-option gpu: \['precision=1'\] and \['precision=2'\]"),
    ):
        runs = on_gpu(**base), on_gpu(**candidate)
        with pytest.raises(BadInput, match=told):
            compared(*runs)
        # Nor are they sessions of one history.
        assert len(differences(*(setup_of(run, run.launches) for run in runs))) == 1
    # LiteRT's library tells no version by which two could be told apart.
    old, new = ({"kit": {"runner": one, "litert-library": one * 32}} for one in ("ab", "cd"))
    with pytest.raises(BadInput, match="litert-library: file abababababab and file cdcdcdcdcdcd"):
        compared(on_gpu(**old), on_gpu(**new))
    assert compared(on_gpu(**old), on_gpu(kit={**old["kit"], "runner": "other"}))
    # The options of a back end that neither row ran on are none of theirs.
    other = {"kit": {"backend-option gpu": ["precision=2"]}}
    assert compared(on_gpu(**exact), on_gpu(**other))


def test_a_tool_that_only_one_run_used_is_no_difference(make_run: MakeRun) -> None:
    other = make_run(tools={"onnxruntime": "1.2.3", "ai-edge-litert": "2.0"}, id="other")
    assert len(compared(make_run(), other)) == 4


def test_runs_without_a_common_target_are_refused_by_their_targets(make_run: MakeRun) -> None:
    run = make_run({"a.onnx": 1.0})
    only = {
        count: replace(
            run, launches=tuple(one for one in run.launches if one.target.threads == count)
        )
        for count in (1, 2)
    }
    with pytest.raises(BadInput, match=r"host cpu, 1 thread, the candidate host cpu, 2 threads"):
        compared(only[1], only[2])


def test_three_launches_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(BadInput, match="3 launches a side"):
        compared(make_run(rounds=3), make_run(rounds=3))


def test_failed_launches_broken_parity_and_a_busy_machine_are_invalid(make_run: MakeRun) -> None:
    base = make_run({"a.onnx": 10.0}, rounds=10)
    one = replace(base.launches[0], samples_ms=(), error="it crashed")
    failed = replace(base, launches=(one, *base.launches[1:]))
    rows = judge(compared(base, failed), Bounds())
    assert [row.verdict for row in rows] == [Verdict.INVALID, Verdict.SAME]
    assert rows[0].reason == "1 of 10 launches of the candidate failed: it crashed"
    assert exit_status(Comparison(rows, Bounds())) == 3

    manifest = dict(base.artifacts["a.onnx"])
    manifest["parity"] = {**manifest["parity"], "psnr_db": 12.5}
    other = replace(base, artifacts={"a.onnx": manifest})
    rows = judge(compared(base, other), Bounds())
    assert {row.verdict for row in rows} == {Verdict.INVALID}
    assert "candidate draws another picture" in rows[0].reason

    busy = {**base.conditions, "cores_allowed": 2, "before": {"load_1min": 4.5}}
    loaded = replace(base, conditions=busy)
    rows = judge(compared(loaded, loaded), Bounds())
    assert {row.verdict for row in rows} == {Verdict.INVALID}
    assert "load average 4.5" in rows[0].reason
    pairs = filed_pairs(loaded, loaded, match(*[subjects_of(loaded)] * 2).pairs, max_load=5)
    assert {row.verdict for row in judge(pairs, Bounds())} == {Verdict.SAME}


def test_an_artifact_that_never_ran_is_invalid_and_not_a_usage_error(make_run: MakeRun) -> None:
    base = make_run({"a.onnx": 10.0}, rounds=10)
    broken = tuple(
        Launch("a.onnx", "ab" * 32, Target("host", "cpu", count), count, (), error="refused")
        for count in (1, 2)
    )
    rows = judge(compared(base, replace(base, launches=broken)), Bounds())
    assert {row.verdict for row in rows} == {Verdict.INVALID}
    assert rows[0].candidate_ms is None


def measured(make_run: MakeRun, ratio: float, rounds: int) -> Run:
    medians = {"base/a.onnx": 10.0, "candidate/a.onnx": 10.0 * ratio}
    run = make_run(medians, rounds=rounds)
    launches = [
        replace(one, artifact_sha256=f"{int(one.artifact.startswith('base/')):064x}")
        for one in run.launches
    ]
    return replace(run, launches=tuple(launches))


def test_a_file_measured_against_itself_is_the_same_whatever_the_noise(make_run: MakeRun) -> None:
    run = measured(make_run, 1.2, 10)
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    one = replace(
        run, launches=tuple(replace(launch, artifact_sha256="ab" * 32) for launch in run.launches)
    )
    pairs = measured_pairs([one], matched)
    assert not any(needs_rerun(pair, Bounds()) for pair in pairs)
    rows = judge(pairs, Bounds())
    assert {row.verdict for row in rows} == {Verdict.SAME}
    assert {row.reason for row in rows} == {
        "both sides are one file, byte for byte, and what differs is noise"
    }
    assert all(row.shift and row.shift.ratio > 1.1 for row in rows)
    assert exit_status(Comparison(rows, Bounds())) == 0
    # A launch that failed is still told.
    broken = replace(one.launches[0], samples_ms=(), error="it crashed")
    rows = judge(
        measured_pairs([replace(one, launches=(broken, *one.launches[1:]))], matched), Bounds()
    )
    assert rows[0].verdict is Verdict.INVALID


def test_the_rerun_is_pooled_and_must_agree(make_run: MakeRun) -> None:
    first = measured(make_run, 1.2, 6)
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    alone = measured_pairs([first], matched)
    assert all(needs_rerun(pair, Bounds()) for pair in alone)
    confirmed = measured_pairs([first, measured(make_run, 1.2, 4)], matched)
    assert [len(pair.base_ms) for pair in confirmed] == [10, 10]
    rows = judge(confirmed, Bounds())
    assert [(row.verdict, row.reason) for row in rows] == [(Verdict.SLOWER, "")] * 2
    denied = judge(measured_pairs([first, measured(make_run, 0.97, 4)], matched), Bounds())
    assert {row.verdict for row in denied} == {Verdict.INCONCLUSIVE}
    assert exit_status(Comparison(denied, Bounds())) == 5
    assert exit_status(Comparison(denied, Bounds()), inconclusive_ok=True) == 0


def test_a_file_that_was_replaced_before_the_rerun_is_not_pooled_with_it(make_run: MakeRun) -> None:
    first, again = measured(make_run, 1.2, 6), measured(make_run, 1.2, 4)
    exported = tuple(
        replace(one, artifact_sha256="ef" * 32) if one.artifact.startswith("candidate") else one
        for one in again.launches
    )
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    rows = judge(measured_pairs([first, replace(again, launches=exported)], matched), Bounds())
    assert {row.verdict for row in rows} == {Verdict.INVALID}
    assert rows[0].reason == "the candidate was replaced by another file between its launches"


def test_runs_of_two_comparisons_are_compared_side_by_side(make_run: MakeRun) -> None:
    medians = {"base/a.onnx": 10.0, "candidate/a.onnx": 10.0}
    first = make_run(medians, rounds=10)
    later = make_run({**medians, "candidate/a.onnx": 12.0}, rounds=10, id="later")
    rows = judge(compared(first, later), Bounds())
    assert [(row.pair.artifact, row.pair.base_artifact, row.verdict) for row in rows] == [
        (name, name, verdict)
        for name, verdict in (
            ("base/a.onnx", Verdict.SAME),
            ("candidate/a.onnx", Verdict.SLOWER),
        )
        for _ in (1, 2)
    ]


def spoilt(run: Run, **conditions: Any) -> Run:
    return replace(run, conditions={**run.conditions, "cores_allowed": 2, **conditions})


def test_a_spoilt_rerun_is_nothing_to_a_row_that_was_settled_before_it(make_run: MakeRun) -> None:
    medians = {
        "base/a.onnx": 9.0,
        "candidate/a.onnx": 9.0,
        "base/b.onnx": 5.0,
        "candidate/b.onnx": 6,
    }
    first = make_run(medians, rounds=6)
    again = {name: ms for name, ms in medians.items() if "b.onnx" in name}
    rerun = spoilt(make_run(again, rounds=4), steal_percent=40.0)
    matched = [(Subject(name, {}), Subject(name, {})) for name in ("a.onnx", "b.onnx")]
    rows = judge(measured_pairs([first, rerun], matched), Bounds())
    told = [(row.pair.artifact, row.verdict) for row in rows]
    assert told == [("a.onnx", Verdict.SAME)] * 2 + [("b.onnx", Verdict.INVALID)] * 2


def test_the_load_that_the_first_measurement_left_does_not_spoil_the_rerun(
    make_run: MakeRun,
) -> None:
    first = measured(make_run, 1.2, 6)
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    busy = measured(make_run, 1.2, 4)
    for load, own, verdict in (
        (5.5, 2, Verdict.SLOWER),
        (5.5, 0, Verdict.INVALID),
        (6.5, 2, Verdict.INVALID),
    ):
        rerun = spoilt(busy, before={"load_1min": load}, own_load=own)
        rows = judge(measured_pairs([first, rerun], matched), Bounds())
        assert {row.verdict for row in rows} == {verdict}, (load, own)


def test_a_launch_that_tells_no_median_hides_no_rerun(make_run: MakeRun) -> None:
    first, rerun = measured(make_run, 1.2, 7), measured(make_run, 0.97, 1)
    untold = {"samples": "none", "summary": {"median_ms": 0}}
    silent = [
        replace(one, samples_ms=(), details=untold) if place < 4 else one
        for place, one in enumerate(first.launches)
    ]
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    pairs = measured_pairs([replace(first, launches=tuple(silent)), rerun], matched)
    assert [[len(side) for side in pair.rerun or ()] for pair in pairs] == [[1, 1]] * 2
    assert {row.verdict for row in judge(pairs, Bounds())} == {Verdict.INCONCLUSIVE}


def test_a_target_that_only_the_base_was_launched_on_is_invalid(make_run: MakeRun) -> None:
    run = measured(make_run, 1.0, 6)
    matched = [(Subject("a.onnx", {}), Subject("a.onnx", {}))]
    lost = tuple(
        one for one in run.launches if one.artifact == "base/a.onnx" or one.target.threads == 1
    )
    rows = judge(measured_pairs([replace(run, launches=lost)], matched), Bounds())
    assert {row.pair.target.threads: row.verdict for row in rows} == {
        1: Verdict.SAME, 2: Verdict.INVALID,
    }  # fmt: skip
    with pytest.raises(NothingMeasured, match="holds no launch"):
        measured_pairs([replace(run, launches=())], matched)


def test_the_worst_row_gives_the_exit_status(make_run: MakeRun) -> None:
    pair = compared(make_run(), make_run())[0]
    rows = {verdict: Judged(pair, verdict) for verdict in Verdict}
    order = [Verdict.SLOWER, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.SAME, Verdict.FASTER]
    for place, expected in ((0, 1), (1, 3), (2, 5), (3, 0), (4, 0)):
        told = tuple(rows[verdict] for verdict in order[place:])
        assert exit_status(Comparison(told, Bounds())) == expected
