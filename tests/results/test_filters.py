"""Runs are found by what is asked of them: of several names any, of a run its id or its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run
from support import Cli

MakeRun = Callable[..., Run]


@pytest.fixture
def store(cli: Cli, make_run: MakeRun, tmp_path: Path) -> Path:
    """Return a store of two runs: one with two threads, one with four on another device."""
    write_run(make_run(1), tmp_path / "runs")
    run = make_run(2)
    elsewhere = replace(run.launches[0].target, device="sm8550", backend="gpu", threads=4)
    launches = tuple(replace(one, target=elsewhere) for one in run.launches)
    write_run(replace(run, launches=launches), tmp_path / "runs")
    done = cli("results", "import", tmp_path / "runs", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        (["--dtype", "int8"], 2),
        (["--dtype", "fp32", "--dtype", "int8"], 4),
        (["--dtype", "fp32,int8,fp16"], 4),
        (["--runtime", "onnx", "--runtime", "tflite"], 4),
        (["--runtime", "onnx,tflite", "--dtype", "int8"], 2),
        (["--artifact", "m_fp32.onnx", "--artifact", "m_int8.tflite"], 4),
        (["--model", "m", "--model", "n"], 4),
        (["--device", "host"], 2),
        (["--device", "host", "--device", "sm8550"], 4),
        (["--device", "host,sm8550", "--backend", "gpu,nnapi"], 2),
        (["--device", "Snapdragon 8 Gen 2,nosuch"], 2),
        (["--device", "SM8550-AC"], 2),
        (["--threads", "2", "--threads", "4"], 4),
        (["--threads", "4,8"], 2),
    ],
)
def test_of_several_names_any_may_be_a_rows(
    flags: list[str], rows: int, cli: Cli, store: Path
) -> None:
    done = cli("results", "list", "--json", "--store", store, *flags)
    assert done.returncode == 0, done.stderr
    assert sum(len(run["rows"]) for run in json.loads(done.stdout)["runs"]) == rows


def test_a_run_is_shown_by_its_file_too(cli: Cli, store: Path, tmp_path: Path) -> None:
    told = [
        cli("results", "show", name, "--store", store).stdout
        for name in ("r0002", tmp_path / "runs" / "r0002.json", "r0002.json")
    ]
    assert told[0].startswith("r0002")
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dtype", "fp32,int9"], "--dtype: 'int9' is none of fp32, fp16, int8, int8-full"),
        (["--runtime", "onnx,"], "--runtime: '' is none of onnx, tflite"),
        (["--threads", "2,0"], "--threads: '0' is not a whole number"),
    ],
)
def test_one_of_several_names_that_is_misspelt_is_named(
    flags: list[str], told: str, cli: Cli, tmp_path: Path
) -> None:
    done = cli("results", "list", "--store", tmp_path / "none", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
