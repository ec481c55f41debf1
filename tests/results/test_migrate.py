"""A run file of any version that ever was is read; each has its step and its fixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.results.files import read_run
from coronet_deploy.results.migrate import STEPS, migrated
from coronet_deploy.results.schema import SCHEMA_VERSION, run_from_json

FIXTURES = Path(__file__).parent / "fixtures"


def test_every_older_version_has_a_step_and_a_file_of_it() -> None:
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    files = {path.name for path in FIXTURES.glob("run-v*.json")}
    assert files == {f"run-v{version}.json" for version in range(1, SCHEMA_VERSION + 1)}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("run-v*.json")), ids=lambda path: path.stem)
def test_a_file_of_every_version_is_read(path: Path) -> None:
    assert json.loads(path.read_bytes())["schema_version"] == int(path.stem.removeprefix("run-v"))
    run = read_run(path)
    assert run.created == "2026-01-02T03:04:05+00:00"
    assert run.launches[0].samples_ms == (1.25, 1.5, 1.375)
    assert run.launches[1].error == "killed by signal 9"
    assert run.emulated is False


def test_steps_follow_one_another_and_leave_the_original_alone() -> None:
    def renamed(plain: dict[str, Any]) -> dict[str, Any]:
        return {"new": plain["old"]}

    def doubled(plain: dict[str, Any]) -> dict[str, Any]:
        return {**plain, "new": 2 * plain["new"]}

    original = {"schema_version": 1, "old": 21}
    steps = {1: renamed, 2: doubled}
    assert migrated(original, 3, steps) == {"schema_version": 3, "new": 42}
    assert migrated(original, 2, steps) == {"schema_version": 2, "new": 21}
    assert original == {"schema_version": 1, "old": 21}


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused_by_file(version: int) -> None:
    data = json.dumps({"schema_version": version, "id": "x"}).encode()
    with pytest.raises(
        BadInput, match=rf"some\.json is not a run file: no schema_version {version}"
    ):
        run_from_json(data, "some.json")
