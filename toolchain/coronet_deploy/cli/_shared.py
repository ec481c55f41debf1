"""What several commands share: finding artifacts, reading a checkpoint or one's own generator."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import BadInput, EnvironmentProblem, missing_package
from coronet_deploy.memory import shortage
from coronet_deploy.storage import data_dir, existing_file, files_in, is_folder, readable
from coronet_deploy.vocabulary import Runtime

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.export.subject import Subject

ARTIFACTS = tuple(one.suffix for one in Runtime)
"""What the names of artifacts end in."""

_OWN = "export and verify take a generator of your own, as package.module:name"
_LEAST_COLUMNS, _MOST_COLUMNS = 72, 80


def table_console() -> Console:
    """Return what prints tables to stdout, as wide as its terminal but for what no table fits.

    In fewer columns names and verdicts would be left out, in none (COLUMNS=0) everything: there a
    terminal breaks the lines itself.
    """
    from rich.console import Console

    made = Console(highlight=False)
    made.width = max(_LEAST_COLUMNS, min(made.width, _MOST_COLUMNS))
    return made


def artifact_table(console: Console, names: Sequence[str], *titles: str) -> tuple[Table, list[str]]:
    """Return an empty table of artifacts and what stands in its first column for each of `names`.

    What names that are too long for a line share at their start is printed above the table.
    """
    from rich.markup import escape
    from rich.table import Table

    from coronet_deploy.report.tables import shared_start

    table = Table("artifact", *titles, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    table.columns[0].overflow = "fold"
    start = shared_start(names, console.width - 9 * len(titles))
    if start:
        console.print(f"Names start with {escape(start)}", soft_wrap=True)
    return table, [escape(name.removeprefix(start)) for name in names]


def files_of(artifacts: Sequence[Path]) -> list[Path]:
    """Return artifacts as they are given, in the place of a folder all those in it.

    Raises:
        BadInput: a folder holds none, or cannot be read.

    """
    return [
        path
        for one in artifacts
        for path in (files_in(one, ARTIFACTS) if is_folder(one, "artifact") else [one])
    ]


def known_names(text: str, known: Sequence[str]) -> list[str]:
    """Return the names of "NAME,NAME", which are all of those that are `known`."""
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


@contextlib.contextmanager
def torch_loading() -> Iterator[None]:
    """Import in here what loads torch, which is an extra and has libraries of its own.

    Raises:
        EnvironmentProblem: torch, or a package that comes with it, is missing or does not load.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "torch", "torch") from error
    except (ImportError, OSError) as error:  # by the loader of libraries: without a number
        ours = isinstance(error, ImportError) and (error.name or "").startswith("coronet_deploy")
        if ours or shortage(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise EnvironmentProblem(
            f"the package 'torch' is installed and does not load: {str(error)[:300]}",
            hint="install it again, or what it asks for",
        ) from error


def read_checkpoint(path: Path | None) -> Checkpoint:
    """Return the checkpoint at `path`, or the bundled one.

    Raises:
        BadInput: the file is not a checkpoint that can be used.
        EnvironmentProblem: torch is not installed or does not load, or nothing is bundled.

    """
    if path is not None:
        _require_checkpoint(path)
    with torch_loading():
        from coronet_deploy.coronet.checkpoint import load_checkpoint
        from coronet_deploy.coronet.zoo import bundled_checkpoint
    chosen = path or bundled_checkpoint()
    with readable(f"checkpoint {chosen}"):
        return load_checkpoint(chosen)


def _require_checkpoint(path: Path) -> None:
    """Let a file through that may be a checkpoint: before torch is imported, which takes seconds.

    Raises:
        BadInput: it is not there, or is an artifact or code by its name.

    """
    existing_file(path, "checkpoint", _meant(path))
    if path.suffix == ".py":
        raise BadInput(f"{path} is code by its name, not a checkpoint", hint=_OWN)
    if path.suffix in ARTIFACTS:
        raise BadInput(
            f"{path} is an artifact by its name, not a checkpoint",
            hint="give the checkpoint, or the torch module, that it was made of",
        )


def _meant(path: Path) -> str | None:
    """Return what may be meant by a checkpoint that is not there, if anything."""
    bundled = data_dir("models") / path.name / f"{path.name}.safetensors"
    if str(path) == path.name and os.path.isfile(bundled):  # noqa: PTH113 - a name may be too long
        return f"that of the bundled model is {bundled}"
    return _OWN if ":" in path.name or path.suffix in {"", ".py"} else None


def require_given(given: str | None, weights: Path | None) -> None:
    """Let a generator's files through that are there: before torch is imported, as above.

    Raises:
        BadInput: one is not.

    """
    if given is not None and ":" not in given:
        _require_checkpoint(Path(given))
    elif given is not None and weights is not None:
        existing_file(weights, "weights file")


def read_subject(given: str | None, weights: Path | None, channels: int | None) -> Subject:
    """Return the generator to export: of a checkpoint, or "package.module:name" with its weights.

    Raises:
        BadInput: neither can be used; or weights or channels are given for a checkpoint.
        EnvironmentProblem: torch is not installed or does not load, or nothing is bundled.

    """
    require_given(given, weights)
    with torch_loading():
        from coronet_deploy.export.own import is_own, load_own
        from coronet_deploy.export.subject import subject_of
    if given is not None and is_own(given):
        return load_own(given, weights, 3 if channels is None else channels)
    for flag, value in (("--weights", weights), ("--channels", channels)):
        if value is not None:
            raise BadInput(
                f"{flag} goes with a generator of your own, package.module:name, "
                f"not with {given or 'the bundled checkpoint'}"
            )
    return subject_of(read_checkpoint(Path(given) if given else None))
