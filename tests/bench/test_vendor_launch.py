"""A vendor program's row stands in the same run, and says that it keeps no samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.bench import vendor_benchmark_model, vendor_perf_test
from coronet_deploy.bench.launch import Labels
from coronet_deploy.bench.vendor_launch import vendor_launch, vendor_target
from coronet_deploy.bench.vendor_result import Request, Tool, VendorResult
from coronet_deploy.cli.bench import judge
from coronet_deploy.errors import BadInput, GateFailed, NothingMeasured
from coronet_deploy.report.figures import caveats
from coronet_deploy.report.summary import summarize
from coronet_deploy.report.tables import markdown
from coronet_deploy.results.files import write_run
from coronet_deploy.results.schema import run_from_json, run_to_json
from coronet_deploy.vocabulary import Launch, Run
from support import Cli

FIXTURES = Path(__file__).with_name("fixtures") / "vendor"
SHA = "a" * 64


def launched(result: VendorResult, order: int) -> Launch:
    target = vendor_target("sm8550", "cpu", result.tool, 4)
    labels = Labels("m", SHA, target, order)
    return vendor_launch(labels, "2026-11-24T10:00:00+00:00", result)


def run_of(*launches: Launch) -> Run:
    return Run(
        id="r", created="2026-11-24T10:00:00+00:00", command=(), conditions={}, tools={},
        artifacts={"m": {}}, launches=launches,
    )  # fmt: skip


@pytest.fixture
def tflite() -> VendorResult:
    return vendor_benchmark_model.parse((FIXTURES / "tflite-cpu.txt").read_text(), Tool.TFLITE)


@pytest.fixture
def onnx() -> VendorResult:
    text, rows = ((FIXTURES / name).read_text() for name in ("ort.txt", "ort.rows"))
    return vendor_perf_test.parse(text, rows, Request("/m.onnx", "/out", runs=3))


def test_rows_of_both_kinds_survive_the_run_file(tflite: VendorResult, onnx: VendorResult) -> None:
    run = run_of(*(launched(one, n) for n, one in enumerate((tflite, onnx, tflite, onnx))))
    read = run_from_json(run_to_json(run), "r.json")
    assert read.launches == run.launches
    summary, samples = summarize(read)
    assert summary.target.backend == "cpu, benchmark_model"
    assert (summary.launches, summary.failed, summary.samples) == (2, 0, 0)
    # The program's own median; a percentile of samples that were not kept is nobody's to tell.
    assert (summary.median_ms, summary.p90_ms) == (79.5, None)
    assert samples.samples == 6
    assert samples.median_ms == pytest.approx(19.9047)
    assert "79.5" in markdown((summary, samples))


def test_an_old_build_that_tells_no_median_gives_its_mean() -> None:
    text = (FIXTURES / "tflite-older.txt").read_text()
    launch = launched(vendor_benchmark_model.parse(text, Tool.TFLITE), 0)
    assert launch.median_ms == pytest.approx(33.0718)


def test_a_failed_launch_has_no_figure(tflite: VendorResult) -> None:
    launch = launched(replace(tflite, error="it was killed by SIGABRT"), 0)
    assert launch.median_ms is None
    (row,) = summarize(run_of(launch))
    assert (row.launches, row.failed, row.median_ms) == (0, 1, None)


def test_samples_that_are_merely_missing_are_still_refused(tflite: VendorResult) -> None:
    plain = json.loads(run_to_json(run_of(launched(tflite, 0))))
    plain["launches"][0]["details"]["samples"] = "kept"
    with pytest.raises(BadInput, match="without samples"):
        run_from_json(json.dumps(plain).encode(), "r.json")


def test_only_a_warm_up_that_is_known_not_to_have_settled_is_said_to(tflite: VendorResult) -> None:
    def told(settled: list[bool]) -> list[str]:
        vendor = [launched(tflite, n) for n in range(6)]
        own = [
            replace(vendor[0], samples_ms=(9.0,), order=n, details={"settled": one})
            for n, one in enumerate(settled, 6)
        ]
        run = run_of(*vendor, *own)
        return [one for one in caveats(run, summarize(run)) if "Warm-up" in one]

    assert told([]) == []
    assert told([True, True]) == []
    assert told([True, False]) == ["Warm-up had not settled in 1 of 8 launches."]


@pytest.mark.parametrize("form", ["terminal", "csv", "html"])
def test_a_run_of_vendor_rows_alone_is_reported(
    cli: Cli, tflite: VendorResult, tmp_path: Path, form: str
) -> None:
    path = write_run(run_of(*(launched(tflite, n) for n in range(6))), tmp_path)
    done = cli("report", path, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert "79.5" in done.stdout
    assert "Warm-up" not in done.stdout


def test_a_run_whose_every_launch_failed_is_not_reported(
    cli: Cli, tflite: VendorResult, tmp_path: Path
) -> None:
    broken = replace(tflite, error="it was killed by SIGABRT")
    done = cli("report", write_run(run_of(launched(broken, 0)), tmp_path))
    assert (done.returncode, done.stdout) == (5, "")
    assert "no launch gave a sample" in done.stderr


def test_a_bench_that_measured_vendor_rows_alone_measured_something(tflite: VendorResult) -> None:
    broken = launched(replace(tflite, error="it was killed by SIGABRT"), 1)
    run = run_of(launched(tflite, 0), replace(broken, details={"failure": "killed"}))
    with pytest.raises(GateFailed, match="1 of 2 launches failed"):
        judge(run, summarize(run))
    nothing = run_of(replace(broken, details={"failure": "killed"}))
    with pytest.raises(NothingMeasured, match="nothing was measured"):
        judge(nothing, summarize(nothing))
