"""Taking old runs out of the store: what was measured outlives what failed after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs, prune
from coronet_deploy.results.store import list_runs, open_store
from coronet_deploy.vocabulary import Run

MakeRun = Callable[..., Run]


def of_one_row(run: Run, *, failed: bool) -> Run:
    """Return a run of its first artifact alone, all of whose launches failed or none."""
    launches = tuple(
        replace(one, samples_ms=(), details={}, error="crashed") if failed else one
        for one in run.launches
        if one.artifact == "m_fp32.onnx"
    )
    return replace(run, launches=launches, tools={"onnxruntime": "1.2"})


def test_nights_that_failed_do_not_cost_those_that_measured(
    where: str, make_run: MakeRun, tmp_path: Path
) -> None:
    for number in range(10):
        write_run(of_one_row(make_run(number), failed=number > 5), tmp_path / "runs")
    with open_store(where, make=True) as store:
        import_runs(store, [tmp_path / "runs"])
        assert len({row.key for run in list_runs(store) for row in run.rows}) == 1
        gone = prune(store, keep=3, files=True)
        assert [run.id for run in gone.runs] == ["r0000", "r0001", "r0002", "r0006"]
        assert len(list_runs(store)) == 6
