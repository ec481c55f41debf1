"""Two sides matched by what they are, and the command that measures them in turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from coronet_deploy.bench.compare import Subject, bench_pairs, find_subjects, match
from coronet_deploy.errors import BadInput
from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import DType, Runtime
from support import Cli

QUICK = ("--threads", "1", "--samples", "20", "--seconds", "0.5", "--max-load", "999")


def subject(name: str, dtype: str = "fp32", size: int = 64, **more: Any) -> Subject:
    contract = {"layout": "NHWC", "shape": [1, size, size, 3]}
    return Subject(name, {"runtime": "tflite", "dtype": dtype, "input": contract, **more})


def names(base: list[Subject], candidate: list[Subject]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in match(base, candidate).pairs]


def test_artifacts_are_matched_by_what_they_are_and_then_by_name() -> None:
    base = [subject("old_fp32", "fp32"), subject("old_int8", "int8")]
    candidate = [subject("new_int8", "int8"), subject("new_fp32", "fp32")]
    assert names(base, candidate) == [("old_int8", "new_int8"), ("old_fp32", "new_fp32")]
    twins = [subject("x"), subject("y")]
    assert names(twins, twins[::-1]) == [("y", "y"), ("x", "x")]


def test_a_file_without_a_manifest_is_compared_with_that_of_its_name() -> None:
    """A CI that keeps the files alone would else pass: its rows would have no other side."""
    told = [subject("a_fp32"), subject("a_int8", "int8")]
    bare = [Subject(one.name, {"runtime": "tflite"}) for one in told]
    both = [("a_fp32", "a_fp32"), ("a_int8", "a_int8")]
    assert names(told, bare) == names(bare, told) == names(told, [told[0], bare[1]]) == both
    # By its name, not left over by another that is of the same kind.
    assert names(told, [subject("b_int8", "int8"), bare[1]]) == [("a_int8", "a_int8")]
    with pytest.raises(BadInput, match="no artifact of the base"):
        match(told, [Subject("other", {"runtime": "tflite"}), subject("a_fp32", size=128)])


def test_both_sides_that_a_comparison_kept_are_matched_with_those_of_another() -> None:
    kept = [subject("base/a"), subject("candidate/a")]
    assert names(kept, kept) == [("base/a", "base/a"), ("candidate/a", "candidate/a")]
    assert names([subject("base/a"), subject("b", "int8")], [subject("a"), subject("c")]) == [
        ("base/a", "a")
    ]


def test_a_name_that_stands_for_something_else_now_is_told() -> None:
    matching = match([subject("a"), subject("b")], [subject("a", "int8", 128), subject("b")])
    assert [pair[1].name for pair in matching.pairs] == ["b"]
    (told,) = matching.namesakes
    assert "dtype: fp32 and int8; size: (64, 64) and (128, 128)" in told


def test_what_has_no_other_side_is_told() -> None:
    matching = match(
        [subject("a"), subject("b", "int8")], [subject("a"), subject("c", size=128), subject("d")]
    )
    assert [pair[1].name for pair in matching.pairs] == ["a"]
    assert [one.name for one in matching.base_only] == ["b"]
    assert [one.name for one in matching.candidate_only] == ["c", "d"]


def test_single_artifacts_may_differ_in_dtype_but_not_in_runtime_or_size() -> None:
    assert names([subject("a")], [subject("b", "int8")]) == [("a", "b")]
    with pytest.raises(BadInput, match=r"differ in size: \(64, 64\) and \(128, 128\)"):
        match([subject("a")], [subject("b", size=128)])
    with pytest.raises(BadInput, match="differ in runtime: tflite and onnx"):
        match([subject("a")], [Subject("b", {"runtime": "onnx"})])
    with pytest.raises(BadInput, match="no artifact of the base"):
        match([subject("a"), subject("b", "int8")], [subject("c", size=128)])


def test_both_sides_of_one_file_are_launched_in_turn(tiny: Path) -> None:
    (one,) = find_subjects(tiny / "tiny.onnx", "BASE")
    run = bench_pairs([(one, one)], threads=(1,), rounds=2, samples=5)
    assert [launch.artifact for launch in run.launches] == [
        "base/tiny.onnx", "candidate/tiny.onnx", "candidate/tiny.onnx", "base/tiny.onnx",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a function that makes a network of so many equal layers, as ONNX."""
    folder = tmp_path_factory.mktemp("work")

    def make(layers: int) -> Path:
        path = folder / f"{layers}-layers.onnx"
        torch.manual_seed(1)
        inner = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(layers)]
        net = nn.Sequential(nn.Conv2d(3, 16, 1), *inner, nn.Conv2d(16, 3, 1), nn.Tanh())
        graph, _ = lower(capture(net.eval(), 64, 64), Runtime.ONNX)
        path.write_bytes(emit_onnx(graph, DType.FP32, {}))
        return path

    return make


