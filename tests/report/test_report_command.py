"""`coronet-deploy report` as people call it, from run files alone."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from coronet_deploy.cli import main
from coronet_deploy.cli.report import FORMATS
from coronet_deploy.report.lines import lines_of
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run

Cli = Callable[..., subprocess.CompletedProcess[str]]
MakeRun = Callable[..., Run]
MEDIANS = {"slow.onnx": 100.0, "fast.tflite": 25.0}


def test_each_format_tells_the_same_medians(cli: Cli, make_run: MakeRun, tmp_path: Path) -> None:
    path = write_run(make_run(), tmp_path)
    rows = json.loads(cli("report", path, "--json").stdout)["rows"]
    assert [row["artifact"] for row in rows] == [
        "slow.onnx", "slow.onnx", "fast.tflite", "fast.tflite",
    ]  # fmt: skip
    assert {row["run_file"] for row in rows} == {str(path)}
    assert json.loads(cli("report", path, "--format", "json").stdout)["rows"] == rows
    lines = csv.DictReader(io.StringIO(cli("report", path, "--format", "csv").stdout))
    assert [float(line["median_ms"]) for line in lines] == [row["median_ms"] for row in rows]
    for form in ("terminal", "markdown", "html"):
        done = cli("report", path, "--format", form, "--baseline", "slow.onnx")
        assert done.returncode == 0, done.stderr
        assert f"{rows[2]['median_ms']:.1f}" in done.stdout
        assert "1.00x" in done.stdout


def test_output_goes_to_the_file_and_not_to_stdout(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    path = write_run(make_run(), tmp_path)
    done = cli("report", path, "--format", "html", "--output", tmp_path / "new" / "page.html")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "form"),
    [("page.HTML", "html"), ("a.md", "markdown"), ("a.csv", "csv"), ("a.json", "json"),
     ("a.tex", "latex"), ("a.txt", "terminal"), ("a.LOG", "terminal"), ("a", "terminal"),
     ("a.markdown", "markdown")],
)  # fmt: skip
def test_an_output_has_the_format_that_its_name_ends_in(
    name: str, form: str, make_run: MakeRun, tmp_path: Path
) -> None:
    path = str(write_run(make_run(), tmp_path))
    for output, flags in ((name, []), ("told", ["--format", form])):
        assert main(["report", path, "--output", str(tmp_path / output), *flags]) == 0
    assert (tmp_path / name).read_bytes() == (tmp_path / "told").read_bytes()


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.png", "table.v2"])
def test_an_output_that_no_format_is_called_as_is_refused(
    name: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["report", str(write_run(make_run(), tmp_path)), "--output", str(tmp_path / name)]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert f"no report is written as {Path(name).suffix} (its name may end in .html, .htm," in told
    assert not (tmp_path / name).exists()
    assert main([*line, "--format", "csv"]) == 0
    assert (tmp_path / name).read_text().startswith("artifact,device,")


def test_a_dash_stands_for_stdout(
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(write_run(make_run(), tmp_path))
    monkeypatch.chdir(tmp_path)
    told = []
    for more in ([], ["--output", "-"]):
        assert main(["report", path, "--format", "csv", *more]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert main(["compare", path, path, "--markdown", "-"]) == 2
    assert "--markdown -: no file of that name is written (stdout is" in capsys.readouterr().err
    assert not (tmp_path / "-").exists()


def test_a_folder_of_runs_says_how_its_files_are_given(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    write_run(make_run(), tmp_path)
    done = cli("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} is a folder (give its run files, {tmp_path}/*.json)" in done.stderr


@pytest.mark.parametrize("flags", [[], ["--layout", "full"], ["--format", "html"]])
def test_a_run_that_is_given_again_stands_there_once(
    flags: list[str], make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(make_run(), tmp_path)
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    told = []
    for runs in ([path], [path, path], [path, copy]):
        assert main(["report", *map(str, runs), *flags]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] == told[2]


def test_several_runs_stand_one_after_another(cli: Cli, make_run: MakeRun, tmp_path: Path) -> None:
    first = write_run(make_run(), tmp_path)
    second = write_run(replace(make_run({"other.onnx": 7.0}), id="r2"), tmp_path)
    text = cli("report", first, second, "--format", "markdown").stdout
    assert text.index("## Run 2026") < text.index("slow.onnx") < text.index("## Run r2")
    broken = tuple(replace(one, samples_ms=(), error="it hung") for one in make_run().launches)
    third = write_run(make_run(id="r3", launches=broken), tmp_path)
    page = cli("report", third, first, second, "--format", "html").stdout
    assert page.index("it hung") < page.index("<svg") < page.index("other.onnx")
    for name in ("r3", "20260102T030405Z-host-0a0b0c0d", "r2"):
        assert f"<h3>Run {name}</h3>" in page


@pytest.mark.parametrize(
    "form", ["terminal", "markdown", "json", "latex", "html", "terminal --layout full"]
)
def test_a_baseline_counts_in_the_runs_that_hold_it(
    form: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = write_run(make_run({"fast.tflite": 26.0}, id="alone"), tmp_path)
    both = write_run(make_run(), tmp_path)
    line = ["report", str(alone), str(both), "--format", *form.split()]
    assert main([*line, "--baseline", "slow.onnx"]) == 0
    told = capsys.readouterr().out
    if form == "json":
        gains = {
            (row["run"] == "alone", row["speedup"] is None) for row in json.loads(told)["rows"]
        }
        assert gains == {(True, True), (False, False)}
    else:
        assert re.search(r"\b[34]\.\d\dx", told)
    assert main([*line, "--baseline", "nobody.onnx"]) == 2
    error = capsys.readouterr().err
    assert "none of the runs holds an artifact 'nobody.onnx'" in error
    assert "fast.tflite, slow.onnx" in error


@pytest.mark.parametrize("layout", ["full", "paper"])
def test_what_is_true_of_all_runs_is_said_once(
    layout: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = {"r1": ["It rained."], "r2": ["It rained.", "It was busy."], "r3": []}
    runs = [
        write_run(make_run(id=name, conditions={"notes": own}), tmp_path)
        for name, own in notes.items()
    ]
    line = ["report", *map(str, runs), "--layout", layout, "--json"]
    assert main(line) == 0
    said = json.loads(capsys.readouterr().out)["notes"]
    assert sum("These are timings of this host" in one for one in said) == 1
    assert said[-3].startswith("These are timings of this host")
    assert said[-2:] == ["r1, r2: It rained.", "r2: It was busy."]


@pytest.mark.parametrize(
    ("content", "arguments", "status", "told"),
    [
        (None, [], 2, "does not exist"),
        ('{"schema_version": 1, "id": "x"', [], 2, "cut short"),
        ('{"schema_version": 99}', [], 2, "newer"),
        ("whole", ["--baseline", "nobody.onnx"], 2, "nobody.onnx"),
        ("whole", ["--format", "xml"], 2, "--format"),
        ("whole", ["--json", "--format", "csv"], 2, "contradict"),
        ("empty", [], 5, "no launch gave a sample"),
        ("endless", ["--format", "html"], 2, "slow.onnx.bytes: inf is not a finite number"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Cli, make_run: MakeRun, tmp_path: Path, content: str | None, arguments: list[str],
    status: int, told: str,
) -> None:  # fmt: skip
    path = tmp_path / "run.json"
    if content == "whole":
        path = write_run(make_run(), tmp_path)
    elif content == "endless":
        path = write_run(make_run(), tmp_path)
        path.write_text(path.read_text().replace('"bytes": 7300000', '"bytes": 1e999', 1))
    elif content == "empty":
        path = write_run(make_run(launches=()), tmp_path)
    elif content is not None:
        path.write_text(content)
    done = cli("report", path, *arguments)
    assert done.returncode == status
    assert told in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_counts_of_channels_that_are_none_end_no_report(make_run: MakeRun) -> None:
    for groups in ({"a": "x", "b": 2}, {"a": 0}, {"a": [1]}, {}):
        manifest = {"source": {"plan": {"groups": groups}}, "input": {"shape": [1, "x", None]}}
        for line in lines_of(make_run(artifacts=dict.fromkeys(MEDIANS, manifest))):
            assert (line.channels, line.unpruned, line.over_twin) == (None, None, None)


def test_names_in_any_script_leave_stderr_empty(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    path = write_run(make_run({"马到斑马.onnx": 10.0}), tmp_path)
    done = cli("report", path, "--format", "html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "马到斑马" in done.stdout


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_and_a_title_that_are_not_utf_8_end_no_report(
    form: str, make_run: MakeRun, tmp_path: Path
) -> None:
    path = write_run(make_run(), tmp_path).rename(tmp_path / "r\udcff.json")
    other = write_run(replace(make_run(), id="other"), tmp_path)
    output = tmp_path / "told"
    title = ["--title", "Gr\udcfcn"] if form == "html" else []
    line = ["report", str(path), str(other), "--format", form, "--output", str(output), *title]
    assert main(line) == 0
    assert "slow.onnx" in output.read_text("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_behind_stdout_is_one_clear_line(
    cli: Cli, make_run: MakeRun, tmp_path: Path, more: tuple[str, ...]
) -> None:
    path = write_run(make_run(), tmp_path)
    with Path("/dev/full").open("w") as full:
        done = cli("report", path, *more, capture_output=False, stdout=full, stderr=PIPE)
    assert done.returncode == 3
    assert "cannot write to stdout" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from coronet_deploy.cli import bench, report; "
        "heavy = {'numpy', 'torch', 'pydantic', 'rich', 'matplotlib', 'onnxruntime'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
