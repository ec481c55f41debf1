"""Latency against multiply-adds, quality and earlier days: the figures, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.report.history import open_past
from coronet_deploy.report.html import render_report
from coronet_deploy.report.lines import lines_of
from coronet_deploy.report.scatter import quality_svg, work_svg
from coronet_deploy.report.tradeoffs import (
    choices,
    metric_of,
    read_judgements,
    unmatched,
    without_ideal,
    works,
)
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import DType, Run
from support import Cli

MakeRun = Callable[..., Run]
NAMES = ("full.onnx", "small.onnx")


def judgement(folder: Path, name: str, digest: str, psnr: float = 20.0, **changes: Any) -> Path:
    likeness = {"mean": psnr, "worst": psnr / 2}
    plain: dict[str, Any] = {
        "sha256": digest, "direction": "AtoB", "size": [256, 256], "generated": 100, "true": 100,
        "likeness": {"psnr_db": likeness, "ssim": likeness, "l1": likeness}, "distances": [],
    }  # fmt: skip
    path = folder / name
    path.write_text(json.dumps(plain | changes))
    return path


def test_the_ideal_is_the_twins_time_by_the_share_of_multiply_adds(pruned: Run) -> None:
    found = works(lines_of(pruned))
    assert len(found) == 4
    small = [work for work in found if work.line.row.artifact == "small.onnx"]
    for work in small:
        twin = next(
            one
            for one in found
            if one.line.row.artifact == "full.onnx" and one.line.row.target == work.line.row.target
        )
        assert work.ideal_ms == pytest.approx(twin.median_ms / 8)
        assert work.over_ideal == pytest.approx(8 * work.median_ms / twin.median_ms)
    assert {work.ideal_ms for work in found if work not in small} == {None}


def test_the_plot_of_multiply_adds_is_drawn_where_the_figures_are(pruned: Run) -> None:
    svg = work_svg(works(lines_of(pruned)), "Latency & work", "w")
    root = ET.fromstring(svg)  # noqa: S314 - our own
    ns = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{ns}title") == "Latency & work"
    texts = ["".join(element.itertext()) for element in root.iter(f"{ns}text")]
    assert {"1 thread", "2 threads", "host cpu, 1 thread"} & set(texts)
    assert len(re.findall("stroke-dasharray", svg)) == 2
    assert svg == work_svg(works(lines_of(pruned)), "Latency & work", "w")


def in_numbers(run: Run, dtypes: Mapping[str, str]) -> Run:
    """Return `run` with its artifacts' types of numbers changed to `dtypes`."""
    manifests = {
        name: {**one, "dtype": dtypes.get(name, one["dtype"])}
        for name, one in run.artifacts.items()
    }
    return replace(run, artifacts=manifests)


def test_a_twin_in_other_numbers_gives_no_ideal_and_the_page_says_so(pruned: Run) -> None:
    run = in_numbers(pruned, {"small.onnx": "int8-full"})
    found = works(lines_of(run))
    assert {work.ideal_ms for work in found} == {None}
    assert without_ideal(found) == ["small in int8-full (onnx)"]
    svg = work_svg(found, "Latency", "w")
    assert "stroke-dasharray" not in svg
    assert "dashed" not in svg
    page = render_report(run)
    assert "No unpruned twin in the same numbers was measured beside small in int8-full" in page
    assert "Over ideal" not in page
    both = in_numbers(pruned, dict.fromkeys(NAMES, "int8-full"))
    assert without_ideal(works(lines_of(both))) == []
    assert "Over ideal" in render_report(both)


def test_one_network_alone_is_not_set_against_multiply_adds(pruned: Run) -> None:
    launches = tuple(one for one in pruned.launches if one.artifact == "small.onnx")
    page = render_report(replace(pruned, launches=launches))
    assert "Latency against multiply-adds" not in page


