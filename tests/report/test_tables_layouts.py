"""The layouts of several runs: every figure, a paper's grid, and names that LaTeX survives."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.report.grid import grids_markdown, print_grids
from coronet_deploy.report.latex import latex
from coronet_deploy.report.layouts import Layout, grids_of, legend
from coronet_deploy.report.lines import Line, json_line, lines_of
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import DType, Launch, Run, Target
from support import Cli

MakeRun = Callable[..., Run]
FULL = {"down1": 64, "down2": 128, "down3": 256, "down4": 512}
PRUNED = {"down1": 7, "down2": 40, "down3": 61, "down4": 99}
# Every character that LaTeX gives a meaning, a script its fonts lack, and a command.
STARTS = ("[", "[3cm]", "*", "中")
"""What a name may start with that ends or changes a LaTeX table's line."""
WILD = "50%_of#1 & {x}^~\\ <a>|\"'`$ -- é 中\x1b \\input{/etc/passwd}"


def manifest(model: str, dtype: str, groups: dict[str, int], runtime: str = "tflite") -> Any:
    plan = {"architecture": "unet_256", "norm": "batch", "groups": groups}
    scale = 10 if groups == FULL else 1
    return {
        "model": model,
        "runtime": runtime,
        "dtype": dtype,
        "bytes": 4_000_000 * scale,
        "macs": {"real": 600_000_000 * scale, "published": 1_800_000_000 * scale},
        "parity": {"psnr_db": 80.0},
        "source": {"plan": plan},
        "input": {"shape": [1, 256, 256, 3]},
    }


ARTIFACTS = {
    "small_fp32.tflite": (manifest("small", "fp32", PRUNED), 20.0),
    "small_int8.tflite": (manifest("small", "int8", PRUNED), 10.0),
    "whole_fp32.tflite": (manifest("whole", "fp32", FULL), 80.0),
}


@pytest.fixture
def phone_run() -> MakeRun:
    """Return a function that makes a run of three artifacts on a phone's back ends."""

    def make(
        device: str,
        *backends: str,
        number: int = 1,
        factor: float = 1.0,
        emulated: bool = False,
        artifacts: Any = None,
    ) -> Run:
        artifacts = artifacts or ARTIFACTS
        details = {"nodes_taken": 40, "nodes": 41, "parity": {"psnr_db": 61.5}}
        launches = [
            Launch(
                name,
                "ab" * 32,
                Target(device, backend, 4),
                turn,
                tuple(factor * median * step for step in (0.99, 1.0, 1.01)),
                details={"settled": True, **(details if backend == "gpu" else {})},
            )
            for turn in range(6)
            for name, (_, median) in artifacts.items()
            for backend in backends
        ]
        return Run(
            id=f"run{number}",
            created=f"2026-01-0{number}T00:00:00+00:00",
            command=("coronet-deploy", "bench"),
            conditions={"device": device},
            tools={},
            artifacts={name: one for name, (one, _) in artifacts.items()},
            launches=tuple(launches),
            emulated=emulated,
        )

    return make


def by_name(lines: tuple[Line, ...]) -> dict[tuple[str, str], Line]:
    return {(line.row.artifact, line.row.target.backend): line for line in lines}


def test_gains_are_over_the_twin_and_over_fp32_on_the_same_target(phone_run: MakeRun) -> None:
    lines = by_name(lines_of(phone_run("sm8550", "cpu", "gpu")))
    int8 = lines["small_int8.tflite", "gpu"]
    assert int8.over_fp32 == pytest.approx(2)
    assert int8.twin == "whole_fp32.tflite"
    assert int8.over_twin == pytest.approx(8)
    assert (int8.delegated, int8.psnr_db) == ("40 of 41", 61.5)
    assert lines["small_fp32.tflite", "cpu"].over_twin == pytest.approx(4)
    assert lines["small_fp32.tflite", "cpu"].over_fp32 is None
    assert lines["small_fp32.tflite", "cpu"].psnr_db == 80.0
    whole = lines["whole_fp32.tflite", "cpu"]
    assert (whole.twin, whole.over_twin, whole.over_fp32) == (None, None, None)


@pytest.mark.parametrize(
    "other",
    [
        {**PRUNED, "down1": 30},  # pruned less, but pruned
        {**FULL, "down4": 50},  # wider here, narrower there
        {"other": 64},  # another network's groups
    ],
)
def test_what_is_not_unpruned_is_nobody_s_twin(phone_run: MakeRun, other: dict[str, int]) -> None:
    artifacts = {**ARTIFACTS, "whole_fp32.tflite": (manifest("whole", "fp32", other), 80.0)}
    lines = lines_of(phone_run("host", "cpu", artifacts=artifacts))
    assert [line.twin for line in lines] == [None] * 3


