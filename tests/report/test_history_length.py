"""How far back a history goes: as many sessions as count, whatever lies between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coronet_deploy.report.history import changes_note, open_past
from coronet_deploy.report.sessions import SESSIONS_MOST
from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run

MakeSession = Callable[..., Run]


def test_sessions_of_other_networks_take_no_place_of_those_that_count(
    session: MakeSession, tmp_path: Path
) -> None:
    def of(digest: str) -> dict[str, Any]:
        return {"artifacts": {"a.onnx": {"runtime": "onnx", "source": {"sha256": digest * 32}}}}

    told = f"Of each row's sessions the newest {SESSIONS_MOST} are looked at."

    def counted(day: int, *, older: bool = False) -> list[str]:
        run = session(day, **of("ab"))
        with open_past(str(tmp_path)) as past:
            line = past.line_of(run, "a.onnx", run.launches[0].target)
        assert (told in changes_note([line])) is older
        return [point.run_id for point in line.points]

    for day in range(12):
        write_run(session(day, **of("ab")), tmp_path)
    for day in range(100, 100 + SESSIONS_MOST):
        write_run(session(day, 3.0, **of("cd")), tmp_path)
    assert counted(300) == [f"day{day:03d}" for day in range(12)]
    for day in range(300, 303 + SESSIONS_MOST):
        write_run(session(day, **of("ab")), tmp_path)
    assert counted(500, older=True) == [f"day{day}" for day in range(303, 303 + SESSIONS_MOST)]