def test_the_legend_names_every_type_apart_and_in_order(pruned: Run) -> None:
    types = [*DType, "int4"]
    artifacts = {
        f"{name}.onnx": {**pruned.artifacts["small.onnx"], "dtype": name} for name in types
    }
    launches = tuple(
        replace(one, artifact=name)
        for name in artifacts
        for one in pruned.launches
        if one.artifact == "small.onnx"
    )
    run = replace(pruned, artifacts=artifacts, launches=launches)
    svg = work_svg(works(lines_of(run)), "Latency", "w")
    root = ET.fromstring(svg)  # noqa: S314 - our own
    places: dict[str, tuple[float, float]] = {}
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        text = "".join(element.itertext()).strip()
        if text in types:
            places[text] = float(element.get("x", "")), float(element.get("y", ""))
    assert list(places) == types
    # Wide enough for what a browser draws: 9 px high, letters are some 5.5 px wide.
    for (name, (x, y)), (_, (after, below)) in pairwise(places.items()):
        assert below > y or after > x + 5.5 * len(name)
        assert x + 5.5 * len(name) < 375


def test_the_unbeaten_rows_are_those_that_no_other_beats_in_both(
    pruned: Run, tmp_path: Path
) -> None:
    lines = lines_of(pruned)
    better = read_judgements(
        [judgement(tmp_path, "f", "1" * 64, 25.0), judgement(tmp_path, "s", "2" * 64, 20.0)]
    )
    assert {choice.best for choice in choices(lines, pruned, better)} == {True}
    worse = read_judgements(
        [judgement(tmp_path, "f", "1" * 64, 19.0), judgement(tmp_path, "s", "2" * 64, 20.0)]
    )
    chosen = choices(lines, pruned, worse)
    assert {one.line.row.artifact for one in chosen if one.best} == {"small.onnx"}
    assert len(chosen) == 4
    assert "best of its target" in quality_svg(chosen, metric_of(worse), "x", "q")


def test_a_distance_is_better_when_lower_and_goes_before_psnr(pruned: Run, tmp_path: Path) -> None:
    def kid(value: float) -> dict[str, Any]:
        rows = [("SqueezeNet-FD", 100 - value), ("SqueezeNet-KID", value)]
        return {"distances": [{"name": n, "value": v, "features_sha256": "ab"} for n, v in rows]}

    judged = read_judgements(
        [
            judgement(tmp_path, "f", "1" * 64, **kid(2.0)),
            judgement(tmp_path, "s", "2" * 64, **kid(1.0)),
        ]
    )
    assert (metric_of(judged).name, metric_of(judged).higher_is_better) == ("SqueezeNet-KID", False)
    best = {one.line.row.artifact for one in choices(lines_of(pruned), pruned, judged) if one.best}
    assert best == {"small.onnx"}


def test_without_judgements_parity_is_shown_and_called_so(pruned: Run) -> None:
    assert metric_of([]).is_parity
    page = render_report(pruned)
    assert "No judgement of quality was given" in page
    assert "It tells what the export lost, not how good the pictures are." in page


def test_a_phone_that_draws_this_hosts_very_picture_is_no_nearer_to_torch(pruned: Run) -> None:
    def shown(on_device: float, run: Run) -> set[float | None]:
        parity = {"parity": {"psnr_db": on_device, "bound_db": 60.0}}
        launches = [replace(one, details={**one.details, **parity}) for one in run.launches]
        lines = lines_of(replace(run, launches=tuple(launches)))
        assert {one.quality for one in choices(lines, run, [])} <= {one.psnr_db for one in lines}
        return {one.psnr_db for one in lines}

    assert shown(200.0, pruned) == {108.31}
    assert shown(65.5, pruned) == {65.5}
    # What is not known against torch is not told by another comparison.
    assert shown(65.5, replace(pruned, artifacts={key: {} for key in pruned.artifacts})) == {None}


def test_judgements_on_other_grounds_are_refused_by_what_differs(tmp_path: Path) -> None:
    one = judgement(tmp_path, "one.json", "1" * 64)
    other = judgement(tmp_path, "other.json", "2" * 64, generated=50)
    with pytest.raises(
        BadInput, match=r"one\.json and .*other\.json differ in generated: 100 and 50"
    ):
        read_judgements([one, other])


def test_judgements_of_other_pictures_are_refused_where_both_tell_theirs(tmp_path: Path) -> None:
    one = judgement(tmp_path, "one.json", "1" * 64, data="facades", data_sha256="a" * 64)
    same = judgement(tmp_path, "same.json", "2" * 64, data="moved", data_sha256="a" * 64)
    old = judgement(tmp_path, "old.json", "3" * 64, data="facades")
    other = judgement(tmp_path, "other.json", "4" * 64, data="maps", data_sha256="b" * 64)
    assert len(read_judgements([old, one, same])) == 3
    with pytest.raises(
        BadInput,
        match=r"one\.json and .*other\.json were judged on .*: those in facades and in maps",
    ):
        read_judgements([old, one, same, other])