def test_another_runtime_s_file_is_neither_twin_nor_fp32(phone_run: MakeRun) -> None:
    onnx = {
        "small_fp32.onnx": (manifest("small", "fp32", PRUNED, "onnx"), 20.0),
        "whole_fp32.onnx": (manifest("whole", "fp32", FULL, "onnx"), 80.0),
        "small_int8.tflite": ARTIFACTS["small_int8.tflite"],
    }
    line = lines_of(phone_run("host", "cpu", artifacts=onnx))[2]
    assert (line.over_twin, line.over_fp32) == (None, None)


def test_the_full_layout_has_every_figure_and_fits_80_columns(phone_run: MakeRun) -> None:
    lines = [
        *lines_of(phone_run("sm8550", "cpu", "gpu")),
        *lines_of(phone_run("exynos2400", "cpu", number=2, emulated=True)),
    ]
    grids = grids_of(Layout.FULL, lines)
    out = io.StringIO()
    print_grids(grids, out, legend(Layout.FULL, lines))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    table = "\n".join(grids_markdown(grids).splitlines())
    assert "| small\\_int8.tflite | sm8550 | gpu | 10.0 | 10.1 | 0.0 | 6 |" in table
    assert "| small\\_int8.tflite | sm8550 | gpu | 8.00x | 2.00x | 40 of 41 |" in table
    assert "| small\\_int8.tflite | int8 | 4.0 | 600 M | 1.8 G | 61.5 |" in table
    assert "The unpruned twin of small_int8.tflite is whole_fp32.tflite." in text.replace("\n", " ")


def printed(lines: list[Line]) -> str:
    out = io.StringIO()
    print_grids(grids_of(Layout.FULL, lines), out, legend(Layout.FULL, lines))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return out.getvalue()


def test_rows_of_two_runs_of_one_device_are_told_apart_by_their_days(phone_run: MakeRun) -> None:
    old, new = phone_run("sm8550", "cpu"), phone_run("sm8550", "cpu", number=2, factor=2.0)
    lines = [*lines_of(old), *lines_of(new)]
    latency, gains, artifacts = grids_of(Layout.FULL, lines)
    assert latency.heads[:3] == gains.heads[:3] == ("Artifact", "Run", "Device")
    assert latency.words == 3
    assert [line[:4] for line in latency.lines[1::3]] == [
        ("small_int8.tflite", "2026-01-01", "sm8550", "10.0"),
        ("small_int8.tflite", "2026-01-02", "sm8550", "20.0"),
    ]
    assert "Run" not in artifacts.heads  # the same files
    assert len(artifacts.lines) == 3
    text = printed(lines)
    assert "2026-01-02" in text
    assert "Run 2026-01-02 is run2." in text
    both = [*lines, *lines_of(phone_run("sm8550", "cpu", number=3, emulated=True))]
    assert "2026-01-03" in printed(both)


def test_runs_of_one_day_are_told_apart_by_the_minute_or_else_by_their_ids(
    phone_run: MakeRun,
) -> None:
    def runs(*moments: str) -> list[str]:
        ids = [f"2026010{day}T000000Z-sm8550-0a0b0c0{day}" for day in range(len(moments))]
        made = [
            replace(phone_run("sm8550", "cpu"), id=one, created=f"2026-01-01T{moment}+00:00")
            for one, moment in zip(ids, moments, strict=True)
        ]
        grid = grids_of(Layout.FULL, [line for run in made for line in lines_of(run)])[0]
        return [line[1] for line in grid.lines[::3]]

    assert runs("10:00:00", "11:00:00") == ["2026-01-01 10:00 UTC", "2026-01-01 11:00 UTC"]
    assert runs("10:00:00", "10:00:30") == ["20260100…a0b0c00", "20260101…a0b0c01"]


def test_no_run_is_named_where_the_device_tells_the_rows_apart(phone_run: MakeRun) -> None:
    real = lines_of(phone_run("sm8550", "cpu"))
    emulated = lines_of(phone_run("sm8550", "cpu", number=2, emulated=True))
    grid = grids_of(Layout.FULL, [*real, *emulated])[0]
    assert grid.heads[:3] == ("Artifact", "Device", "Median ms")
    assert {line[1] for line in grid.lines} == {"sm8550", "sm8550 (emulated)"}
    assert "Run" not in grids_of(Layout.FULL, real)[0].heads
    assert not any(one.startswith("Run ") for one in legend(Layout.FULL, real))


