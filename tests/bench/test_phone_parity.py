"""What a phone draws is held against the host, over the range that a manifest tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from coronet_deploy.bench.host import OnDisk, load_subjects
from coronet_deploy.bench.phone_parity import bound_db, make_reference
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.export.tflite_file import pack, read_model
from coronet_deploy.vocabulary import DType, Runtime
from lowering import smooth_picture
from support import Cli

NARROW = """
from torch import nn


def make():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)
"""


@pytest.mark.parametrize(
    ("manifest", "peak"),
    [
        ({}, 2.0),
        ({"output": {"value_range": [-1.0, 1.0]}}, 2.0),
        ({"output": {"value_range": [0.0, 1.0]}}, 1.0),
        ({"output": {}}, None),  # nothing bounds it: what the pictures reach
    ],
)
def test_an_error_is_measured_against_what_the_network_draws(
    tiny: Path, manifest: dict[str, Any], peak: float | None
) -> None:
    subject = OnDisk("tiny", tiny / "tiny.tflite", "0" * 64, manifest)
    reference = make_reference(
        subject, lambda height, width: [smooth_picture(height, width, seed=s)[0] for s in (0, 1)]
    )
    error = 1e-3
    drawn = [(one + np.float32(error)).tobytes() for one in reference.outputs]
    if peak is None:
        peak = float(
            max(o.max() for o in reference.outputs) - min(o.min() for o in reference.outputs)
        )
        assert peak < 1.9
    parity = reference.judge(drawn, 40.0)
    assert parity.psnr_db == pytest.approx(20 * np.log10(peak / error), abs=0.01)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_of_other_channels_is_held_against_the_host_too(
    channels: int, tmp_path: Path
) -> None:
    graph = capture(nn.Conv2d(channels, 1, 3, padding=1), 32, 32, channels)
    path = tmp_path / "other.tflite"
    path.write_bytes(emit_tflite(lower(graph, Runtime.TFLITE)[0], DType.FP32, {}))
    reference = make_reference(
        OnDisk("other", path, "0" * 64, {}),
        lambda height, width: [smooth_picture(height, width)[0]],
    )
    assert len(reference.inputs[0]) == channels * 32 * 32 * 4
    assert np.ptp(np.frombuffer(reference.inputs[0], np.float32)) > 0.5
    assert reference.judge([reference.outputs[0].tobytes()], 100.0).passed


@pytest.mark.parametrize(
    ("dtype", "backend", "bound"),
    [
        ("fp32", "cpu", 100.0),
        ("fp16", "cpu", 60.0),
        ("int8", "cpu", 30.0),
        (None, "cpu", 60.0),
        ("fp32", "gpu", 60.0),
        ("fp16", "gpu", 60.0),
        (None, "npu", 60.0),
        ("int8", "npu", 30.0),
    ],
)
def test_other_arithmetic_is_held_to_half_precisions_bound(
    dtype: str | None, backend: str, bound: float
) -> None:
    assert bound_db(None if dtype is None else DType(dtype), backend) == bound


def without_metadata(path: Path) -> Path:
    """Return the artifact as others write one: it says nothing of itself."""
    other = path.with_stem(f"{path.stem}_of_others")
    if path.suffix == ".tflite":
        model = read_model(path.read_bytes())
        model.metadata = None
        other.write_bytes(pack(model))
    else:
        plain = onnx.load(str(path))
        del plain.metadata_props[:]
        onnx.save(plain, str(other))
    return other


@pytest.mark.parametrize(
    ("dtype", "inside", "of_others"),
    [("int8", 30.0, 30.0), ("int8-full", 30.0, 30.0), ("fp16", 60.0, 60.0), ("fp32", 100.0, 60.0)],
)
def test_a_file_without_a_manifest_is_held_to_its_own_number_type(
    dtype: str, inside: float, of_others: float, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "narrow.py").write_text(NARROW)
    line = ("export", "narrow:make", "--size", "64x64", "--dtype", dtype, "--output", "made")
    gate = ("--min-psnr", 10, "--calibration-count", 2) if "int8" in dtype else ()
    made = cli(*line, *gate, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    for suffix in (".tflite", ".onnx"):
        (artifact,) = (tmp_path / "made").glob(f"*{suffix}")
        artifact.with_name(f"{artifact.name}.json").unlink()
        for path, bound in ((artifact, inside), (without_metadata(artifact), of_others)):
            (subject,) = load_subjects([path], None)
            reference = make_reference(
                subject, lambda height, width: [smooth_picture(height, width)[0]]
            )
            assert bound_db(reference.dtype, "cpu") == bound, path.name
