"""What all tests share: the installed command, and real pictures.

`CORONET_TEST_PICTURES` may name a folder of pictures to compare networks on; without it the
bundled model's inputs serve.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import settings

import warm
from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.images import Array, list_pictures, read_picture
from support import COMMAND, Cli

# Files of tests by what they take, the longest first; those that take seconds need no place here.
_LONGEST = (
    "test_demo", "test_cyclegan", "test_team", "test_device_bench_faults", "test_device_bench",
    "test_tuning", "test_training", "test_compare", "test_commands", "test_bench_command",
    "test_litert_torch", "test_quality_command", "test_checkpoints", "test_quantize",
    "test_passes", "test_export_hostile", "test_action",
)  # fmt: skip


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start; a run in the background would have it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("ANDROID_SERIAL", None)  # a developer's phone, and none of the tests'
    if os.environ.get("CI"):  # the same examples in every run; elsewhere always new ones
        settings.register_profile("seeded", derandomize=True)
        settings.load_profile("seeded")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first: begun last, one would keep a single core waiting."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def cold_cli() -> Cli:
    """Run the installed `coronet-deploy` with these arguments; keyword arguments as for `run`."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return _run([str(COMMAND), *map(str, arguments)], options)

    return run


@pytest.fixture(scope="session")
def _forks() -> Iterator[str]:
    """Start what forks commands that import torch, and return its socket."""
    with tempfile.TemporaryDirectory(
        prefix="warm-"
    ) as folder:  # short: a socket's name has a bound
        path = f"{folder}/socket"
        line = [sys.executable, "-P", warm.__file__, "--serve", path]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield path
            server.stdin.close()


@pytest.fixture(scope="session")
def cli(cold_cli: Cli, request: pytest.FixtureRequest) -> Cli:
    """Run `coronet-deploy` as `cold_cli` does, in a process that has torch where one is needed."""
    started = dict(os.environ)

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = cast("Mapping[str, str]", options.get("env") or os.environ)
        line = list(map(str, arguments))
        as_usual = "preexec_fn" not in options and warm.starts_alike(environment, started)
        if not (as_usual and line and line[0] in warm.COMMANDS and hasattr(os, "pidfd_open")):
            return cold_cli(*arguments, **options)
        path: str = request.getfixturevalue("_forks")
        return _run([sys.executable, "-ISu", warm.__file__, path, *line], options)

    return run


def _run(line: list[str], options: dict[str, object]) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(line, check=False, **(settings | options))  # type: ignore[call-overload,no-any-return] # options are run's own


@pytest.fixture(scope="session")
def pictures() -> Callable[[int], Array]:
    """Return real pictures, three at most, as (N, 3, size, size) float32 in [-1, 1]."""
    folder = os.environ.get("CORONET_TEST_PICTURES")
    paths = list_pictures(Path(folder)) if folder else bundled_pictures()

    def read(size: int) -> Array:
        stacked = np.stack([read_picture(path, size, size) for path in paths[:3]])
        return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))

    return read


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a file system of 1 MB, or skip where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
