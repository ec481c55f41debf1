"""What a training keeps between its steps: its state, and the rows of its metrics.

A state is one file, whole or not at all. The rows of `metrics.csv` are appended to, so that a
save costs what is new; those since the last save lie in the state too, and its length until then,
so that the two agree wherever a run was killed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from coronet_deploy.coronet.data import Pictures
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.storage import atomic_path, write_text


@dataclass(frozen=True)
class StepReport:
    """What one training step did.

    `ratio` is the living share of what the target counts and `shrinkage` the proximal step, both
    means over the generators; `losses` are in the order of the game's names. `pictures` is how
    many of each domain all processes saw.
    """

    step: int
    steps: int
    phase: str
    ratio: float
    shrinkage: float
    lr: float
    losses: dict[str, float]
    pictures: int
    seconds: float


class Metrics:
    """The rows of a run, and the CSV file that they go to."""

    def __init__(self, path: Path, losses: Sequence[str]) -> None:
        self.path, self._losses = path, losses
        self.rows: list[StepReport] = []
        self._saved = 0  # rows that are in the file
        self._size = 0  # bytes of the file; 0 where it has to be written anew

    def pending(self) -> dict[str, Any]:
        """Return what a state holds: how long the file is, and what it lacks."""
        return {"size": self._size, "text": self._text()}

    def save(self) -> None:
        """Bring the file up to date.

        Raises:
            EnvironmentProblem: the disk refuses it.

        """
        text = self._text()
        if self._size:
            try:
                with self.path.open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise EnvironmentProblem(
                    f"cannot write {self.path}: {error.strerror or error}", hint="make room"
                ) from error
        else:
            write_text(self.path, text)
        self._size += len(text.encode())
        self._saved = len(self.rows)

    def load(self, held: Any, step: int, steps: int) -> None:  # noqa: ANN401 - what a state holds
        """Have the rows that `pending` told of, `step` of the `steps` that the run has.

        Raises:
            BadInput: the file is not the one that was written beside the state.

        """
        if isinstance(held, list):  # as states once held all of them
            self.rows = [StepReport(*row) for row in held]
            return
        before = b""
        if held["size"]:
            with contextlib.suppress(OSError), self.path.open("rb") as file:
                before = file.read(held["size"])
        try:
            if len(before) == held["size"]:
                self.rows = self._rows(before.decode() + held["text"], steps)
        except (csv.Error, ValueError):
            self.rows = []
        if [row.step for row in self.rows] != list(range(step)):
            raise BadInput(
                f"{self.path} is not the one that was written beside the state",
                hint="put it back, or train anew with another --output",
            )

    def _rows(self, text: str, steps: int) -> list[StepReport]:
        """Return the rows of a whole file."""
        lines = csv.reader(io.StringIO(text))
        next(lines, None)  # the header
        return [
            StepReport(
                int(step),
                steps,
                phase,
                float(ratio),
                float(shrinkage),
                float(lr),
                dict(zip(self._losses, map(float, losses), strict=True)),
                int(pictures),
                float(seconds),
            )
            for step, phase, ratio, shrinkage, lr, *losses, pictures, seconds in lines
        ]

    def _text(self) -> str:
        """Return what the file lacks, from its header on if it has to be written anew."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._size:
            writer.writerow(
                ("step", "phase", "ratio", "shrinkage", "lr", *self._losses, "pictures", "seconds")
            )
        for row in self.rows[self._saved :]:
            head = row.step, row.phase, row.ratio, row.shrinkage, row.lr
            writer.writerow((*head, *row.losses.values(), row.pictures, row.seconds))
        return text.getvalue()


def circumstances(pictures: Pictures, processes: int) -> dict[str, Any]:
    """Return what must be as it was for a run to go on as if it had not been stopped."""
    names = pictures.names
    told = "\n".join(names).encode(errors="surrogateescape")  # a name need not be UTF-8
    return {
        "pictures": len(names),
        "names": hashlib.sha256(told).hexdigest(),
        "processes": processes,
    }


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all.

    Raises:
        EnvironmentProblem: the disk refuses it; the last one stays.

    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            # Torch's writer fails over what it could not write: the system's reason came before.
            told = error if isinstance(error, OSError) else error.__context__
            reason = told.strerror if isinstance(told, OSError) else str(error).splitlines()[0]
            kept = "; the last state is still there" if path.exists() else ""
            raise EnvironmentProblem(
                f"cannot write {path}: {reason}", hint=f"choose another place or make room{kept}"
            ) from error


def read_state(path: Path, recipe: Recipe, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in `path`, in main memory, if `recipe` and circumstances are what they were.

    Raises:
        BadInput: there is none, it is broken, or it is of another recipe, other pictures or
            another number of processes.

    """
    require_state(path)
    state = _state_of(path, recipe)
    then = state["circumstances"]
    changed = [key for key, value in then.items() if now.get(key) != value]
    if "processes" in changed:
        raise BadInput(
            f"{path} was written by {then['processes']} processes, these are {now['processes']}",
            hint="go on with as many",
        )
    if changed:
        raise BadInput(
            f"{path} was written with other pictures: {then['pictures']} files then, "
            f"{now['pictures']} now{', of other names' if 'pictures' not in changed else ''}",
            hint="put the folders back as they were, or train anew with another --output",
        )
    return state


def require_state(path: Path) -> None:
    """Raise BadInput if there is no state in `path`."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist: there is nothing to resume")


def finished(path: Path, recipe: Recipe, steps: int, results: Sequence[Path]) -> Any:  # noqa: ANN401 - what a state holds
    """Return what else the state in `path` holds if its run is at its end, or None.

    There all `steps` are done, and the results are where they belong.

    Raises:
        BadInput: the state is broken, or of another recipe.

    """
    if not all(one.is_file() for one in (path, *results)):
        return None
    state = _state_of(path, recipe)
    return state["game"] if state["step"] == steps else None


def _state_of(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the state in `path`, in main memory, if it is whole and of `recipe`."""
    held, state = read_whole_state(path)
    if held != recipe:
        raise BadInput(f"{path} was written with another recipe: {_difference(held, recipe)}")
    return state


def read_whole_state(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of the state in `path` and the state, in main memory.

    Raises:
        BadInput: it is broken.

    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads past a wrong checksum
            damaged = archive.testzip()
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"recipe", "step", "rows", "game"} - state.keys()
        state = {**state, "circumstances": dict(state.get("circumstances", {}))}
    except Exception as error:  # what torch raises on broken files is not told
        raise broken(path) from error
    if damaged or missing:
        raise broken(path)
    return _recipe_of(path, state["recipe"]), state


def _recipe_of(path: Path, text: str) -> Recipe:
    """Return the recipe that a state holds."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
        if not unknown:
            raise broken(path) from error
        raise BadInput(
            f"{path} was written by another version of coronet-deploy: its recipe has "
            f"{'.'.join(map(str, unknown[0]))}",
            hint="go on with that version, or a newer one",
        ) from error


def broken(path: Path) -> BadInput:
    """Return the error for a state that is none."""
    return BadInput(
        f"{path} is not a whole training state", hint="train anew, with another --output"
    )


def _difference(held: Recipe, asked: Recipe) -> str:
    """Return the first key in which two recipes differ, and what both say."""
    before, now = (_flat(recipe.model_dump(mode="json")) for recipe in (held, asked))
    key = next(key for key in before if before[key] != now[key])
    return f"{key} was {before[key]} and is {now[key]}"


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        keys = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{key}": one for key, one in keys.items()} or {name: value}
    return flat
