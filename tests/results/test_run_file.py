"""Run files: everything comes back, and what is not a run file is refused by file and key."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.results.entries import find_run_files
from coronet_deploy.results.files import read_run, write_run
from coronet_deploy.results.schema import json_schema, run_from_json, run_to_json
from coronet_deploy.vocabulary import Launch, Run, Target

SHA = "0123456789abcdef" * 4

times = st.floats(min_value=1e-6, max_value=1e6)
values = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.lists(st.text(), max_size=2)
)
tables = st.dictionaries(st.text(), values, max_size=3)
launches = st.builds(
    Launch,
    artifact=st.sampled_from(["a.onnx", "b \N{GRINNING FACE}\n.tflite"]),
    artifact_sha256=st.just(SHA),
    target=st.builds(Target, st.text(min_size=1), st.text(min_size=1), st.integers(1, 64)),
    order=st.integers(0, 99),
    samples_ms=st.lists(times, min_size=1, max_size=4).map(tuple),
    warmup_ms=st.lists(times, max_size=3).map(tuple),
    load_ms=st.none() | times,
    peak_rss_mb=st.none() | times,
    started=st.none() | st.text(),
    details=tables,
    error=st.none() | st.text(min_size=1),
)
runs = st.builds(
    Run,
    id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    created=st.text(),
    command=st.lists(st.text(), max_size=3).map(tuple),
    conditions=tables,
    tools=st.dictionaries(st.text(), st.text(), max_size=2),
    artifacts=st.just({"a.onnx": {}, "b \N{GRINNING FACE}\n.tflite": {"bytes": 3}}),
    launches=st.lists(launches, max_size=3).map(tuple),
    emulated=st.booleans(),
)


def plain_run() -> Run:
    target = Target("host", "cpu", 2)
    return Run(
        id="r1",
        created="2026-01-02T03:04:05+00:00",
        command=("coronet-deploy", "bench"),
        conditions={"cpu": "x"},
        tools={"numpy": "2"},
        artifacts={"a.onnx": {"bytes": 9}},
        launches=(
            Launch("a.onnx", SHA, target, 0, (1.25, 1.5)),
            Launch("a.onnx", SHA, target, 1, (), error="it crashed"),
        ),
    )


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    plain = json.loads(run_to_json(plain_run()))
    change(plain)
    return json.dumps(plain).encode()


def summary(run: dict[str, Any], value: object) -> None:
    """Make the first launch one of a program that keeps no samples."""
    run["launches"][0].update(samples_ms=[], details={"samples": "none", "summary": value})


@given(run=runs)
def test_every_run_comes_back_as_it_was(run: Run) -> None:
    data = run_to_json(run)
    again = run_from_json(data, "x.json")
    assert again == run
    assert run_to_json(again) == data


def test_a_result_store_is_not_called_a_run_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (id TEXT)")
    with pytest.raises(
        BadInput, match=r"results\.sqlite is an SQLite file.* results show"
    ) as caught:
        read_run(path)
    assert "cut short" not in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, part: float) -> None:
    path = write_run(plain_run(), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(BadInput, match=r"r1\.json is not a run file.*cut short"):
        read_run(path)


def test_an_artifact_s_manifest_is_called_one(tmp_path: Path) -> None:
    """Its name is what a shell completes, and its schema is newer than that of runs."""
    manifest = {"schema_version": 2, "model": "m", "runtime": "tflite", "dtype": "fp32"}
    path = tmp_path / "m_fp32.tflite.json"
    path.write_text(json.dumps({**manifest, "parity": {"psnr_db": 137.1}}))
    with pytest.raises(BadInput, match=r"m_fp32\.tflite\.json is an artifact's manifest"):
        read_run(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run.update(schema_version=2), "schema_version 2 is newer than 1"),
        (lambda run: run.update(schema_version="1"), "schema_version"),
        (lambda run: run.pop("schema_version"), "'schema_version' is missing"),
        (lambda run: run.update(condtions={}), "unknown key 'condtions'"),
        (lambda run: run.pop("tools"), "missing key 'tools'"),
        (
            lambda run: run["launches"][1]["target"].update(treads=2),
            "unknown key 'launches.1.target.treads'",
        ),
        (
            lambda run: run["launches"][0]["target"].update(threads="2"),
            "launches.0.target.threads: ",
        ),
        (
            lambda run: run["launches"][0]["samples_ms"].append(float("nan")),
            "launches.0.samples_ms.2: ",
        ),
        (lambda run: run["launches"][0]["samples_ms"].append(-1), "launches.0.samples_ms.2: "),
        (lambda run: run["launches"][1].update(error=None), "must say its error"),
        (lambda run: run["artifacts"].clear(), "lacks 'a.onnx'"),
        (lambda run: run.update(id="../r1"), "id: "),
        (
            lambda run: run["artifacts"]["a.onnx"].update(bytes=float("inf")),
            "artifacts.a.onnx.bytes: inf is not",
        ),
        (
            lambda run: run["artifacts"]["a.onnx"].update(macs={"real": float("nan")}),
            "artifacts.a.onnx.macs.real: nan is not",
        ),
        (lambda run: run["conditions"].update({"\x1b": [10**40]}), "conditions.\ufffd.0: "),
        (lambda run: run["launches"][0]["samples_ms"].append(1e308), "launches.0.samples_ms.2: "),
        (lambda run: run["launches"][0]["warmup_ms"].append(1e-308), "launches.0.warmup_ms.0: "),
        (lambda run: run["launches"][0].update(load_ms=1e9), "launches.0.load_ms: "),
        (lambda run: run["launches"][0].update(peak_rss_mb=1e300), "launches.0.peak_rss_mb: "),
        (
            lambda run: run["launches"][0]["target"].update(threads=10**9),
            "launches.0.target.threads: ",
        ),
        (lambda run: summary(run, 5), "launches.0: details.summary is not a table"),
        (lambda run: summary(run, {"median_ms": "x"}), "details.summary.median_ms: 'x' is not"),
        (lambda run: summary(run, {"mean_ms": True}), "details.summary.mean_ms: True is not"),
        (lambda run: summary(run, {"median_ms": -1}), "details.summary.median_ms: -1 ms is no"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(
    change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(BadInput) as caught:
        run_from_json(altered(change), "some/run.json")
    assert str(caught.value).startswith("some/run.json")
    assert told in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b"\xff\xfe"])
def test_other_json_is_not_a_run_file(data: bytes) -> None:
    with pytest.raises(BadInput, match="is not a run file"):
        run_from_json(data, "x.json")


def test_what_is_nested_without_end_is_not_a_run_file(tmp_path: Path) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    for data in (deep, altered(lambda _: None).replace(b'"cpu": "x"', b'"cpu": ' + deep)):
        with pytest.raises(BadInput, match=r"^x\.json is not a run file: .*nested too deep"):
            run_from_json(data, "x.json")
    (tmp_path / "deep.json").write_bytes(deep)
    assert find_run_files([tmp_path]).paths == (tmp_path / "deep.json",)


def test_a_summary_stands_for_samples_that_were_not_kept() -> None:
    told = {"median_ms": 0, "mean_ms": 3}
    run = run_from_json(altered(lambda run: summary(run, told)), "x.json")
    assert run.launches[0].median_ms == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.json does not exist"):
        read_run(tmp_path / "nothing.json")


def test_a_run_that_a_file_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    bad = replace(plain_run(), conditions={"cpu": object()})
    with pytest.raises(BadInput, match="r1"):
        write_run(bad, tmp_path)
    with pytest.raises(BadInput, match="id"):
        write_run(replace(plain_run(), id="../outside"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(20):
            write_run(replace(plain_run(), id=f"w{writer}-{number}"), tmp_path / "runs")

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = sorted((tmp_path / "runs").iterdir())
    assert len(files) == 80
    assert {read_run(file).id for file in files} == {file.stem for file in files}


def test_another_run_of_the_same_id_is_not_overwritten(tmp_path: Path) -> None:
    path = write_run(plain_run(), tmp_path)
    before = path.read_bytes()
    assert write_run(plain_run(), tmp_path) == path
    with pytest.raises(BadInput, match="another run"):
        write_run(replace(plain_run(), created="later"), tmp_path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblem, match="file"):
        write_run(plain_run(), tmp_path / "file")


def test_the_shipped_json_schema_is_the_one_that_is_enforced() -> None:
    shipped = resources.files("coronet_deploy.results").joinpath("run.schema.json")
    assert json_schema() == shipped.read_text("utf-8")
    schema = json.loads(json_schema())
    assert set(schema["required"]) == set(json.loads(run_to_json(plain_run())))
    assert schema["additionalProperties"] is False
