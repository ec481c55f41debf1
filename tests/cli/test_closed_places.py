"""Inputs and outputs in places that are closed to us, or that have no name a disk takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coronet_deploy.results.files import read_run
from coronet_deploy.results.journal import Journal
from lowering import small_checkpoint
from support import COMMAND, Cli

LONG = "x" * 300
RUN = Path(__file__).parents[1] / "results/fixtures/run-v1.json"

INPUTS = (
    ("inspect", "{}.safetensors"),
    ("materialize", "{}.safetensors"),
    ("export", "{}.safetensors"),
    ("demo", "{}.safetensors"),
    ("verify", "{}.tflite"),
    ("evaluate", "{}.safetensors", "--data", "."),
    ("evaluate", "{}.onnx", "--data", "."),
    ("bench", "{}.tflite"),
    ("compare", "{}.tflite", "{}.tflite"),
    ("compare", "{}", "{}"),
    ("compare", "{}.json", "{}.json"),
    ("devices", "--known", "--profiles", "{}"),
    ("results", "recover", "{}.partial"),
    ("results", "list", "--store", "{}.sqlite"),
    ("report", "{}.json"),
)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return a folder that a common user can neither list nor look into."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    return folder


@pytest.fixture
def common_user(closed: Path) -> Cli:
    """Run a line without a superuser's rights, or skip where they cannot be dropped."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if os.geteuid():
        drop = []

    def run(*line: object) -> subprocess.CompletedProcess[str]:
        whole = [*drop, *map(str, line)]
        return subprocess.run(
            whole, capture_output=True, text=True, check=False, cwd=closed.parent, timeout=120
        )

    if not shutil.which("setpriv") or "Permission denied" not in run("ls", closed).stderr:
        pytest.skip("this user may read everything, and rights cannot be dropped")
    return run


def _one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    (last,) = [line for line in done.stderr.splitlines() if "error: " in line]
    for word in words:
        assert word in last


@pytest.mark.parametrize("line", INPUTS, ids=lambda line: " ".join(line)[:30])
def test_a_name_that_is_too_long_is_a_bad_input(
    line: tuple[str, ...], cli: Cli, tmp_path: Path
) -> None:
    done = cli(*(word.format(LONG) for word in line), cwd=tmp_path)
    _one_line(done, 2, LONG, "name too long")


@pytest.mark.parametrize("line", INPUTS, ids=lambda line: " ".join(line)[:30])
def test_what_stands_in_a_closed_folder_is_a_bad_input(
    line: tuple[str, ...], closed: Path, common_user: Cli
) -> None:
    done = common_user(COMMAND, *(word.format(closed / "x") for word in line))
    _one_line(done, 2, str(closed / "x"), "ermission denied")


@pytest.mark.parametrize(
    "line", [("compare", "{}", "{}"), ("devices", "--known", "--profiles", "{}")]
)
def test_a_folder_that_cannot_be_listed_is_a_bad_input(
    line: tuple[str, ...], closed: Path, common_user: Cli
) -> None:
    closed.chmod(0o100)  # it is there, and what is in it cannot be known
    done = common_user(COMMAND, *(word.format(closed) for word in line))
    _one_line(done, 2, str(closed), "ermission denied")


@pytest.mark.parametrize("beside", [True, False])
def test_an_import_names_a_folder_that_cannot_be_listed(
    beside: bool, closed: Path, common_user: Cli
) -> None:
    if beside:
        shutil.copy(RUN, closed.parent)
    store = closed.parent / "store.sqlite"
    done = common_user(COMMAND, "results", "import", closed.parent, "--store", store)
    assert done.returncode == 2, done.stderr
    assert f"folder {closed} cannot be listed: Permission denied" in done.stderr
    assert ("1 added" in done.stdout) is store.exists() is beside


@pytest.mark.parametrize("mode", [0, 0o100, 0o400])
def test_pictures_that_may_not_be_listed_are_a_bad_input(
    mode: int, closed: Path, common_user: Cli
) -> None:
    program = """import pathlib, sys
from coronet_deploy.errors import BadInput
from coronet_deploy.images import list_pictures
from coronet_deploy.verify.examples import find_examples
folder = pathlib.Path(sys.argv[1])
for look in (list_pictures, lambda one: find_examples(one, "AtoB")):
    try: look(folder)
    except BadInput as error: print(error)
"""
    closed.chmod(0o700)
    (closed / "x.png").touch()
    closed.chmod(mode)
    done = common_user(sys.executable, "-c", program, closed)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == f"folder {closed} cannot be read: permission denied"
    assert "cannot be read: permission denied" in second


