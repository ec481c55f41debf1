"""Several runs on one page: whose a row, a mark or a file is, and what is judged beside what."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from coronet_deploy.report.history import open_past
from coronet_deploy.report.html import render_report
from coronet_deploy.report.lines import lines_of
from coronet_deploy.report.scatter import quality_svg, work_svg
from coronet_deploy.report.series import run_names
from coronet_deploy.report.tradeoffs import Choice, choices, metric_of, read_judgements, works
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run

SVG = "{http://www.w3.org/2000/svg}"


def again(run: Run, number: int, *, emulated: bool = False, factor: float = 1.0) -> Run:
    """Return another run of the same artifacts and targets, `factor` times as slow."""
    launches = tuple(
        replace(one, samples_ms=tuple(factor * sample for sample in one.samples_ms))
        for one in run.launches
    )
    created = f"2026-01-0{number}T00:00:00+00:00"
    return replace(run, id=f"r{number}", created=created, launches=launches, emulated=emulated)


def chosen_of(*runs: Run) -> list[Choice]:
    return [one for run in runs for one in choices(lines_of(run), run, [])]


def entries(svg: str) -> dict[str, str]:
    """Return the legend's names of series, each with the colour of its mark."""
    root = ET.fromstring(svg)  # noqa: S314 - our own
    legend = next(one for one in root.iter() if one.get("id", "").endswith("axes_2"))
    marks = (re.search(r"--plot-\d", one.get("style", "")) for one in legend.iter(f"{SVG}use"))
    texts = ["".join(one.itertext()).strip() for one in legend.iter(f"{SVG}text")]
    names = [text for text in texts if "thread" in text]
    return dict(zip(names, [mark[0] for mark in marks if mark], strict=True))


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)  # noqa: S314 - our own
    return ["".join(one.itertext()).strip() for one in root.iter(f"{SVG}text")]


def steps(svg: str) -> list[str]:
    """Return the colours of the lines through more than one point, axes and grid apart."""
    lines = re.findall(r'<path d="M [^"]*\nL [^"]*" clip-path[^>]*style="([^"]*)"', svg)
    return [found[0] for line in lines if (found := re.findall(r"--plot-\d", line))]


def test_a_real_and_an_emulated_run_of_one_target_are_two_series(pruned: Run) -> None:
    runs = (pruned, again(pruned, 3, emulated=True))
    for svg in (
        work_svg([one for run in runs for one in works(lines_of(run))], "x", "w"),
        quality_svg(chosen_of(*runs), metric_of([]), "x", "q"),
    ):
        shown = entries(svg)
        assert list(shown) == [
            "host cpu, 1 thread", "host cpu, 2 threads",
            "host cpu, 1 thread (emulated)", "host cpu, 2 threads (emulated)",
        ]  # fmt: skip
        assert len(set(shown.values())) == 4
    page = render_report(pruned, more=runs[1:])
    for identifier in ("work-table", "quality-table"):
        body = page.partition(f'id="{identifier}"')[2].partition("</table>")[0]
        assert set(re.findall('<th scope="row">(.*?)</th>', body)) == {
            "1 thread", "2 threads", "1 thread (emulated)", "2 threads (emulated)",
        }  # fmt: skip


def test_two_runs_of_one_target_are_told_apart_by_their_days(pruned: Run) -> None:
    runs = (pruned, again(pruned, 3, factor=1.5))
    svg = quality_svg(chosen_of(*runs), metric_of([]), "x", "q")
    assert list(entries(svg)) == [
        "host cpu, 1 thread, 2026-01-02", "host cpu, 2 threads, 2026-01-02",
        "host cpu, 1 thread, 2026-01-03", "host cpu, 2 threads, 2026-01-03",
    ]  # fmt: skip
    assert "small.onnx on host cpu, 1 thread, 2026-01-03: " in svg
    page = render_report(pruned, more=runs[1:])
    assert '<th scope="row">2 threads, 2026-01-03</th>' in page


def test_a_run_of_other_artifacts_needs_no_name(pruned: Run) -> None:
    first, second = (
        replace(run, launches=tuple(one for one in run.launches if one.artifact == name))
        for run, name in ((pruned, "full.onnx"), (again(pruned, 3), "small.onnx"))
    )
    svg = quality_svg(chosen_of(first, second), metric_of([]), "x", "q")
    assert list(entries(svg)) == ["host cpu, 1 thread", "host cpu, 2 threads"]


def test_no_name_is_too_long_for_the_legend(pruned: Run) -> None:
    launches = tuple(
        replace(one, target=replace(one.target, device="sm8550 of the third shelf, left"))
        for one in pruned.launches
    )
    run = replace(pruned, launches=launches)
    runs = (again(run, 3, emulated=True), again(run, 4, emulated=True))
    shown = list(entries(quality_svg(chosen_of(*runs), metric_of([]), "x", "q")))
    assert len(shown) == 4
    assert max(map(len, shown)) <= 54
    assert shown[0].startswith("sm8550 of")
    assert shown[0].endswith(", 2026-01-03 (emulated)")


def test_nothing_is_beaten_by_another_run_and_a_line_joins_one_runs_points(pruned: Run) -> None:
    better = {"parity": {**pruned.artifacts["full.onnx"]["parity"], "psnr_db": 120.0}}
    manifests = {**pruned.artifacts, "full.onnx": {**pruned.artifacts["full.onnx"], **better}}
    run = replace(pruned, artifacts=manifests)
    slower = again(run, 3, factor=1.5)
    chosen = chosen_of(run, slower)
    assert [one.best for one in chosen] == [True] * 8
    svg = quality_svg(chosen, metric_of([]), "x", "q")
    assert sorted(steps(svg)) == sorted(set(entries(svg).values()))
    assert len(steps(svg)) == 4
    assert "no other of its target and run is faster and better" in svg
    page = render_report(run, more=[slower])
    assert "Unbeaten: no other row of the same target and run is faster and at least" in page
    alone = render_report(run)
    assert "Unbeaten: no other row of the same target is faster and at least as good" in alone
    assert "no other of its target is faster and better" in alone
    assert "2026-01-02</th>" not in alone


