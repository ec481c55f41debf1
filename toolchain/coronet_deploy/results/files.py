"""Run files in a folder: one JSON a run, written whole, never over another."""

from __future__ import annotations

from pathlib import Path

from coronet_deploy.errors import BadInput
from coronet_deploy.results.schema import run_from_json, run_to_json
from coronet_deploy.storage import existing_file, write_bytes
from coronet_deploy.vocabulary import Run


def write_run(run: Run, folder: Path) -> Path:
    """Write `run` to `folder` as `<run id>.json` and return that path.

    Ids are unique, so two benches can write to one folder at once; writing a run again to where
    it already is changes nothing.

    Raises:
        BadInput: another run of that id is there, or the run holds what a file cannot.
        EnvironmentProblem: the folder cannot be written.

    """
    data = run_to_json(run)
    path = folder / f"{run.id}.json"
    if path.exists() and path.read_bytes() != data:
        raise BadInput(f"{path} holds another run of the same id")
    write_bytes(path, data)
    return path


def read_run(path: Path) -> Run:
    """Return the run in the file at `path`.

    Raises:
        BadInput: there is no such file, or it is not a run file (see `run_from_json`).

    """
    return run_from_json(existing_file(path, "run file").read_bytes(), str(path))
