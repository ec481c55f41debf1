"""Runtimes that are missing, and runtimes that are there and do not load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.verify.runtimes import open_session, runtime_of

BROKEN = {
    "raise ImportError('libc.so.9: no such file')": "does not load: libc.so.9: no such file",
    "import a_module_that_it_needs": "does not load: No module named 'a_module_that_it_needs'",
}


@pytest.fixture(params=[("a.onnx", "onnxruntime"), ("a.tflite", "ai_edge_litert")])
def artifact(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """Return an artifact and its runtime's module, which has not been imported yet."""
    name, module = request.param
    for loaded in [one for one in sys.modules if one.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    (tmp_path / name).write_bytes(b"")
    return tmp_path / name, module


def test_a_runtime_that_is_missing_is_not_installed(
    artifact: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, module = artifact
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentProblem, match="is not installed"):
        open_session(path, runtime_of(path), threads=1)


@pytest.mark.parametrize("program", BROKEN)
def test_a_runtime_that_does_not_load_is_not_called_missing(
    artifact: tuple[Path, str], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, module = artifact
    package = tmp_path / "site" / module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(program + "\n")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(EnvironmentProblem) as refused:
        open_session(path, runtime_of(path), threads=1)
    assert module.replace("_", "-") in refused.value.what
    assert BROKEN[program] in refused.value.what
