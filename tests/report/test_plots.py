"""The plot: the same bytes every time, readable on light and dark, and safe to stand in a page."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from coronet_deploy.errors import NothingMeasured
from coronet_deploy.report.html import render_report
from coronet_deploy.report.plots import latency_svg
from coronet_deploy.report.summary import summarize
from coronet_deploy.vocabulary import Run, Target

MakeRun = Callable[..., Run]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


def test_it_shows_every_measured_row_with_its_median(make_run: MakeRun) -> None:
    rows = summarize(make_run())
    shown = texts(latency_svg(rows, "Latency & more"))
    assert "slow.onnx, 1 thread" in shown
    assert "fast.tflite, 2 threads" in shown
    medians = [text for text in shown if re.fullmatch(r"[\d.]+ ms", text)]
    assert len(medians) == len(rows)
    root = ET.fromstring(latency_svg(rows, "Latency & more"))  # noqa: S314 - our own
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "Latency & more"


def test_bars_are_as_long_as_their_medians(make_run: MakeRun) -> None:
    rows = summarize(make_run({"a.onnx": 80.0, "b.onnx": 20.0}))
    svg = latency_svg(rows, "x")
    bars = re.findall(
        r"<path d=\"M ([\d.]+) [\d.]+ \nL ([\d.]+) [^\"]*\"[^>]*var\(--plot-[123]", svg
    )
    lengths = [float(right) - float(left) for left, right in bars]
    expected = [row.median_ms or 0 for row in rows]
    assert [length / lengths[0] for length in lengths] == pytest.approx(
        [value / expected[0] for value in expected], rel=1e-3
    )


def test_many_rows_are_drawn_in_parts_of_one_scale_and_one_colour_a_target(
    make_run: MakeRun,
) -> None:
    medians = {f"net-{number:02}.onnx": 5.0 + 3 * number for number in range(31)}
    run = make_run(medians)
    page = render_report(run)
    every = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    svgs = [svg for svg in every if "Median latency" in svg]
    names = [re.findall(r">(net-\d+\.onnx), (\d threads?)<", svg) for svg in svgs]
    assert [len(one) for one in names] == [22, 22, 18]
    # In order, each once, and an artifact's threads in one part.
    assert [name for part in names for name, _ in part] == [one for one in medians for _ in "12"]
    assert {part[0][1] for part in names} == {"1 thread"}
    bars = [
        (float(right) - float(left), colour)
        for svg in svgs
        for left, right, colour in re.findall(
            r"<path d=\"M ([\d.]+) [\d.]+ \nL ([\d.]+) [^\"]*\"[^>]*var\((--plot-\d)", svg
        )
    ]
    expected = [row.median_ms or 0 for row in summarize(run)]
    assert [length / bars[0][0] for length, _ in bars] == pytest.approx(
        [value / expected[0] for value in expected], rel=1e-3
    )
    assert [colour for _, colour in bars] == ["--plot-1", "--plot-2"] * len(medians)
    titles = [re.findall(r"<title[^>]*>(.*?)</title>", svg) for svg in svgs]
    assert titles == [[f"Median latency, part {number} of 3"] for number in (1, 2, 3)]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_same_rows_give_the_same_bytes_in_another_process(
    make_run: MakeRun, tmp_path: Path
) -> None:
    rows = summarize(make_run())
    here = latency_svg(rows, "x")
    code = (
        "import sys, pickle; from coronet_deploy.report.plots import latency_svg; "
        "sys.stdout.write(latency_svg(pickle.load(sys.stdin.buffer), 'x'))"
    )
    # Whatever style and back end are for other plots.
    style = "text.usetex: True\nxtick.labelsize: 20\nsavefig.bbox: tight\naxes.facecolor: red\n"
    (tmp_path / "matplotlibrc").write_text(style)
    for backend in ({}, {"MPLBACKEND": "module://a_notebook.backend_inline"}):
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(rows), capture_output=True, check=True,
            cwd=tmp_path, env={**os.environ, **backend},
        )  # fmt: skip
        assert done.stdout.decode() == here


def test_it_follows_the_pages_colours_and_names_nothing_outside(make_run: MakeRun) -> None:
    svg = latency_svg(summarize(make_run()), "x")
    assert "currentColor" in svg
    assert "var(--plot-1," in svg
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", svg)
    assert "<?xml" not in svg
    assert "DOCTYPE" not in svg
    assert "matplotlib.org" not in svg
    assert "font-family" not in svg


def test_hostile_names_stay_text(hostile_run: Run) -> None:
    svg = latency_svg(summarize(hostile_run), "<b>x</b>")
    assert "<script" not in svg
    assert "<b>" not in svg
    assert any("<script>alert(1)" in text for text in texts(svg))


def test_a_plot_of_emulated_timings_says_so_where_it_stands_alone(make_run: MakeRun) -> None:
    real, emulated = (
        texts(latency_svg(summarize(make_run(emulated=one)), "x")) for one in (False, True)
    )
    assert "median latency, ms (lower is better)" in real
    assert "median latency, ms, emulated (lower is better)" in emulated


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Told apart in the middle, which shortening would leave out.
        (
            [
                f"horse2zebra-pruned-generator-{one}-of-it_256x256_fp32.tflite"
                for one in ("old", "new")
            ],
            [
                "…old-of-it_256x256_fp32.tflite",
                "…new-of-it_256x256_fp32.tflite",
            ],
        ),
        (
            [f"{'a' * 30}{one}{'b' * 30}.onnx" for one in "xy"],
            [
                "1: aaaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbb.onnx",
                "2: aaaaaaaaaaaaaaaaaa…bbbbbbbbbbbbbbb.onnx",
            ],
        ),
        (["b.onnx", "a.onnx"], ["b.onnx", "a.onnx"]),
    ],
)
def test_long_names_are_told_apart(
    make_run: MakeRun, names: list[str], expected: list[str]
) -> None:
    shown = texts(latency_svg(summarize(make_run(dict.fromkeys(names, 5.0))), "x"))
    labels = [one.removesuffix(", 1 thread") for one in shown if one.endswith(", 1 thread")]
    assert labels == expected
    assert max(map(len, labels)) <= 42


def test_a_phone_s_long_name_leaves_room_for_the_figure_beside_it(make_run: MakeRun) -> None:
    name = "horse2zebra-pruned-generator-of-a-long-name_256x256_fp32.tflite"
    run = make_run({name: 5.0})
    targets = [
        Target(device, backend, 1)
        for device in ("Snapdragon 8 Gen 2 for Galaxy (SM8550-AC)", "Dimensity 9200 Plus (MT6985W)")
        for backend in ("cpu", "gpu")
    ]
    launches = tuple(replace(run.launches[0], target=target) for target in targets)
    shown = texts(latency_svg(summarize(replace(run, launches=launches)), "x"))
    labels = [one for one in shown if one.endswith("1 thread")]
    assert len(set(labels)) == 4
    assert all("fp32" in one or "tflite" in one for one in labels)
    assert max(map(len, labels)) <= 58


def test_no_tick_is_longer_than_its_number(make_run: MakeRun) -> None:
    shown = texts(latency_svg(summarize(make_run({"a.onnx": 20.0}, rounds=2)), "x"))
    assert "0" in shown
    assert "2.5" in shown
    assert not [one for one in shown if re.fullmatch(r"\d+\.0", one)]


def test_nothing_measured_is_nothing_to_plot() -> None:
    with pytest.raises(NothingMeasured):
        latency_svg((), "x")
