"""`make demo` where something is lacking: the environment is right, or nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_OLD = f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 13); exec(sys.argv[2])' "$@"
"""
# Makes an environment whose programs tell what they are asked to do.
_NEW = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p .venv/bin
for name in pip coronet-deploy; do
  printf '#!/bin/sh\\necho %s "$@"\\n' $name > .venv/bin/$name
  chmod +x .venv/bin/$name
done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with what `make` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _make_demo(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    program = checkout / "python"
    program.write_text(python)
    program.chmod(0o755)
    # Not what `make test` was itself called with.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        ["make", "demo", "PYTHON=./python", "VENV=.venv"],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout,
        env=environment,
        timeout=60,
    )


def test_an_older_python_is_told_before_anything_is_fetched(checkout: Path) -> None:
    done = _make_demo(checkout, _OLD)
    assert done.returncode == 2
    assert "Python 3.11 or later is needed: make PYTHON=python3.12, say" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_that_has_no_pip_is_made_again(checkout: Path) -> None:
    left = checkout / ".venv/bin/python"
    left.parent.mkdir(parents=True)
    left.write_text("")
    left.chmod(0o755)
    done = _make_demo(checkout, _NEW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "coronet-deploy demo --output out"
