"""What a CI reads is well formed, whatever the names, and says what the verdict says."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from coronet_deploy.bench.compare import match
from coronet_deploy.report.ci import (
    bencher_json,
    benchmark_action_json,
    github_commands,
    junit_xml,
)
from coronet_deploy.report.comparison import (
    comparison_json,
    comparison_markdown,
    print_comparison,
    sentences,
)
from coronet_deploy.report.pairs import filed_pairs, subjects_of
from coronet_deploy.report.regression import Bounds, Verdict
from coronet_deploy.report.verdict import EMULATED, Comparison, judge
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run, Target
from support import Cli

MakeRun = Callable[..., Run]
HOSTILE = "<b>\"'&%|`x` [red]\x1b[31m\u202e]]>\x00,:é\n::error::.onnx"


@pytest.fixture
def comparison(make_run: MakeRun) -> Comparison:
    """Two rows of a hostile name, the first slower and the second invalid, and two same."""
    base = make_run({HOSTILE: 10.0, "plain.onnx": 20.0}, rounds=10)
    now = make_run({HOSTILE: 12.0, "plain.onnx": 20.0}, rounds=10, id="now")
    broken = now.launches[1]
    assert broken.target.threads == 2
    failed = replace(broken, samples_ms=(), error=HOSTILE)
    now = replace(now, launches=(now.launches[0], failed, *now.launches[2:]))
    pairs = filed_pairs(base, now, match(subjects_of(base), subjects_of(now)).pairs)
    return Comparison(judge(pairs, Bounds()), Bounds(), no_base=(HOSTILE,), notes=(HOSTILE,))


def test_junit_parses_back_with_a_failure_an_error_and_a_skip(comparison: Comparison) -> None:
    suite = ET.fromstring(junit_xml(comparison).encode()).find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    cases = suite.findall("testcase")
    assert [case[0].tag for case in cases] == [
        "failure", "error", "system-out", "system-out", "skipped",
    ]  # fmt: skip
    assert (cases[0].get("name") or "").startswith("<b>\"'&%|`x` [red]")
    assert "1.2" in (cases[0][0].get("message") or "")
    assert (cases[1][0].get("message") or "").startswith("invalid; 1 of 10 launches")


def test_the_test_is_called_exact_where_it_is(make_run: MakeRun) -> None:
    for rounds, told in (
        (10, "exact rank test on medians"),
        (201, "; rank test, normal where launches are many, on medians"),
    ):
        base, now = (make_run({"a.onnx": 10.0}, rounds=rounds, id=one) for one in ("base", "now"))
        rows = judge(
            filed_pairs(base, now, match(subjects_of(base), subjects_of(now)).pairs), Bounds()
        )
        assert told in " ".join(sentences(Comparison(rows, Bounds())))


def test_inconclusive_is_an_error_unless_it_is_accepted(comparison: Comparison) -> None:
    row = replace(comparison.rows[2], verdict=Verdict.INCONCLUSIVE, reason="about 20 launches")
    one = replace(comparison, rows=(row,), no_base=())
    assert 'errors="1"' in junit_xml(one)
    assert 'errors="0"' in junit_xml(one, inconclusive_ok=True)
    assert github_commands(one)[0].startswith(
        "::warning title=plain.onnx on host cpu%2C 1 thread::"
    )


def test_of_more_rows_than_github_shows_the_most_serious_are_told(comparison: Comparison) -> None:
    slower, invalid, same = comparison.rows[:3]
    assert slower.shift is not None
    ratios = [1.1 + 0.01 * place for place in range(11)]
    many = [replace(slower, shift=replace(slower.shift, ratio=ratio)) for ratio in ratios]
    unsure = replace(same, verdict=Verdict.INCONCLUSIVE)
    lines = github_commands(replace(comparison, rows=(unsure, invalid, *many, unsure)))
    assert [line.split()[0] for line in lines] == ["::error"] * 10 + ["::warning"] * 2
    told = [float(re.findall(r"slower: ([0-9.]+) times", line)[0]) for line in lines[:9]]
    assert told == pytest.approx(ratios[:1:-1])
    assert lines[9].endswith("::3 more rows are slower or invalid: the table has all of them")
    ten = github_commands(replace(comparison, rows=(invalid, *many[:9])))
    assert len(ten) == 10
    assert "::invalid" in ten[9]


def test_a_name_cannot_start_a_workflow_command(comparison: Comparison) -> None:
    lines = github_commands(comparison)
    assert len(lines) == 2
    for line in lines:
        assert "\n" not in line
        head, _, message = line.removeprefix("::error title=").partition("::")
        assert "%0A%3A%3Aerror%3A%3A.onnx" in head
        assert ":" not in head
        assert "," not in head
        assert message


def test_benchmark_formats_hold_the_candidate_and_no_invalid_row(comparison: Comparison) -> None:
    metrics = json.loads(bencher_json(comparison))
    entries = json.loads(benchmark_action_json(comparison))
    assert len(metrics) == len(entries) == 3
    name = f"{HOSTILE} on host cpu, 1 thread"
    latency = metrics[name]["latency"]
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]
    assert latency["value"] == pytest.approx(12e6, rel=0.05)  # ns
    assert (entries[0]["name"], entries[0]["unit"]) == (name, "ms")
    assert entries[0]["value"] == pytest.approx(latency["value"] / 1e6)
    assert entries[0]["range"].startswith("± ")
    assert entries[0]["extra"].startswith("slower: ")


def test_the_table_fits_80_columns_and_markdown_keeps_its_cells(comparison: Comparison) -> None:
    out = io.StringIO()
    print_comparison(comparison, out)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "\x1b" not in out.getvalue()
    assert "slower" in out.getvalue()
    lines = comparison_markdown(comparison).splitlines()
    assert len(lines[:6]) == 6
    assert all(line.replace("\\|", "").count("|") == 8 for line in lines[:6])
    assert json.loads(json.dumps(comparison_json(comparison, [])))["no_base"] == [HOSTILE]


def names_in_outputs(comparison: Comparison) -> dict[str, list[str]]:
    """Return the names that each output gives the measured rows."""
    suite = ET.fromstring(junit_xml(comparison).encode()).find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    rows = len(comparison.rows)
    return {
        "junit": [case.get("name") or "" for case in suite.findall("testcase")][:rows],
        "github": [line.split("::")[1] for line in github_commands(comparison)],
        "bmf": list(json.loads(bencher_json(comparison))),
        "action": [entry["name"] for entry in json.loads(benchmark_action_json(comparison))],
    }


def test_emulated_rows_are_called_so_wherever_no_note_stands_beside_them(
    comparison: Comparison,
) -> None:
    for names in names_in_outputs(comparison).values():
        assert not any("(emulated)" in name for name in names)
    for names in names_in_outputs(replace(comparison, notes=(EMULATED,))).values():
        assert names
        assert all(name.endswith(" (emulated)") for name in names)


def test_junit_holds_the_notes_a_line_each(comparison: Comparison) -> None:
    def told(one: Comparison) -> str | None:
        return ET.fromstring(junit_xml(one).encode()).findtext("testsuite/system-out")  # noqa: S314 - our own

    assert (told(comparison) or "").startswith("<b>\"'&%|`x` [red]")
    assert told(replace(comparison, notes=(EMULATED, "Two\nlines."))) == (
        f"{EMULATED}\nTwo\N{REPLACEMENT CHARACTER}lines."
    )
    assert told(replace(comparison, notes=())) is None


def test_two_emulated_run_files_are_called_so_in_every_file_of_compare(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    base = write_run(make_run({"a.onnx": 10.0}, rounds=10, emulated=True), tmp_path)
    slower = make_run({"a.onnx": 13.0}, rounds=10, emulated=True, id="now")
    outputs = {flag: tmp_path / flag for flag in ("junit", "bmf", "benchmark-action", "markdown")}
    flags = [word for flag, path in outputs.items() for word in (f"--{flag}", path)]
    done = cli("compare", base, write_run(slower, tmp_path), "--github", *flags)
    assert done.returncode == 1, done.stderr
    for flag, path in outputs.items():
        if flag != "markdown":
            assert "a.onnx on host cpu, 1 thread (emulated)" in path.read_text("utf-8"), flag
    assert "a.onnx on host cpu%2C 2 threads (emulated)::" in done.stderr
    told = ET.fromstring(outputs["junit"].read_text("utf-8")).findtext("testsuite/system-out")  # noqa: S314 - our own
    assert EMULATED in (told or "").splitlines()
    assert EMULATED in outputs["markdown"].read_text("utf-8")


def on_back_ends(run: Run, backends: tuple[str, ...], device: str = "sm8550") -> Run:
    """Return `run` with the rows of one thread, on a phone's back ends."""
    launches = tuple(
        replace(one, target=replace(one.target, device=device, backend=backend))
        for backend in backends
        for one in run.launches
        if one.target.threads == 1
    )
    return replace(run, launches=launches)


