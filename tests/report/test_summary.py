"""Rows of figures: the launch is the unit, and nothing is claimed that was not measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report.figures import caveats, count, megabytes, milliseconds
from coronet_deploy.report.summary import median_interval, summarize
from coronet_deploy.vocabulary import Launch, Run, Target

MakeRun = Callable[..., Run]
TARGET = Target("host", "cpu", 1)


def test_the_median_is_of_launches_not_of_samples(make_run: MakeRun) -> None:
    launches = (
        Launch("slow.onnx", "ab" * 32, TARGET, 0, (10.0,) * 100),
        Launch("slow.onnx", "ab" * 32, TARGET, 1, (20.0, 20.0, 90.0)),
        Launch("slow.onnx", "ab" * 32, TARGET, 2, (21.0,)),
    )
    (row,) = summarize(make_run(launches=launches))
    assert (row.launches, row.samples) == (3, 104)
    assert row.median_ms == 20.0
    assert row.launch_medians_ms == (10.0, 20.0, 21.0)
    assert row.p90_ms == 10.0
    assert row.spread_percent == pytest.approx(55)


def test_speed_up_is_over_the_baseline_on_the_same_target(make_run: MakeRun) -> None:
    rows = summarize(make_run(), "slow.onnx")
    by_key = {(row.artifact, row.target.threads): row for row in rows}
    assert list(by_key) == [
        ("slow.onnx", 1), ("slow.onnx", 2), ("fast.tflite", 1), ("fast.tflite", 2),
    ]  # fmt: skip
    assert by_key["slow.onnx", 2].speedup == 1.0
    for threads in (1, 2):
        assert by_key["fast.tflite", threads].speedup == pytest.approx(4, rel=0.1)
    with pytest.raises(BadInput, match=r"'missing\.onnx'.*slow\.onnx, fast\.tflite"):
        summarize(make_run(), "missing.onnx")


def test_figures_of_the_manifest_are_in_the_row(make_run: MakeRun) -> None:
    row = summarize(make_run())[0]
    assert (row.bytes, row.macs, row.macs_published) == (7_300_000, 2_440_000_000, 2_980_000_000)
    assert (row.psnr_db, row.partitions, row.load_ms) == (108.31, 1, 9.0)
    bare = summarize(make_run(artifacts={"slow.onnx": {}, "fast.tflite": {"macs": 3}}))
    assert {(row.bytes, row.macs, row.psnr_db) for row in bare} == {(None, None, None)}


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(200):
        low, high = median_interval(list(random.normal(50, 3, 10)))
        hits += low <= 50 <= high
    assert 174 <= hits <= 198


def test_the_interval_is_the_same_every_time_and_inside_the_launches() -> None:
    medians = [10.0, 11.0, 10.5, 14.0, 10.2, 10.4]
    assert median_interval(medians) == median_interval(medians)
    low, high = median_interval(medians)
    assert min(medians) <= low <= statistics.median(medians) <= high <= max(medians)


def test_failed_launches_are_counted_and_never_averaged_in(make_run: MakeRun) -> None:
    run = make_run()
    dead = [replace(one, samples_ms=(), error="it died") for one in run.launches[:4]]
    row = summarize(make_run(launches=(*dead, *run.launches[4:])))[0]
    assert (row.launches, row.failed, row.error) == (5, 1, "it died")
    nothing = summarize(make_run(launches=tuple(dead)))[0]
    assert (nothing.median_ms, nothing.p90_ms, nothing.low_ms, nothing.samples) == (
        None, None, None, 0,
    )  # fmt: skip


def test_caveats_say_what_a_reader_must_know(make_run: MakeRun) -> None:
    run = make_run()
    (told,) = caveats(run, summarize(run))
    assert told.endswith("say nothing of phones.")
    few = make_run(
        rounds=3, conditions={"interrupted": True, "notes": ["It was busy."]}, emulated=True
    )
    told = " ".join(caveats(few, summarize(few)))
    for words in ("Emulated", "interrupted", "It was busy.", "With 3 launches", "takes 6"):
        assert words in told


def test_samples_that_include_transfers_are_said_to(make_run: MakeRun) -> None:
    def on(backend: str, error: str | None = None) -> Launch:
        own = {"transfers": backend != "cpu", "settled": True}
        target = Target("sm8550", backend, 1)
        return Launch("a.tflite", "ab" * 32, target, 0, (9.0,), details=own, error=error)

    def told(*launches: Launch) -> list[str]:
        run = make_run(launches=launches)
        return [one for one in caveats(run, summarize(run)) if "transfers" in one]

    (sentence,) = told(on("cpu"), on("gpu"), on("gpu"), on("qnn+cpu"))
    assert sentence.startswith("On gpu, qnn+cpu a sample includes the transfers of the picture")
    assert told(on("cpu"), on("gpu", error="it died")) == []
    assert told(*make_run().launches) == []


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.001234, "0.00123"),
        (0.01234, "0.0123"),
        (0.0, "0.000"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.5, "1234"),
    ],
)
def test_milliseconds_keep_about_three_digits(value: float, written: str) -> None:
    assert milliseconds(value) == written


def test_counts_and_sizes() -> None:
    assert [count(value) for value in (7, 12_345, 2_440_000_000, 123_456_789_000)] == [
        "7", "12.3 k", "2.44 G", "123 G",
    ]  # fmt: skip
    assert [megabytes(value) for value in (486, 25_000, 7_340_000)] == ["0.0005", "0.03", "7.3"]
    assert milliseconds(None) == count(None) == megabytes(None) == "-"


def test_artifacts_without_a_manifest_are_told(make_run: MakeRun) -> None:
    names = ["a.onnx", "b.onnx", "c.onnx", "d.onnx", "e.onnx"]
    run = make_run(dict.fromkeys(names, 5.0))
    assert not any("manifest" in one for one in caveats(run, summarize(run)))
    bare = {"runtime": "onnx", "bytes": 7, "sha256": "ab" * 32}
    told = {"a.onnx": run.artifacts["a.onnx"], "b.onnx": bare}
    two = replace(run, artifacts={**run.artifacts, **told})
    (one,) = [one for one in caveats(two, summarize(two)) if "manifest" in one]
    assert one == (
        "No manifest was beside b.onnx: type, multiply-adds and PSNR are not known. "
        "`export` writes one."
    )
    none = replace(run, artifacts=dict.fromkeys(names, bare))
    assert "b.onnx, c.onnx and 2 more: type" in " ".join(caveats(none, summarize(none)))
