"""The plot: the same bytes every time, readable on light and dark, and safe to stand in a page."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

from coronet_deploy.errors import NothingMeasured
from coronet_deploy.report.plots import latency_svg
from coronet_deploy.report.summary import summarize
from coronet_deploy.vocabulary import Run

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


def test_the_same_rows_give_the_same_bytes_in_another_process(make_run: MakeRun) -> None:
    rows = summarize(make_run())
    here = latency_svg(rows, "x")
    code = (
        "import sys, pickle; from coronet_deploy.report.plots import latency_svg; "
        "sys.stdout.write(latency_svg(pickle.load(sys.stdin.buffer), 'x'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(rows), capture_output=True, check=True
    )
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


def test_nothing_measured_is_nothing_to_plot() -> None:
    with pytest.raises(NothingMeasured):
        latency_svg((), "x")