def test_an_emulated_run_alone_is_named_on_top_only(pruned: Run) -> None:
    alone = again(pruned, 3, emulated=True)
    assert "(emulated)" not in render_report(alone)
    assert "Emulated, not a real device." in render_report(alone)


def test_what_only_another_run_judged_is_named_with_its_run(pruned: Run, tmp_path: Path) -> None:
    exported_anew = tuple(replace(one, artifact_sha256="3" * 64) for one in pruned.launches)
    later = replace(again(pruned, 3), launches=exported_anew)
    path = tmp_path / "q.json"
    likeness = {key: {"mean": 20.0} for key in ("psnr_db", "ssim", "l1")}
    path.write_text(
        json.dumps(
            {"sha256": "2" * 64, "direction": "AtoB", "size": [256, 256], "generated": 9,
             "true": 9, "likeness": likeness, "distances": []}
        )
    )  # fmt: skip
    judged = read_judgements([path])
    page = render_report(pruned, more=[later], judgements=judged)
    assert "Not judged, so not shown: full.onnx, small.onnx (2026-01-03)." in page


def test_a_file_that_changed_stands_on_the_page_once_for_each_run(pruned: Run) -> None:
    changed = {**pruned.artifacts["small.onnx"], "sha256": "3" * 64, "bytes": 1_000_000}
    later = again(pruned, 3)
    later = replace(later, artifacts={**later.artifacts, "small.onnx": changed})
    page = render_report(pruned, more=[later])
    names = re.findall(r'<th scope="row">([^"]*)<code', page)
    assert [re.sub("<wbr>", "", name) for name in names] == [
        "full.onnx", "small.onnx (2026-01-02)", "small.onnx (2026-01-03)",
    ]  # fmt: skip
    assert "smallest artifact" in page
    assert "1.0 MB" not in page  # the figures on top are the first run's


def test_runs_of_one_day_have_headings_of_their_own(pruned: Run) -> None:
    twin = replace(pruned, id="r3")
    headings = re.findall("<h3>(Measured.*?)</h3>", render_report(pruned, more=[twin]))
    assert len(set(headings)) == 2
    assert headings[1] == "Measured on host (Some CPU), 2026-01-02. Run r3."


def test_runs_of_one_day_are_called_by_their_minute_and_its_zone(pruned: Run) -> None:
    name = run_names([("a", pruned.created), ("b", "2026-01-02T23:30:00+09:00")])
    assert name == {"a": "2026-01-02 03:04 UTC", "b": "2026-01-02 14:30 UTC"}
    # A day is that of UTC too, and what is no date is what it is.
    name = run_names([("a", pruned.created), ("b", "2026-01-02T23:30:00-05:00"), ("c", "soon")])
    assert name == {"a": "2026-01-02", "b": "2026-01-03", "c": "soon"}


def test_the_figures_on_top_stand_under_the_run_that_they_are_of(pruned: Run) -> None:
    other = tuple(
        replace(one, target=replace(one.target, device="sm8550"), samples_ms=(), error="it hung")
        for one in pruned.launches
    )
    failed = replace(pruned, id="r3", created="2026-01-03T03:04:05+00:00", launches=other)

    def top(page: str) -> str:
        return page.partition("</header>")[0]

    shown = top(render_report(failed, more=[pruned]))
    assert "Measured on host (Some CPU), 2026-01-02. 1 more run is below." in shown
    assert "sm8550" not in shown
    assert "2 more runs are below." in top(render_report(pruned, more=[failed, again(pruned, 4)]))
    assert "below" not in top(render_report(pruned))


def test_each_run_has_a_history_of_its_own_name(pruned: Run, tmp_path: Path) -> None:
    write_run(again(pruned, 1), tmp_path)
    with open_past(str(tmp_path)) as past:
        page = render_report(pruned, more=[again(pruned, 3)], past=past)
        alone = render_report(pruned, past=past)
    for name in ("full.onnx, 2026-01-02", "small.onnx, 2026-01-03"):
        assert f"{name}, 2 threads: 1 earlier sessions" in page
        body = page.partition('id="history-table"')[2].partition("</table>")[0]
        assert f">{name}</th>" in body.replace("<wbr>", "")
    assert "full.onnx, 2 threads: 1 earlier sessions" in alone


def test_more_series_than_colours_are_told_apart_by_numbers(pruned: Run) -> None:
    few = (pruned, again(pruned, 3))
    assert not [
        text for text in texts(quality_svg(chosen_of(*few), metric_of([]), "x", "q")) if text == "1"
    ]
    runs = (*few, again(pruned, 4))
    for svg in (
        work_svg([one for run in runs for one in works(lines_of(run))], "x", "w"),
        quality_svg(chosen_of(*runs), metric_of([]), "x", "q"),
    ):
        assert list(entries(svg))[::5] == [
            "1: host cpu, 1 thread, 2026-01-02", "6: host cpu, 2 threads, 2026-01-04",
        ]  # fmt: skip
        # Two artifacts in each series.
        root = ET.fromstring(svg)  # noqa: S314 - our own
        plot = next(one for one in root.iter() if one.get("id", "").endswith("axes_1"))
        said = ["".join(one.itertext()).strip() for one in plot if one.get("id", "").count("text_")]
        assert sorted(one for one in said if one.isdecimal()) == sorted("123456" * 2)
