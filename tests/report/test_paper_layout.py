"""The paper layout where a cell has several claimants, and what the layouts' legends say."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from coronet_deploy.report.grid import print_grids
from coronet_deploy.report.layouts import Layout, grids_of, legend
from coronet_deploy.report.lines import Line, lines_of
from coronet_deploy.vocabulary import Run

MakeRun = Callable[..., Run]
NEWEST = "Where several runs measured the same, the newest one's figure is shown."


def lines_named(make_run: MakeRun, medians: dict[str, float], **told: object) -> tuple[Line, ...]:
    """Return the lines of one thread of a run whose artifacts are all of one model and type."""
    run = make_run(medians)
    manifest = {**run.artifacts[next(iter(medians))], "model": "m", **told}
    launches = tuple(one for one in run.launches if one.target.threads == 1)
    return lines_of(replace(run, launches=launches, artifacts=dict.fromkeys(medians, manifest)))


def test_two_files_of_one_model_and_type_have_a_column_each(make_run: MakeRun) -> None:
    sizes = {"m_256x256_fp32.onnx": 10.0, "m_512x512_fp32.onnx": 40.0}
    lines = lines_named(make_run, sizes)
    latency, cost, size = grids_of(Layout.PAPER, lines)
    assert latency.heads == ("Chipset", "Type", "m_256x256", "m_512x512")
    assert len(latency.lines) == 1
    small, large = map(float, latency.lines[0][2:])
    assert large > 3 * small
    assert [line[0] for line in cost.lines] == list(size.heads[1:]) == ["m_256x256", "m_512x512"]
    assert NEWEST not in legend(Layout.PAPER, lines)
    # Names that differ in nothing but their types' spelling stand whole.
    alike = lines_named(make_run, {"m_fp32.onnx": 10.0, "m.onnx": 40.0})
    assert grids_of(Layout.PAPER, alike)[0].heads[2:] == ("m_fp32.onnx", "m.onnx")
    # One file of the model needs no more than its name.
    alone = lines_named(make_run, {"m_256x256_fp32.onnx": 10.0})
    assert grids_of(Layout.PAPER, alone)[0].heads[2:] == ("m",)


def test_rows_are_in_the_order_of_their_threads(make_run: MakeRun) -> None:
    run = make_run({"m.onnx": 10.0})
    launches = tuple(
        replace(one, target=replace(one.target, threads=threads))
        for one in run.launches
        for threads in (one.target.threads, 8 * one.target.threads)
    )
    latency = grids_of(Layout.PAPER, lines_of(replace(run, launches=launches)))[0]
    assert [line[2] for line in latency.lines] == ["1", "2", "8", "16"]


def test_that_the_newest_of_several_runs_is_shown_is_said(make_run: MakeRun) -> None:
    first = make_run()
    later = replace(first, id="later", created="2026-01-09T00:00:00+00:00")
    once = lines_of(first)
    assert NEWEST not in legend(Layout.PAPER, once)
    assert NEWEST in legend(Layout.PAPER, [*once, *lines_of(later)])
    apart = lines_of(replace(later, emulated=True))
    assert NEWEST not in legend(Layout.PAPER, [*once, *apart])


def test_the_legend_says_which_way_a_speed_up_counts_and_over_what(make_run: MakeRun) -> None:
    lines = lines_of(make_run(), "slow.onnx")
    told = " ".join(legend(Layout.FULL, lines, "slow.onnx"))
    assert "the other file's median over the row's own" in told
    assert "above 1x the row is the faster" in told
    assert "The base is slow.onnx." in told
    assert "speed-up" not in " ".join(legend(Layout.FULL, lines_of(make_run())))


def test_a_model_s_name_as_a_head_drives_no_terminal(make_run: MakeRun) -> None:
    lines = lines_named(make_run, {"m_fp32.onnx": 10.0}, model="m\x1b[31m\u202e")
    out = io.StringIO()
    print_grids(grids_of(Layout.PAPER, lines), out)
    assert all(line.isprintable() for line in out.getvalue().splitlines())


def test_a_table_without_a_speed_up_is_not_called_one(make_run: MakeRun) -> None:
    run = make_run({"a.onnx": 10.0, "b.onnx": 20.0})
    taken = {"nodes_taken": 4, "nodes": 4}
    run = replace(run, launches=tuple(replace(one, details=taken) for one in run.launches))
    for baseline, title in ((None, "Delegation"), ("a.onnx", "Speed-up")):
        grids = grids_of(Layout.FULL, lines_of(run, baseline))
        (told,) = (grid for grid in grids if "Taken" in grid.heads)
        assert told.title == title


def test_a_label_is_not_broken_in_the_middle_where_figures_leave_no_room(make_run: MakeRun) -> None:
    run = make_run({f"network-{letter}.onnx": 10.0 for letter in "abcdefghij"}, emulated=True)
    out = io.StringIO()
    print_grids(grids_of(Layout.PAPER, lines_of(run))[:1], out, width=80)
    assert out.getvalue().count("(emulated)") == 2
    assert "Type" in out.getvalue()
