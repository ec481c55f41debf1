"""The action for GitHub's CI and the example workflows: valid, and their scripts really run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Launch, Run, Target
from support import COMMAND

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
EXAMPLES = sorted((ROOT / "examples" / "ci").glob("*.yml"))
BASH = shutil.which("bash") or "bash"
LIKE_A_RUNNER = ("--noprofile", "--norc", "-eo", "pipefail")


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return loaded


@dataclass
class Job:
    """What a job left behind: its outputs, its summary, whether it passed, what it printed."""

    outputs: dict[str, str]
    summary: str
    path: str
    failed: str | None
    printed: str
    used: dict[str, dict[str, str]]


CONTEXT = {"github.job": "latency", "strategy.job-index": "0", "github.run_attempt": "1"}


def run_action(folder: Path, context: Mapping[str, str] = CONTEXT, /, **inputs: str) -> Job:
    """Run the action's scripts in `folder` as a runner would.

    Other actions are passed over; what they were given is kept in `used`.
    """
    action = read(ACTION)
    assert set(inputs) <= set(action["inputs"])
    values = {name: str(one.get("default", "")) for name, one in action["inputs"].items()} | inputs
    outputs: dict[str, str] = {}
    files = {name: folder / f".{name}" for name in ("output", "summary", "path")}
    for file in files.values():
        file.write_text("")

    def filled(text: str) -> str:
        known = {f"inputs.{name}": value for name, value in values.items()}
        known |= {f"steps.compare.outputs.{name}": value for name, value in outputs.items()}
        known |= {"github.action_path": str(ROOT), **context}
        value = re.sub(r"\$\{\{ ([a-z_.-]+) \}\}", lambda found: known.get(found[1], ""), text)
        assert "${{" not in value, f"{text}: more than a name"
        return value

    used: dict[str, dict[str, str]] = {}
    failed: str | None = None
    printed = ""
    for step in action["runs"]["steps"]:
        condition = step.get("if", "")
        if "inputs.install" in condition and values["install"] != "true":
            continue
        if "outputs.status" in condition and "status" not in outputs:
            continue
        if failed and "always()" not in condition:
            continue
        if "uses" in step:
            used[step["uses"]] = {name: filled(value) for name, value in step["with"].items()}
            continue
        script = folder / "script.sh"
        script.write_text(step["run"])
        environment = {
            **os.environ,
            **{name: filled(value) for name, value in step.get("env", {}).items()},
            "GITHUB_OUTPUT": str(files["output"]),
            "GITHUB_STEP_SUMMARY": str(files["summary"]),
            "GITHUB_PATH": str(files["path"]),
            "RUNNER_TEMP": str(folder),
            "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            [BASH, *LIKE_A_RUNNER, script], cwd=folder, env=environment, check=False,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        printed += done.stdout + done.stderr
        outputs |= dict(line.split("=", 1) for line in files["output"].read_text().splitlines())
        if done.returncode:
            failed = f"{step['name']}: {done.returncode}"
    outputs = {name: value for name, value in outputs.items() if name in action["outputs"]}
    summary, path = files["summary"].read_text(), files["path"].read_text()
    return Job(outputs, summary, path, failed, printed, used)


@pytest.fixture
def sides(tmp_path: Path) -> Callable[[float], tuple[str, str]]:
    """Return a function that writes two run files, the second slower by a factor."""

    def write(factor: float) -> tuple[str, str]:
        for name, level in (("base", 10.0), ("candidate", 10.0 * factor)):
            launches = tuple(
                Launch("a.onnx", "ab" * 32, Target("host", "cpu", 1), order,
                       (level * (1 + 0.001 * order),))
                for order in range(10)
            )  # fmt: skip
            created = "2026-01-01T00:00:00+00:00"
            run = Run(name, created, (), {}, {}, {"a.onnx": {"runtime": "onnx"}}, launches)
            write_run(run, tmp_path / "a folder")
        return "a folder/base.json", "a folder/candidate.json"

    return write


@pytest.mark.parametrize(
    ("schema", "paths"),
    [("vendor.github-actions", [ACTION]), ("vendor.github-workflows", EXAMPLES)],
)
def test_the_schema_accepts_them(schema: str, paths: list[Path]) -> None:
    assert paths
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_expression_is_pasted_into_a_script() -> None:
    scripts = [step["run"] for step in read(ACTION)["runs"]["steps"] if "run" in step]
    for path in EXAMPLES:
        for job in read(path)["jobs"].values():
            scripts += [step["run"] for step in job["steps"] if "run" in step]
    assert len(scripts) > 6
    for script in scripts:
        assert "${{" not in script
        subprocess.run([BASH, "-n"], input=script, text=True, check=True)


def test_the_examples_give_the_action_inputs_that_it_has() -> None:
    inputs = read(ACTION)["inputs"]
    used = 0
    for path in EXAMPLES:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("OWNER/coronet-deploy"):
                    used += 1
                    assert set(step["with"]) <= set(inputs), path
                    assert "candidate" in step["with"]
    assert used == len(EXAMPLES)


def test_a_slower_candidate_fails_the_job_and_leaves_what_others_read(
    sides: Callable[[float], tuple[str, str]], tmp_path: Path
) -> None:
    base, candidate = sides(1.2)
    options = "--margin\n5\n--resolution\n10"
    job = run_action(
        tmp_path,
        base=base,
        candidate=candidate,
        install="false",
        arguments=options,
        output="the out",
    )
    assert job.failed == "Verdict: 1", job.printed
    assert job.outputs == {"status": "1", "verdict": "slower"}
    assert job.summary.startswith("### Latency: slower\n\n| Artifact |")
    assert "A change below 5 %" in job.summary
    assert "::error title=a.onnx" in job.printed
    written = sorted(path.name for path in (tmp_path / "the out").iterdir())
    assert written == ["bencher.json", "benchmark-action.json", "junit.xml", "verdict.md"]
    root = ET.parse(tmp_path / "the out" / "junit.xml").getroot()  # noqa: S314 - our own
    assert len(root.findall(".//failure")) == 1


def test_an_equal_candidate_passes(
    sides: Callable[[float], tuple[str, str]], tmp_path: Path
) -> None:
    base, candidate = sides(1.0)
    job = run_action(tmp_path, base=base, candidate=candidate, install="false")
    assert (job.failed, job.outputs) == (None, {"status": "0", "verdict": "fine"}), job.printed
    assert job.summary.startswith("### Latency: fine\n")


@pytest.mark.parametrize(
    ("given", "changes", "name"),
    [
        ("", {}, "coronet-verdict-latency-0-1"),
        ("", {"strategy.job-index": "3", "github.run_attempt": "2"}, "coronet-verdict-latency-3-2"),
        ("pixel 8", {"github.run_attempt": "2"}, "pixel 8-2"),
        ('a/b\\c:"d"\n<$(touch pwned)>|*?', {}, "a-b-c--d---$(touch pwned)-----1"),
    ],
)
def test_what_is_kept_has_a_name_that_no_other_job_or_attempt_takes(
    sides: Callable[[float], tuple[str, str]],
    tmp_path: Path,
    given: str,
    changes: Mapping[str, str],
    name: str,
) -> None:
    base, candidate = sides(1.2)
    job = run_action(
        tmp_path, {**CONTEXT, **changes}, base=base, candidate=candidate, install="false",
        artifact=given, output="the out",
    )  # fmt: skip
    # A slower candidate's samples are kept too: they are what one looks at then.
    assert job.failed == "Verdict: 1"
    assert job.used == {"actions/upload-artifact@v4": {"name": name, "path": "the out"}}
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("policy", "failed"), [("fail", "Verdict: 5"), ("pass", None)])
def test_a_short_history_is_inconclusive_and_the_caller_says_what_that_means(
    sides: Callable[[float], tuple[str, str]], tmp_path: Path, policy: str, failed: str | None
) -> None:
    base, candidate = sides(1.2)
    text = (tmp_path / candidate).read_text().replace("2026-01-01T", "2026-01-02T")
    (tmp_path / "now.json").write_text(text)
    (tmp_path / candidate).unlink()
    job = run_action(
        tmp_path, history=str(Path(base).parent), candidate="now.json", install="false",
        inconclusive=policy,
    )  # fmt: skip
    assert job.failed == failed, job.printed
    assert job.outputs["verdict"] == ("inconclusive" if failed else "fine")
    heading = "inconclusive" if failed else "fine, but for what is inconclusive"
    assert job.summary.startswith(f"### Latency: {heading}\n")
    assert "1 earlier session, 10 are needed" in job.summary


def test_the_first_night_of_a_history_passes_if_inconclusive_does(
    sides: Callable[[float], tuple[str, str]], tmp_path: Path
) -> None:
    base, candidate = sides(1.2)
    (tmp_path / candidate).unlink()
    job = run_action(
        tmp_path, history=str(Path(base).parent), candidate=base, install="false",
        inconclusive="pass",
    )  # fmt: skip
    assert (job.failed, job.outputs) == (None, {"status": "0", "verdict": "fine"}), job.printed
    assert "0 earlier sessions, 10 are needed" in job.summary


@pytest.mark.parametrize("name", ["host", "phone"])
def test_the_examples_pass_the_pull_request_that_brings_the_model(name: str) -> None:
    steps = read(ROOT / "examples" / "ci" / f"{name}.yml")["jobs"]["compare"]["steps"]
    of_base = [one for one in steps if "side/model" in one.get("run", "") or "id" in one]
    of_base += [one for one in steps if "coronet-deploy@" in one.get("uses", "")]
    assert len(of_base) >= 2
    for step in of_base:
        assert step["if"] == "${{ hashFiles('base/model/generator.safetensors') != '' }}"


def test_the_nightly_example_keeps_a_session_before_it_judges_it() -> None:
    (job,) = read(ROOT / "examples" / "ci" / "nightly.yml")["jobs"].values()
    steps = job["steps"]
    used = [step.get("uses", "").split("@")[0] for step in steps]
    saved = used.index("actions/cache/save")
    judges = used.index("OWNER/coronet-deploy")
    measures = next(
        place for place, step in enumerate(steps) if "coronet-deploy bench" in step.get("run", "")
    )
    assert used.index("actions/cache/restore") < measures < saved < judges
    assert steps[saved]["with"]["path"] == steps[judges]["with"]["history"]
    assert "actions/cache" not in used  # which saves nothing where the job fails


def test_the_phone_example_compares_nothing_that_an_earlier_job_exported() -> None:
    (job,) = read(ROOT / "examples" / "ci" / "phone.yml")["jobs"].values()
    exports = next(
        step["run"] for step in job["steps"] if "coronet-deploy export" in step.get("run", "")
    )
    given = next(step["with"] for step in job["steps"] if "base" in step.get("with", {}))
    assert '--output "$RUNNER_TEMP/artifacts/$side"' in exports
    for side in ("base", "candidate"):
        assert given[side] == f"${{{{ runner.temp }}}}/artifacts/{side}"


def test_a_second_use_in_one_folder_shows_nothing_of_the_first(
    sides: Callable[[float], tuple[str, str]], tmp_path: Path
) -> None:
    base, candidate = sides(1.2)
    first = run_action(tmp_path, base=base, candidate=candidate, install="false")
    assert "| Artifact |" in first.summary
    second = run_action(tmp_path, base=base, candidate="a folder/none.json", install="false")
    assert second.failed == "Verdict: 2"
    assert second.summary == "### Latency: error\n\n"
    assert list((tmp_path / "coronet-verdict").iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "failed", "told"),
    [
        ({"base": "nowhere.onnx", "candidate": "x.onnx"}, "Verdict: 2", "nowhere.onnx"),
        ({"base": "$(touch pwned)", "candidate": "`touch pwned`"}, "Verdict: 2", "$(touch pwned)"),
        ({"base": "a", "history": "b", "candidate": "c"}, "Compare: 2", "both given"),
        ({"candidate": "c"}, "Compare: 2", "neither base nor history is given"),
        (
            {"base": "a", "candidate": "c", "inconclusive": "maybe"},
            "Compare: 2",
            "neither fail nor",
        ),
    ],
)
def test_a_mistake_fails_the_job_and_says_why(
    tmp_path: Path, inputs: Mapping[str, str], failed: str, told: str
) -> None:
    job = run_action(tmp_path, install="false", **inputs)
    assert job.failed == failed
    assert bool(job.used) == (failed.startswith("Verdict"))
    assert told in job.printed
    assert job.outputs.get("verdict", "error") == "error"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_it_installs_its_own_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only what builds it is taken from here; nothing is fetched.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    for name, value in {
        "PYTHONPATH": site, "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    job = run_action(tmp_path, base="a", candidate="b", python=sys.executable)
    place = tmp_path / "coronet-deploy" / "bin"
    assert job.path == f"{place}\n", job.printed
    assert (place / "coronet-deploy").exists()


def test_what_it_installs_reads_a_history_wherever_it_is_kept() -> None:
    steps = read(ACTION)["runs"]["steps"]
    install = next(step["run"] for step in steps if "pip" in step.get("run", ""))
    extras = re.search(r"\$ACTION\[([a-z,]+)\]", install)
    assert extras is not None
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = " ".join(one for extra in extras[1].split(",") for one in known[extra])
    for package in ("onnxruntime", "ai-edge-litert", "ruptures", "sqlalchemy", "psycopg"):
        assert package in brought