def test_rows_of_several_back_ends_are_told_apart_and_the_phone_is_named(make_run: MakeRun) -> None:
    base = on_back_ends(make_run({"a.onnx": 10.0}), ("cpu", "gpu"))
    pairs = filed_pairs(base, base, match(subjects_of(base), subjects_of(base)).pairs)
    comparison = Comparison(judge(pairs, Bounds()), Bounds())
    lines = comparison_markdown(comparison).splitlines()
    assert lines[0].startswith("| Artifact | Back end | Threads | Base ms |")
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    assert [line[:19] for line in lines[2:4]] == ["| a.onnx | cpu | 1 ", "| a.onnx | gpu | 1 "]
    assert "- Measured on sm8550 cpu, sm8550 gpu." in lines
    out = io.StringIO()
    print_comparison(replace(comparison, notes=(EMULATED,)), out)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert re.search(r"a\.onnx +gpu +1 ", out.getvalue())
    assert "Measured on sm8550 cpu (emulated), sm8550 gpu (emulated)." in out.getvalue()


def test_long_names_on_two_phones_fit_a_terminal(make_run: MakeRun) -> None:
    start = "horse2zebra-of-a-long-name_256x256_"
    base = make_run({f"{start}fp32.tflite": 10.0, f"{start}int8.tflite": 5.0}, rounds=4)
    phones = "Snapdragon 8 Gen 2 (SM8550)", "Dimensity 9200 (MT6985)"
    launches = tuple(
        replace(one, target=Target(phone, backend, 1))
        for phone, backend in zip(phones, ("cpu", "gpu"), strict=True)
        for one in base.launches
        if one.target.threads == 1
    )
    run = replace(base, launches=launches)
    pairs = filed_pairs(run, run, match(subjects_of(run), subjects_of(run)).pairs)
    rows = tuple(replace(row, verdict=Verdict.INCONCLUSIVE) for row in judge(pairs, Bounds()))
    out = io.StringIO()
    print_comparison(Comparison(rows, Bounds()), out)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert f"Names start with {start}" in out.getvalue()
    assert len(re.findall(r"  inconclusive *$", out.getvalue(), re.MULTILINE)) == 4