def test_a_file_that_changed_between_runs_has_a_line_for_each(phone_run: MakeRun) -> None:
    smaller = {**manifest("small", "int8", PRUNED), "bytes": 2_000_000}
    smaller |= {"macs": {"real": 5_000_000, "published": 7_000_000}, "parity": {"psnr_db": 33.0}}
    changed = {**ARTIFACTS, "small_int8.tflite": (smaller, 5.0)}
    lines = [
        *lines_of(phone_run("sm8550", "cpu")),
        *lines_of(phone_run("sm8550", "cpu", number=2, artifacts=changed)),
    ]
    grid = grids_of(Layout.FULL, lines)[-1]
    assert grid.heads[:3] == ("Artifact", "Run", "Type")
    assert grid.words == 3
    assert grid.lines == (
        ("small_fp32.tflite", "2026-01-01, 2026-01-02", "fp32", "4.0", "600 M", "1.8 G", "80.0"),
        ("small_int8.tflite", "2026-01-01", "int8", "4.0", "600 M", "1.8 G", "80.0"),
        ("small_int8.tflite", "2026-01-02", "int8", "2.0", "5 M", "7 M", "33.0"),
        ("whole_fp32.tflite", "2026-01-01, 2026-01-02", "fp32", "40.0", "6 G", "18 G", "80.0"),
    )
    printed(lines)


def test_the_paper_layout_is_chipsets_by_type_against_models(phone_run: MakeRun) -> None:
    lines = [
        *lines_of(phone_run("sm8550", "cpu", number=1)),
        *lines_of(phone_run("exynos2400", "cpu", number=2, factor=2.0)),
        *lines_of(phone_run("sm8550", "cpu", number=3, factor=1.5)),
    ]
    latency, cost, size = grids_of(Layout.PAPER, lines)
    assert latency.heads == ("Chipset", "Type", "small", "whole")
    assert latency.lines == (
        ("sm8550", "fp32", "30.0", "120"),  # the newest run's
        ("sm8550", "int8", "15.0", "-"),
        ("exynos2400", "fp32", "40.0", "160"),
        ("exynos2400", "int8", "20.0", "-"),
    )
    assert cost.lines[0] == ("small", "600 M", "1.8 G")
    assert size.heads == ("Type", "small", "whole")
    assert size.lines == (("fp32", "4.0", "40.0"), ("int8", "4.0", "-"))
    several = grids_of(Layout.PAPER, lines_of(phone_run("sm8550", "cpu", "gpu")))[0]
    assert several.heads[:3] == ("Chipset", "Type", "Back end")
    assert len(several.lines) == 4


def test_every_type_of_numbers_has_its_place_and_none_that_is_not_there(phone_run: MakeRun) -> None:
    types = [*reversed(DType), "int4"]
    artifacts = {
        f"{name}.tflite": ({**manifest("small", name, PRUNED), "bytes": 1_000_000 * size}, 5.0)
        for size, name in enumerate(types, 1)
    }
    latency, _, size = grids_of(
        Layout.PAPER, lines_of(phone_run("host", "cpu", artifacts=artifacts))
    )
    ordered = [*DType, "int4"]
    assert [line[1] for line in latency.lines] == ordered
    assert size.lines == tuple((one, f"{types.index(one) + 1}.0") for one in ordered)
    out = io.StringIO()
    print_grids([latency, size], out)
    assert "int8-weights" in out.getvalue()


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        ("full", "terminal"),
        ("paper", "markdown"),
        ("paper", "csv"),
        ("full", "latex"),
        ("paper", "json"),
    ],
)
def test_emulated_timings_are_called_so_in_every_format(
    cli: Cli, phone_run: MakeRun, tmp_path: Path, layout: str, form: str
) -> None:
    run = phone_run("sm8550", "cpu", emulated=True)
    done = cli("report", write_run(run, tmp_path), "--layout", layout, "--format", form)
    assert done.returncode == 0, done.stderr
    assert "(emulated)" in done.stdout
    assert "10.0" in done.stdout


def test_without_a_layout_rows_say_whether_they_are_emulated(
    cli: Cli, phone_run: MakeRun, tmp_path: Path
) -> None:
    path = write_run(phone_run("sm8550", "cpu", emulated=True), tmp_path)
    rows = json.loads(cli("report", path, "--json").stdout)["rows"]
    assert [row["emulated"] for row in rows] == [True] * 3
    assert rows[1]["speedup_over_twin"] == pytest.approx(8)
    told = csv.DictReader(io.StringIO(cli("report", path, "--format", "csv").stdout))
    assert [line["emulated"] for line in told] == ["True"] * 3
    page = cli("report", path, "--format", "html", "--layout", "paper")
    assert (page.returncode, page.stdout) == (2, "")


