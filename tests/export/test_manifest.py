"""Manifests: written, read back, and strict about what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.export.manifest import (
    Contract,
    Macs,
    Manifest,
    ParityFigures,
    Source,
    checked_manifest,
    manifest_path,
    read_manifest,
    tool_versions,
    write_manifest,
)
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.storage import sha256_of
from coronet_deploy.vocabulary import (
    Architecture,
    DType,
    Kind,
    Parity,
    Runtime,
    TensorContract,
)


def _manifest(artifact: Path) -> Manifest:
    plan = full_plan(Architecture.UNET_128, width=8)
    shape = (1, 128, 256, 3)
    return Manifest(
        model="small",
        source=Source(sha256="0" * 64, kind=Kind.CORONET, plan=plan.as_json()),
        runtime=Runtime.TFLITE,
        dtype=DType.FP32,
        scheme="float32",
        input=Contract.of(TensorContract("input", "NHWC", shape, "float32")),
        output=Contract.of(TensorContract("output", "NHWC", shape, "float32")),
        macs=Macs(real=7, published=9),
        passes=("fold_batch_norm",),
        tools=tool_versions(Runtime.TFLITE),
        parity=ParityFigures.of(Parity(123.456789, 4.56789e-6, 0.99999999, 3, 100.0)),
        bytes=artifact.stat().st_size,
        sha256=sha256_of(artifact),
    )


def _input(height: int) -> dict[str, Any]:
    shape = [1, height, 256, 3]
    return {"name": "input", "layout": "NHWC", "shape": shape, "dtype": "float32"}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "small_128x256_fp32.tflite"
    path.write_bytes(b"an artifact")
    write_manifest(path, _manifest(path))
    return path


def _edit(artifact: Path, **changes: Any) -> Path:
    path = manifest_path(artifact)
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    path.write_text(json.dumps(values))
    return path


def test_what_is_written_is_read_back(artifact: Path) -> None:
    manifest = checked_manifest(artifact)
    assert manifest == _manifest(artifact)
    assert manifest.size == (128, 256)
    assert manifest.parity.psnr_db == 123.46
    assert manifest.parity.max_abs == 4.57e-6
    values = json.loads(manifest_path(artifact).read_text())
    assert values["source"]["plan"]["architecture"] == "unet_128"
    assert values["macs"] == {"real": 7, "published": 9}


def test_a_manifest_of_the_first_version_is_still_read(artifact: Path) -> None:
    path = manifest_path(artifact)
    values = json.loads(path.read_text())
    for end in ("input", "output"):
        del values[end]["mean"], values[end]["std"]
    del values["converter"]
    path.write_text(json.dumps(values | {"schema_version": 1}))
    manifest = checked_manifest(artifact)
    assert manifest.schema_version == 1
    assert manifest.size == (128, 256)
    assert (manifest.direction, manifest.converter) == (None, "coronet-deploy")
    assert manifest.input.value_range == (-1.0, 1.0)


def test_the_same_manifest_is_the_same_bytes(artifact: Path) -> None:
    before = manifest_path(artifact).read_bytes()
    write_manifest(artifact, _manifest(artifact))
    assert manifest_path(artifact).read_bytes() == before


def test_a_misspelt_key_is_named_with_its_file(artifact: Path) -> None:
    # The misspelt key also leaves the right one missing; the misspelling is what helps.
    path = _edit(artifact, dtype=None, dtpye="fp32")
    with pytest.raises(BadInput) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "unknown key 'dtpye'" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parity": None}, "key 'parity' is missing"),
        ({"bytes": "12"}, "'bytes'"),
        ({"dtype": "fp8"}, "'dtype'"),
        ({"schema_version": 0}, "'schema_version'"),
        (
            {"schema_version": 3, "colour": 1},
            "schema_version 3 is newer than 2, the newest this version reads (upgrade coronet",
        ),
        ({"sha256": "abc"}, "'sha256'"),
        ({"input": _input(2**40)}, "'input.shape.1'"),
        ({"macs": {"real": 7, "published": 9, "mac": 1}}, "unknown key 'macs.mac'"),
        ({"source": {"sha256": "0" * 64, "kind": "dense", "plan": {}}}, "'source.plan'"),
    ],
)
def test_wrong_values_are_one_line(artifact: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_manifest(_edit(artifact, **changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_or_holds_nan_is_refused(artifact: Path) -> None:
    path = manifest_path(artifact)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(BadInput, match="manifest"):
        read_manifest(path)
    path.write_text(text.replace("123.46", "NaN"))
    with pytest.raises(BadInput, match="psnr_db"):
        read_manifest(path)


def test_another_artifact_under_the_manifest_is_refused(artifact: Path) -> None:
    artifact.write_bytes(b"An artifact")
    with pytest.raises(BadInput, match="its SHA-256 differs"):
        checked_manifest(artifact)