def test_a_row_that_one_run_file_lacks_is_named_in_every_output(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    both = make_run({"a.onnx": 10.0, "b.tflite": 20.0})
    one = tuple(launch for launch in both.launches if launch.target.threads == 1)
    fewer = tuple(launch for launch in one if launch.artifact == "a.onnx")
    kept = {"a.onnx": both.artifacts["a.onnx"]}
    now = replace(both, id="now", launches=fewer, artifacts=kept)
    files = write_run(both, tmp_path), write_run(now, tmp_path)
    done = cli("compare", *files, "--json", "--junit", tmp_path / "j.xml")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["threads"] for row in told["rows"]] == [1]
    lone = ["b.tflite", "a.onnx on host cpu, 2 threads"]
    assert (told["no_candidate"], told["no_base"]) == (lone, [])
    suite = ET.fromstring((tmp_path / "j.xml").read_text()).find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    assert (suite.get("tests"), suite.get("skipped")) == ("3", "2")
    skipped = [case for case in suite.findall("testcase") if case.find("skipped") is not None]
    assert [case.get("name") for case in skipped] == lone
    assert {case[0].get("message") for case in skipped} == {"only the base has it"}
    turned = cli("compare", *reversed(files))
    assert "a.onnx on host cpu, 2 threads: no baseline, not compared." in turned.stdout


def test_no_workflow_command_drives_a_terminal(comparison: Comparison) -> None:
    for line in github_commands(comparison):
        assert line.isprintable()
