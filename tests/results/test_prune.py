"""Taking old runs out of the store: what was measured outlives what failed after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs, prune
from coronet_deploy.results.store import list_runs, open_store
from coronet_deploy.vocabulary import Run
from support import Cli

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


def test_a_dry_run_says_which_files_would_be_deleted(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    for number in range(4):
        write_run(make_run(number), folder)
    store = ("--store", tmp_path / "store")
    cli("results", "import", folder, *store)
    (folder / "r0001.json").write_text("mine now")
    line = ("results", "prune", "--before", "2026-01-04", "--files", *store)
    would = cli(*line, "--dry-run")
    assert would.stdout.splitlines()[-2:] == [
        f"3 runs would go of {tmp_path / 'store'}",
        "2 run files would be deleted",
    ]
    assert "r0001.json: its bytes are not those that were imported" in would.stderr
    told = json.loads(cli(*line, "--dry-run", "--json").stdout)
    assert len(list(folder.iterdir())) == 4
    done = json.loads(cli(*line, "--json").stdout)
    assert (told["dry_run"], done["dry_run"]) == (True, False)
    assert told | {"dry_run": False} == done
    assert sorted(path.name for path in folder.iterdir()) == ["r0001.json", "r0003.json"]