@pytest.mark.parametrize(
    "line",
    [
        ("materialize", "--output", "{}/m.safetensors"),
        ("runner", "build", "--preset", "host", "--output", "{}"),
    ],
    ids=lambda line: line[0],
)
@pytest.mark.parametrize("below", ["a", "a/b", "a/b/c"])
def test_an_output_however_deep_below_a_closed_folder_is_of_the_environment(
    line: tuple[str, ...], below: str, closed: Path, common_user: Cli
) -> None:
    closed.chmod(0o500)
    done = common_user(COMMAND, *(word.format(closed / below) for word in line))
    _one_line(done, 3, f"cannot write {closed / below}", "ermission denied")


@pytest.mark.parametrize(
    ("what", "status", "word"),
    [
        ("open('closed/x')", 2, "cannot be read"),
        ("open('.')", 2, "cannot be read"),
        ("open('x' * 300)", 2, "cannot be read"),
        ("raise OSError(28, 'No space left on device', 'x')", 3, "cannot write"),
        ("open('frozen/x', 'w')", 3, "cannot write"),
        ("open('frozen.txt', 'w')", 3, "cannot write"),
    ],
)
def test_a_file_that_nobody_nearer_told_of_is_one_line(
    what: str, status: int, word: str, common_user: Cli, tmp_path: Path
) -> None:
    (tmp_path / "frozen").mkdir(mode=0o500)
    (tmp_path / "frozen.txt").touch(mode=0o400)
    program = "import sys\nfrom coronet_deploy import cli\nfrom coronet_deploy.cli import inspect\n"
    program += f"def run(args):\n    {what}\n"
    program += "inspect.run = run\nsys.exit(cli.main(['inspect']))"
    _one_line(common_user(sys.executable, "-c", program), status, word)


@pytest.mark.parametrize("line", [("inspect",), ("runner", "build", "--preset", "host")])
def test_a_current_folder_that_was_removed_is_one_line(
    line: tuple[str, ...], cli: Cli, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    # In the child, between its change of folder and the command.
    done = cli(*line, cwd=gone, preexec_fn=gone.rmdir)
    _one_line(done, 3, "the current folder cannot be used: No such file", "was it removed?")
    assert cli(*line, "--help", cwd=tmp_path).returncode == 0


def test_a_system_without_posix_locks_is_named() -> None:
    program = "import sys\nsys.modules['fcntl'] = None\n"
    program += "from coronet_deploy.cli import main\nsys.exit(main(['devices', '--known']))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == (
        "coronet-deploy: error: coronet-deploy needs Linux or macOS (on Windows: WSL)\n"
    )


def test_a_journal_that_cannot_be_removed_is_recovered_all_the_same(
    closed: Path, common_user: Cli
) -> None:
    run = read_run(RUN)
    closed.chmod(0o755)
    journal = Journal(closed)
    journal.begin(run, len(run.launches))
    journal.close()
    closed.chmod(0o555)
    output = closed.parent / "runs"
    done = common_user(COMMAND, "results", "recover", journal.path, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"{journal.path} stays, it cannot be removed: Permission denied" in done.stderr
    (path,) = output.iterdir()
    assert read_run(path).launches == run.launches


_ALL_BUT_ONE_FILE = """
import os, pathlib, resource, sys
from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.export.own import _read
from coronet_deploy.verify.features import read_tensors
path = pathlib.Path(sys.argv[1])
readers = load_checkpoint, _read, read_tensors
for read in readers:
    read(path)  # what is imported on the way
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    os.close(held.pop())
for read in readers:
    try:
        read(path)
    except BadInput as error:
        print(error)
"""


def test_weights_that_the_system_does_not_map_are_said_to_be_unread(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _ALL_BUT_ONE_FILE, path],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        assert line.startswith(f"{path} cannot be read: ")
        assert "Too many open files" in line
    assert len(done.stdout.splitlines()) == 3
