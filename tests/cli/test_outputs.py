"""What stands at the place of an output: a device, a pipe, a link, a file with a mode."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.storage import atomic_path, write_bytes, write_text
from support import Cli, fill

RUN = Path(__file__).parents[1] / "results/fixtures/run-v1.json"
NULL = os.makedev(1, 3)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return a null device of the test's own, or skip where none can be made or opened."""
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, NULL)
        path.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device node here: {error}")
    return path


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["null", "link"])
def test_a_device_stays_a_device(name: str, node: Path, cli: Cli) -> None:
    (node.parent / "link").symlink_to(node)
    place = node.parent / name
    done = cli("report", RUN, "--format", "markdown", "--output", place)
    assert done.returncode == 0, done.stderr
    assert stat.S_ISCHR(node.lstat().st_mode)
    assert node.lstat().st_rdev == NULL
    assert _names_in(node.parent) == ["link", "null"]


def test_a_pipe_is_given_the_bytes_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    data = bytes(range(256)) * 1024  # more than it holds
    write_bytes(pipe, data)
    reader.join(timeout=30)
    assert got == [data]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert _names_in(tmp_path) == ["pipe"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(is_there: bool, tmp_path: Path) -> None:
    target = tmp_path / "far" / "report.md"
    target.parent.mkdir()
    if is_there:
        target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("far/report.md")
    write_text(link, "new")
    assert str(link.readlink()) == "far/report.md"
    assert target.read_text() == "new"
    assert _names_in(target.parent) == ["report.md"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")
    path.chmod(mode)
    write_text(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


def test_a_link_that_leads_to_itself_is_no_place(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(EnvironmentProblem, match="loop"):
        write_text(loop, "new")
    assert loop.is_symlink()


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + "x" * 15)
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    "line",
    [
        ("export",),
        ("demo",),
        ("bench", "net.tflite"),
        ("compare", "net.tflite", "other.tflite"),
        ("runner", "build", "--preset", "host"),
    ],
    ids=lambda line: line[0],
)
def test_no_room_for_temporary_files_is_told_before_the_work(
    line: tuple[str, ...], disk: Path, cold_cli: Cli, tmp_path: Path
) -> None:
    for name in ("net.tflite", "other.tflite"):
        (tmp_path / name).write_bytes(name.encode())
    os.truncate(path := fill(disk), path.stat().st_size - 8192)  # so that Python still takes it
    done = cold_cli(*line, cwd=tmp_path, env={**os.environ, "TMPDIR": str(disk)})
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        "coronet-deploy: error: temporary files cannot be written: No space left on device "
        "(make room, or name another folder by TMPDIR)"
    )
    assert "Traceback" not in done.stderr
    assert "launch 1" not in done.stderr


_KILLED = """
import os, pathlib, signal, sys
from coronet_deploy.storage import atomic_path
with atomic_path(pathlib.Path(sys.argv[1])) as half:
    half.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _leftover(path: Path) -> Path:
    """Kill a process that writes `path`, and return what it left."""
    before = set(path.parent.iterdir())
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_what_killed_runs_left_is_cleared_and_what_is_being_written_stays(
    cli: Cli, tmp_path: Path
) -> None:
    place = tmp_path / "report.md"
    pid = re.compile(r"\.\d+-")
    left = _leftover(place)
    # The number of a process that died may be another's now.
    _leftover(place).rename(tmp_path / pid.sub(f".{os.getpid()}-", left.name))
    host = f"@{os.uname().nodename}."
    assert host in left.name
    elsewhere = _leftover(place)  # of another host, whose locks may not be seen here
    elsewhere = elsewhere.rename(tmp_path / elsewhere.name.replace(host, "@farm."))
    dead = _leftover(place)  # beside one that is alive, though its number is nobody's
    with atomic_path(place) as ours:
        assert not dead.exists()
        alive = ours.rename(tmp_path / pid.sub(".99999999-", ours.name))
        alive.write_text("ours")
        done = cli("report", RUN, "--format", "markdown", "--output", place)
        assert done.returncode == 0, done.stderr
        assert _names_in(tmp_path) == sorted({alive.name, elsewhere.name, place.name})
        assert place.read_text().startswith("| Artifact")
        alive.rename(ours)
    assert place.read_text() == "ours"
    assert _names_in(tmp_path) == sorted({elsewhere.name, place.name})


def test_many_writers_of_one_file_take_nothing_from_each_other(tmp_path: Path) -> None:
    program = "import pathlib, sys\nfrom coronet_deploy.storage import write_text\n"
    program += "for _ in range(200):\n    write_text(pathlib.Path(sys.argv[1]), 'whole')\n"
    line = [sys.executable, "-c", program, str(tmp_path / "report.md")]
    at_once = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for one in at_once:
        assert not one.communicate()[1]
        assert one.returncode == 0
    assert _names_in(tmp_path) == ["report.md"]
