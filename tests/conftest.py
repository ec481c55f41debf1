"""What all tests share: the installed command, and real pictures.

`CORONET_TEST_PICTURES` may name a folder of pictures to compare networks on; without it the
bundled model's inputs serve.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.images import Array, list_pictures, read_picture
from support import COMMAND, Cli


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start; a run in the background would have it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI"):  # the same examples in every run; elsewhere always new ones
        settings.register_profile("seeded", derandomize=True)
        settings.load_profile("seeded")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the installed `coronet-deploy` with these arguments; keyword arguments as for `run`."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [str(COMMAND), *map(str, arguments)]
        settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(line, check=False, **(settings | options))  # type: ignore[call-overload,no-any-return] # options are run's own

    return run


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