def test_a_json_line_starts_with_the_promised_keys(phone_run: MakeRun) -> None:
    plain = json_line(lines_of(phone_run("host", "cpu"))[0], "r.json")
    assert list(plain)[:9] == [
        "artifact", "device", "backend", "threads", "launches", "samples", "median_ms", "p90_ms",
        "run_file",
    ]  # fmt: skip
    json.dumps(plain, allow_nan=False)


def hostile(phone_run: MakeRun, start: str = "") -> list[Line]:
    wild = start + WILD
    named = replace(phone_run(wild, "cpu"), id="r")
    artifacts = {f"{wild}.tflite": ({**manifest(wild, "fp32", PRUNED)}, 5.0)}
    return list(lines_of(replace(phone_run(wild, "cpu", artifacts=artifacts), id=named.id)))


@pytest.mark.parametrize("layout", list(Layout))
def test_latex_keeps_its_structure_whatever_the_names(phone_run: MakeRun, layout: Layout) -> None:
    text = latex(grids_of(layout, hostile(phone_run)), [WILD])
    assert r"\input" not in text
    assert r"\textbackslash{}input" in text
    assert "[U+4E2D]" in text
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        assert re.search(r"\\begin\{tabular\}\{.*\\linewidth\}\}\n", text)
        for line in body.strip().splitlines():
            assert line.endswith(r" \\")
    plain = re.sub(r"\\[\\{}]", "", text)
    assert plain.count("{") == plain.count("}")


@pytest.mark.parametrize("layout", list(Layout))
def test_no_line_of_latex_starts_with_what_the_one_before_takes(
    phone_run: MakeRun, layout: Layout
) -> None:
    lines = [line for start in STARTS for line in hostile(phone_run, start)]
    rows = [one for one in latex(grids_of(layout, lines)).splitlines() if one.endswith(r" \\")]
    assert len(rows) > len(STARTS)
    # A line break and booktabs' rules take a star or an argument in brackets for their own.
    assert all(row.startswith("    {}") for row in rows)
    assert any(row.startswith("    {}[U+4E2D]") for row in rows)
    assert any(row.startswith("    {}*") for row in rows)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
@pytest.mark.parametrize("start", ["", *STARTS])
def test_latex_compiles_whatever_the_names(phone_run: MakeRun, tmp_path: Path, start: str) -> None:
    grids = [grid for layout in Layout for grid in grids_of(layout, hostile(phone_run, start))]
    assert "Missing character" not in typeset(latex(grids, [WILD]), tmp_path)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("count", [2, 60])
def test_latex_fits_the_page_whatever_its_rows_and_names(
    phone_run: MakeRun, tmp_path: Path, layout: Layout, count: int
) -> None:
    name = f"{'Experiment' * 4}-of-a-model-with-a-long-name"
    artifacts = {
        f"{n}-{name}_fp32.tflite": (manifest(f"{n}-{name}", "fp32", PRUNED), 10.0 + n)
        for n in range(count)
    }
    phones = ("Snapdragon 8 Gen 2 (SM8550)", "Dimensity 9200 (MT6985)")
    runs = [phone_run(phone, "cpu", artifacts=artifacts) for phone in phones]
    lines = [line for run in runs for line in lines_of(run)]
    text = latex(grids_of(layout, lines), [f"{name}{name}: it failed."] * count)
    log = typeset(text, tmp_path)
    assert "Overfull" not in log
    assert "too large" not in log
    if count > 2:
        assert r"\begin{longtable}" in text
        assert r"\onecolumn" in text.splitlines()[1]
    if layout is Layout.PAPER and count > 2:
        parts = re.findall(r"\\toprule\n    \{\}(.*)", text)
        assert all(part.startswith(("Chipset & Type & ", "Model", "Type & ")) for part in parts)
        assert len(parts) > len(grids_of(layout, lines))


def typeset(text: str, folder: Path) -> str:
    """Return what pdflatex logged of an article with the packages that `text` says it needs."""
    (folder / "table.tex").write_text(text, "utf-8")
    packages = text.partition("\n")[0].removeprefix("% needs ")
    (folder / "paper.tex").write_text(
        f"\\documentclass{{article}}{packages}\\begin{{document}}\\input{{table}}\\end{{document}}\n"
    )
    for _ in range(2):  # longtable knows its widths the second time
        done = subprocess.run(
            ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape",
             "paper.tex"],
            cwd=folder, capture_output=True, text=True, check=False, errors="replace", timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return (folder / "paper.log").read_text("latin-1")
