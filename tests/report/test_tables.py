"""Tables from the same rows: they fit, they parse back, and names cannot break them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import struct
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.cli.export import _show_artifacts
from coronet_deploy.export.manifest import ParityFigures
from coronet_deploy.report import tables
from coronet_deploy.report.grid import Grid, grid_csv, width_of
from coronet_deploy.report.summary import summarize
from coronet_deploy.vocabulary import Artifact, DType, Parity, Run, Runtime, Target

MakeRun = Callable[..., Run]
LONG = "a-model-whose-name-tells-everything_256x256_fp32.tflite"


def terminal(run: Run, baseline: str | None = None) -> str:
    out = io.StringIO()
    tables.print_tables(summarize(run, baseline), out, ["A note."])
    return out.getvalue()


def test_the_terminal_table_fits_80_columns_whatever_the_names(make_run: MakeRun) -> None:
    text = terminal(make_run({LONG: 1234.5, "b.onnx": 0.5}), "b.onnx")
    assert max(map(len, text.splitlines())) <= 80
    assert "Speed-up" in text
    assert "A note." in text
    assert LONG[:20] in text
    assert "Speed-up" not in terminal(make_run())


def test_what_long_names_share_is_said_once(make_run: MakeRun) -> None:
    names = [f"horse2zebra-pruned_256x256_{kind}" for kind in ("fp32.onnx", "int8.tflite")]
    lines = terminal(make_run(dict.fromkeys(names, 5.0))).splitlines()
    assert lines[0] == "Names start with horse2zebra-pruned_256x256_"
    assert [line.split()[0] for line in lines if line.strip().startswith(("fp32", "int8"))] == [
        *["fp32.onnx"] * 2, *["int8.tflite"] * 2, "fp32.onnx", "int8.tflite",
    ]  # fmt: skip


def test_it_says_what_the_speed_up_is_over_and_that_a_phone_is_emulated(make_run: MakeRun) -> None:
    run = make_run()
    for text in (terminal(run, "slow.onnx"), tables.markdown(summarize(run, "slow.onnx"))):
        assert "Speed-up is over slow.onnx, on the same target." in text
    assert "Speed-up" not in tables.markdown(summarize(run))
    phone = tuple(replace(one, target=Target("sm8550", "cpu", 4)) for one in run.launches)
    for emulated, told in (
        (False, "Measured on sm8550\n"),
        (True, "Measured on sm8550 (emulated)\n"),
    ):
        rows = summarize(replace(run, launches=phone, emulated=emulated))
        assert told in tables.markdown(rows)
        out = io.StringIO()
        tables.print_tables(rows, out)
        assert out.getvalue().startswith(told)


@pytest.mark.parametrize("columns", [40, 60, 80, 130])
def test_names_and_heads_give_way_to_the_width_and_figures_never(
    make_run: MakeRun, columns: int
) -> None:
    out = io.StringIO()
    run = make_run({LONG: 1234.5, "b.onnx": 0.5})
    tables.print_tables(summarize(run, "b.onnx"), out, ["A note " * 20], columns)
    lines = out.getvalue().splitlines()
    for row in summarize(run, "b.onnx"):
        figure = f"{row.low_ms:.0f} to {row.high_ms:.0f}" if (row.low_ms or 0) > 99 else "0."
        assert any(figure in line for line in lines)
    assert (LONG in out.getvalue()) is (columns >= 130)
    assert max(map(len, lines)) <= max(columns, 66)  # what the figures take
    assert max(len(line) for line in lines if "note" in line) <= columns


def test_it_is_as_wide_as_its_terminal() -> None:
    for columns, width in ((132, 132), (50, 50), (10, 40), (0, 80)):
        main, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(main, "rb"), os.fdopen(other, "w") as file:
            assert width_of(file) == width
    assert width_of(io.StringIO()) == 80


def test_a_psnr_reads_in_a_report_as_it_did_when_it_was_exported(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parity = Parity(psnr_db=137.149, max_abs=1e-5, ssim=1.0, pictures=8, bound_db=100.0)
    artifact = Artifact(tmp_path / "a.onnx", Runtime.ONNX, DType.FP32, 9, "ab" * 32, 0.1, parity)
    _show_artifacts([artifact], tmp_path)
    exported = capsys.readouterr().out
    kept = {"parity": ParityFigures.of(parity).model_dump()}
    run = make_run({"a.onnx": 10.0})
    told = terminal(replace(run, artifacts={"a.onnx": {**run.artifacts["a.onnx"], **kept}}))
    assert re.findall(r"\b137\.\d+", exported) == re.findall(r"\b137\.\d+", told) == ["137.2"]


def test_hostile_names_drive_neither_terminal_nor_markdown(hostile_run: Run) -> None:
    text = terminal(hostile_run)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text.replace("\n", "")
    rows = summarize(hostile_run)
    written = tables.markdown(rows)
    assert "<script>" not in written.replace("\\<", "")
    lines = [line for line in written.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert widths == {6, 7}


def test_markdown_shows_a_name_as_it_is_on_github() -> None:
    # As GitHub reads it: struck out, a formula, a character.
    assert tables.escaped("~~a~~ $x$ &lt;b") == "\\~\\~a\\~\\~ \\$x\\$ \\&lt;b"


def test_csv_reads_back_with_every_figure(make_run: MakeRun, hostile_run: Run) -> None:
    for run in (make_run(), hostile_run):
        rows = summarize(run)
        plain = [tables.json_row(row, "r.json") for row in rows]
        back = list(csv.DictReader(io.StringIO(tables.csv_text(plain), newline="")))
        assert [line["artifact"] for line in back] == [row.artifact for row in rows]
        for line, row in zip(back, rows, strict=True):
            assert line["median_ms"] == ("" if row.median_ms is None else repr(row.median_ms))
            assert line["run_file"] == "r.json"


def test_no_cell_of_a_csv_is_a_formula(make_run: MakeRun) -> None:
    names = ["=cmd|' /C calc'!A0", "+1.onnx", "@SUM(A1).onnx", "-2.onnx", "\t=1.onnx", "a=1.onnx"]
    rows = summarize(make_run(dict.fromkeys(names, 5.0)))
    plain = [tables.json_row(row, "r.json") for row in rows]
    assert [row["artifact"] for row in plain[::2]] == names
    grid = Grid(("Artifact", "=1", "Lost"), tuple((name, "-1.5", "-") for name in names))
    for text in (tables.csv_text(plain), grid_csv(grid)):
        cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
        # A dash that stands for nothing, and a number, are no formulas.
        assert not [one for one in cells if one[:1] in set("=+@\t\r") or one[:2] in {"-2", "-c"}]
        for name in names[:5]:
            assert f"'{name}" in cells
        assert "a=1.onnx" in cells
    assert "-1.5" in cells
    assert "-" in cells


def test_json_rows_start_with_the_promised_keys(make_run: MakeRun) -> None:
    plain = tables.json_row(summarize(make_run())[0], "r.json")
    assert list(plain)[:9] == [
        "artifact", "device", "backend", "threads", "launches", "samples", "median_ms", "p90_ms",
        "run_file",
    ]  # fmt: skip
    json.dumps(plain, allow_nan=False)


def test_a_failed_row_says_so(make_run: MakeRun) -> None:
    run = make_run()
    launches = [
        one
        if one.artifact != "fast.tflite"
        else type(one)("fast.tflite", "ab" * 32, one.target, one.order, (), error="boom")
        for one in run.launches
    ]
    written = tables.markdown(summarize(make_run(launches=tuple(launches))))
    assert "| fast.tflite | 1 | failed | - | - |" in written
    assert "- fast.tflite, 2 threads: 6 of 6 launches failed: boom" in written


def test_of_two_back_ends_it_is_said_which_one_failed(make_run: MakeRun) -> None:
    run = make_run({"fast.tflite": 2.0})
    phone = [replace(one, target=Target("sm8550", "cpu", 1)) for one in run.launches]
    refused = replace(
        phone[0], target=Target("sm8550", "qnn", 1), samples_ms=(), error="no such delegate"
    )
    written = tables.markdown(summarize(replace(run, launches=(*phone, refused))))
    assert "- fast.tflite, qnn, 1 thread: 1 of 1 launches failed: no such delegate" in written
