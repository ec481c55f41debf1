"""Tables from the same rows: they fit, they parse back, and names cannot break them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

from coronet_deploy.report import tables
from coronet_deploy.report.summary import summarize
from coronet_deploy.vocabulary import Run

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


def test_csv_reads_back_with_every_figure(make_run: MakeRun, hostile_run: Run) -> None:
    for run in (make_run(), hostile_run):
        rows = summarize(run)
        plain = [tables.json_row(row, "r.json") for row in rows]
        back = list(csv.DictReader(io.StringIO(tables.csv_text(plain), newline="")))
        assert [line["artifact"] for line in back] == [row.artifact for row in rows]
        for line, row in zip(back, rows, strict=True):
            assert line["median_ms"] == ("" if row.median_ms is None else repr(row.median_ms))
            assert line["run_file"] == "r.json"


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
