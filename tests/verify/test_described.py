"""Manifests that say other things of an artifact than the artifact says of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.export.manifest import METADATA_KEY, checked_manifest, manifest_path
from coronet_deploy.storage import sha256_of
from coronet_deploy.verify.described import require_described

Cli = Callable[..., subprocess.CompletedProcess[str]]
Exported = tuple[Path, dict[str, Any]]


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "artifacts"))


def _edit(artifact: Path, key: str, value: object) -> None:
    """Set one key, such as "input.shape", of an artifact's manifest."""
    path = manifest_path(artifact)
    values = table = json.loads(path.read_text())
    *tables, last = key.split(".")
    for name in tables:
        table = table[name]
    table[last] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "int8"),
        ("direction", "BtoA"),
        ("input.shape", [1, 48, 32, 3]),
        ("input.value_range", [0.0, 1.0]),
        ("output.scale", 0.5),
        ("macs.real", 7),
        ("passes", []),
        ("bytes", 7),
    ],
)
def test_the_first_field_that_differs_is_named(
    copied: Path, suffix: str, key: str, value: object
) -> None:
    (path,) = copied.glob(f"*{suffix}")
    require_described(path, checked_manifest(path))
    _edit(path, key, value)
    with pytest.raises(BadInput) as caught:
        require_described(path, checked_manifest(path))
    assert f"{manifest_path(path)}: {key!r} is not what" in str(caught.value)


def test_the_command_refuses_it(cli: Cli, copied: Path, checkpoint: Path) -> None:
    (path,) = copied.glob("*.onnx")
    command = ("verify", path, "--checkpoint", checkpoint)
    for key, value, words in (
        ("runtime", "tflite", "'runtime'"),
        ("input.shape", [1, 3, 2**40, 48], "'input.shape.2'"),
    ):
        _edit(path, key, value)
        done = cli(*command)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


def test_a_file_that_says_nothing_of_itself_is_asked_for_its_size_alone(copied: Path) -> None:
    import onnx

    (path,) = copied.glob("*.onnx")
    model = onnx.load(str(path))
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    del model.metadata_props[:]
    onnx.save(model, str(path))
    _edit(path, "sha256", sha256_of(path))
    _edit(path, "bytes", path.stat().st_size)
    _edit(path, "scheme", "another's")
    require_described(path, checked_manifest(path))
    _edit(path, "input.shape", [1, 3, 1 << 20, 48])
    with pytest.raises(BadInput, match=r"input\.shape"):
        require_described(path, checked_manifest(path))