def test_a_judgement_of_nothing_here_is_told(pruned: Run, tmp_path: Path) -> None:
    path = judgement(tmp_path, "stranger.json", "9" * 64)
    assert unmatched(read_judgements([path]), [pruned]) == [str(path)]
    with pytest.raises(BadInput, match=r"stranger\.json judges no artifact of the runs"):
        render_report(pruned, judgements=read_judgements([path]))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"likeness": 3}', '{"sha256": "x", "likeness"'])
def test_what_evaluate_did_not_write_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"q\.json is not what `evaluate --json` writes"):
        read_judgements([path])


def warm(order: int) -> dict[str, Any]:
    again = [{"reason": "slower"}] if order == 0 else []
    return {"canary_ms": 50.5 + order / 100, "skin_c": 33.5, "throttled_launches": again}


def test_the_command_shows_it_all_and_every_identifier_once(
    cli: Cli, pruned: Run, tmp_path: Path
) -> None:
    first = datetime(2025, 11, 1, tzinfo=UTC)
    for day in range(16):
        created = (first + timedelta(days=day)).isoformat(timespec="seconds")
        factor = 1.2 if day < 8 else 1.0 + 0.002 * (day % 3)
        launches = tuple(
            replace(one, samples_ms=tuple(factor * sample for sample in one.samples_ms))
            for one in pruned.launches
        )
        earlier = replace(pruned, id=f"day{day:02d}", created=created, launches=launches)
        write_run(earlier, tmp_path / "runs")
    path = write_run(pruned, tmp_path)
    phone = replace(
        pruned, id="phone", emulated=True,
        conditions={
            "device": "sm8550",
            "emulated_because": "it is a virtual phone",
            "before": {"skin_c": 31.25, "policies": [{"cpus": [0, 1, 2, 3], "governor": "none"}],
                       "unavailable": {"gpu_c": "no such zone"}},
            "after": {"skin_c": 35.5, "policies": [{"cpus": [0, 1, 2, 3], "governor": "none"}]},
            "clusters": [{"cpus": [0, 1, 2, 3], "core": "Cortex-A510"}],
        },
        launches=tuple(
            replace(one, details={**one.details, **warm(one.order)}) for one in pruned.launches
        ),
    )  # fmt: skip
    other = write_run(phone, tmp_path)
    done = cli(
        "report", path, other, "--format", "html", "--history", tmp_path / "runs", "--quality",
        judgement(tmp_path, "q.json", "2" * 64, 21.5), "--output", tmp_path / "page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    for words in (
        "Latency against multiply-adds", "Quality against latency", "21.5", "Not judged",
        "2025-11-09 (-16", "PELT, ruptures", "it is a virtual phone", "31.25", "35.5",
        "no such zone", "Cortex-A510", "0 to 3", "1, because the phone throttled",
        "50.50 to", "Run phone",
    ):  # fmt: skip
        assert words in page, words
    identifiers = re.findall(r' id="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    for reference in re.findall(r'(?:href="#|url\(#)([^")]*)', page):
        assert reference in identifiers
    with open_past(str(tmp_path / "runs")) as past:
        assert render_report(pruned, past=past) == render_report(pruned, past=past)
    wrong = cli("report", path, "--history", tmp_path / "runs")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--format html" in wrong.stderr


def test_run_files_behind_the_quality_flag_are_taken_for_runs(
    cli: Cli, pruned: Run, tmp_path: Path
) -> None:
    first, second = (write_run(replace(pruned, id=name), tmp_path) for name in ("a", "b"))
    quality = judgement(tmp_path, "q.json", "2" * 64, 21.5)
    page = cli("report", "--format", "html", "--quality", quality, first, second)
    assert page.returncode == 0, page.stderr
    plain = cli("report", "--format", "html", first, second, "--quality", quality)
    assert page.stdout == plain.stdout
    for line, told in (
        (["--quality", quality], "RUN is missing"),
        (["--quality", first], "RUN is missing"),
        (["--quality", quality, tmp_path / "no.json"], "no.json does not exist"),
        ([first, "--quality", second], f"--quality {second} is not what"),
    ):
        done = cli("report", "--format", "html", *line)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