def test_three_times_the_work_is_slower_and_confirmed(
    cli: Cli, work: Callable[[int], Path], tmp_path: Path
) -> None:
    done = cli(
        "compare", work(3), work(9), *QUICK, "--json", "--output", tmp_path / "runs",
        "--junit", tmp_path / "junit.xml", "--markdown", tmp_path / "table.md", "--github",
        "--bmf", tmp_path / "bmf.json", "--benchmark-action", tmp_path / "action.json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    (row,) = told["rows"]
    assert (row["verdict"], row["artifact"], row["base_artifact"]) == (
        "slower", "9-layers.onnx", "3-layers.onnx",
    )  # fmt: skip
    assert row["ratio"] > 1.5
    assert (row["launches"], row["rerun_launches"]) == ([10, 10], [4, 4])
    assert row["low"] <= row["ratio"] <= row["high"]
    assert "::error title=9-layers.onnx" in done.stderr
    runs = [read_run(Path(file)) for file in told["run_files"]]
    assert [len(run.launches) for run in runs] == [12, 8]
    # What the first measurement left in the load average is not taken for other work.
    assert [run.conditions.get("own_load") for run in runs] == [None, 1]
    assert ET.parse(tmp_path / "junit.xml").find(".//failure") is not None  # noqa: S314 - our own
    assert "| slower |" in (tmp_path / "table.md").read_text()
    assert len(json.loads((tmp_path / "bmf.json").read_text())) == 1
    assert len(json.loads((tmp_path / "action.json").read_text())) == 1


def test_more_rounds_make_room_for_a_re_run(
    cli: Cli, work: Callable[[int], Path], tmp_path: Path
) -> None:
    line = ("compare", work(3), work(9), *QUICK, "--json", "--output", tmp_path / "runs")
    done = cli(*line, "--samples", 5, "--rounds", 11)
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["launches"], row["rerun_launches"]) == ([15, 15], [4, 4])


def test_what_is_hidden_in_a_folder_is_no_artifact(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "side")
    (tmp_path / "side" / "._tiny.onnx").write_bytes(b"\0\5\x16\7Mac OS X")
    found = find_subjects(tmp_path / "side", "BASE")
    assert [one.name for one in found] == ["tiny.onnx", "tiny.tflite"]


def test_a_folder_of_runs_is_told_how_runs_are_compared(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"BASE .* holds no \.onnx or \.tflite file$"):
        find_subjects(tmp_path, "BASE")
    (tmp_path / "r1.json").touch()
    with pytest.raises(BadInput, match=r"file \(of runs, two files are compared; or one with"):
        find_subjects(tmp_path, "BASE")


def test_a_folder_against_itself_is_not_slower(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    # A wide margin: at 2.5 % a few in a hundred would be, by design.
    wide = ("--margin", 50, "--resolution", 60, "--rounds", 4, "--most", 8)
    done = cli("compare", tiny, tiny, *QUICK, *wide, cwd=tmp_path)
    assert done.returncode in {0, 5}, done.stderr
    assert "slower" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert len(list((tmp_path / "runs").glob("*.json"))) in {1, 2}


def test_run_files_are_compared_without_measuring(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        bench = cli(
            "bench", tiny / "tiny.tflite", "--threads", 1, "--rounds", 4, "--samples", 5,
            "--output", tmp_path / place,
        )  # fmt: skip
        assert bench.returncode == 0, bench.stderr
    files = [next((tmp_path / place).glob("*.json")) for place in ("one", "two")]
    limit = ("--max-load", "999", "--inconclusive-ok")
    done = cli("compare", *files, *limit, "--json", cwd=tmp_path)
    # Two tiny runs made apart may differ; they are compared, and a reader is warned.
    assert done.returncode in {0, 1}, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"][0]["launches"] == [4, 4]
    assert "not in turn" in told["notes"][0]
    assert told["run_files"] == []
    mixed = cli("compare", files[0], tiny / "tiny.tflite", cwd=tmp_path)
    assert mixed.returncode == 2
    assert "one is a run file" in mixed.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["tiny.onnx", "missing.onnx"], 2, "missing.onnx"),
        (["tiny.onnx", "tiny.tflite"], 2, "runtime"),
        (["tiny.onnx", "tiny.onnx", "--rounds", "3"], 2, "--rounds 3"),
        (["tiny.onnx", "tiny.onnx", "--most", "5"], 2, "--most 5"),
        (["tiny.onnx", "tiny.onnx", "--margin", "9"], 2, "margin"),
        (["tiny.onnx", "tiny.onnx", "--margin", "-1"], 2, "--margin"),
        (["tiny.onnx", "tiny.onnx", "--device", "pixel-8"], 2, "no device profile"),
        (["tiny.onnx", "tiny.onnx", "--device", "sm8550", "--dry-run"], 2, "--dry-run"),
        (["tiny.onnx", "tiny.onnx", "--output", "tiny.onnx"], 3, "tiny.onnx"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Cli, tiny: Path, arguments: list[str], status: int, told: str
) -> None:
    done = cli("compare", *arguments, cwd=tiny)
    assert done.returncode == status
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_artifact_that_does_not_load_is_invalid(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x01not really")
    done = cli("compare", tiny / "tiny.onnx", broken, *QUICK, "--json", cwd=tmp_path)
    assert done.returncode == 3
    (row,) = json.loads(done.stdout)["rows"]
    assert row["verdict"] == "invalid"
    assert "launches of the candidate failed" in row["reason"]
