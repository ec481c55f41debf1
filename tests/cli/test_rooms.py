"""Data flows one way through the package: a room imports only rooms before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import coronet_deploy

PACKAGE = Path(coronet_deploy.__file__).parent
BENEATH = (
    "vocabulary", "errors", "locks", "storage", "memory", "images", "ranges", "drawing", "profiles",
    "cpu",
)  # fmt: skip
ROOMS = ("networks", "coronet", "export", "verify", "bench", "results", "report", "cli")


def _imported(module: Path) -> Iterator[str]:
    """Yield the room of each of the package's modules that one imports, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "coronet_deploy" and room in (*BENEATH, *ROOMS):
                yield room


@pytest.mark.parametrize("room", [*BENEATH, *ROOMS])
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    place = PACKAGE / room
    modules = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    before = {*BENEATH, *(ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ())}
    for module in modules:
        assert set(_imported(module)) <= before, module


def test_every_module_stands_in_a_room() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__main__", "__pycache__", "_data"} == {*BENEATH, *ROOMS}
