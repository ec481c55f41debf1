"""Generators of the user's own: their artifacts, and the commands that take them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from coronet_deploy.errors import BadInput
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.manifest import read_manifest
from coronet_deploy.export.own import load_own
from coronet_deploy.verify.channels import to_show, with_channels
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.layers import compare_layers
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import DType, Runtime
from lowering import smooth_picture
from support import Cli


def _pictures(height: int, width: int) -> Pictures:
    return Pictures(("a", "b"), tuple(smooth_picture(height, width, seed=i) for i in (1, 2)))


@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("seeded", 3)])
def test_artifacts_of_any_channels_draw_what_torch_draws(
    theirs: Path, name: str, channels: int
) -> None:
    subject = load_own(f"sketches:{name}", channels=channels)
    order = Order(
        subject,
        theirs / "out",
        _pictures(32, 48),
        _pictures(32, 48),
        dtypes=(DType.FP32, DType.FP16, DType.INT8),
    )
    artifacts = release(order)
    assert len(artifacts) == 6
    for artifact in artifacts:
        manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
        assert manifest.source.module == f"sketches:{name}"
        assert manifest.source.plan is None
        assert manifest.input.colours == {1: "grey", 3: "RGB"}[channels]
        assert (manifest.input.mean, manifest.input.std) == (127.5, 127.5)
        assert manifest.output.value_range == (0.0, 1.0)
        assert manifest.output.pixel == "real * 255"
        # (24 x 16 pixels of a 3x3 and a 4x4 kernel, to and from 6 channels)
        assert manifest.macs.real == 24 * 16 * 6 * channels * (9 + 16)
        assert manifest.macs.published == 24 * 16 * 6 * channels * (9 + 4 * 16)
        assert manifest.size == (32, 48)
        assert manifest.partitions is not None
        if manifest.dtype is not DType.INT8:
            assert manifest.partitions.parts == 1


@pytest.mark.parametrize("name", ["Tuple", "Dict"])
def test_one_picture_alone_in_a_tuple_or_a_dict_is_taken(
    theirs: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = load_own(f"sketches:{name}")
    order = Order(subject, theirs / "out", _pictures(16, 16), _pictures(16, 16), [Runtime.ONNX])
    (artifact,) = release(order)
    manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
    compare_layers(artifact.path, manifest, subject, order.pictures.values[0])
    assert artifact.parity.passed
    told = capfd.readouterr()
    assert told.out == ""
    assert ("their forward prints" in told.err) is (name == "Dict")


def test_what_a_forward_imports_late_is_found(theirs: Path) -> None:
    (theirs / "sketch_parts.py").write_text("def twice(x):\n    return x * 2\n")
    subject = load_own("sketches:Late")
    pictures = _pictures(16, 16)
    sys.modules.pop("sketch_parts", None)
    assert translate(subject.generator, pictures)[0].shape == (1, 16, 16, 3)
    sys.modules.pop("sketch_parts", None)
    assert capture(subject.generator, 16, 16).count()["mul"] == 1
    assert str(theirs) not in sys.path


def test_the_name_of_a_file_says_what_rewrites_were_left_out(theirs: Path) -> None:
    order = Order(load_own("sketches:seeded"), theirs, _pictures(16, 16), _pictures(16, 16))
    plain = {order.name_of(r, d) for r in Runtime for d in DType}
    small = replace(order, prefer="size")
    for runtime in Runtime:
        for dtype in DType:
            rewritten = dtype in {DType.FP32, DType.FP16}
            assert (small.name_of(runtime, dtype) not in plain) is rewritten
    assert small.name_of(Runtime.ONNX, DType.FP32) == "seeded_16x16_fp32_prefer-size.onnx"


def test_torch_that_overflows_is_said_before_anything_is_made(theirs: Path) -> None:
    subject = load_own("sketches:Overflowing")
    order = Order(subject, theirs / "out", _pictures(16, 16), _pictures(16, 16))
    with pytest.raises(BadInput, match="torch itself gives"):
        release(order)
    assert not (theirs / "out").exists()


def test_the_command_takes_a_name_and_several_sizes(cli: Cli, theirs: Path) -> None:
    save_file(load_own("sketches:seeded").generator.state_dict(), theirs / "mine.safetensors")
    given = ("--weights", "mine.safetensors", "--output", "out")
    done = cli("export", "sketches:Sketch", *given, "--size", "32x48,16x16", "--json", cwd=theirs)
    assert done.returncode == 0, done.stderr
    assert "that it is made with" not in done.stderr
    # What their code prints is not in the way of the JSON.
    rows = json.loads(done.stdout)["artifacts"]
    assert [Path(row["path"]).name for row in rows] == [
        f"mine_{size}_fp32.{runtime}"
        for size in ("32x48", "16x16")
        for runtime in ("onnx", "tflite")
    ]
    path = rows[0]["path"]
    flags = ("--checkpoint", "sketches:Sketch", "--weights", "mine.safetensors")
    done = cli("verify", path, *flags, "--layers", "--json", cwd=theirs)
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["artifacts"][0]["layers"]
    assert {"enter", "norm", "leave"} < {layer["layer"] for layer in layers["layers"]}
    assert layers["first_wrong"] is None
    done = cli("verify", path, "--checkpoint", "sketches:grey", "--channels", 1, cwd=theirs)
    assert done.returncode == 2
    assert "sketches:Sketch with weights" in done.stderr
    done = cli("verify", path, "--checkpoint", "sketches:Sketch", cwd=theirs)
    assert done.returncode == 2
    assert "give the --weights that it had" in done.stderr


def test_verify_takes_pictures_of_the_channels_that_the_artifact_takes(
    cli: Cli, theirs: Path
) -> None:
    flags = ("--channels", 1, "--size", "16x16", "--runtime", "onnx", "--output", "one")
    done = cli("export", "sketches:grey", *flags, cwd=theirs)
    assert done.returncode == 0, done.stderr
    assert "sketches:grey has the weights that it is made with" in done.stderr
    (path,) = (theirs / "one").glob("*.onnx")
    line = ("verify", path, "--checkpoint", "sketches:grey")
    done = cli(*line, cwd=theirs)
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout
    done = cli(*line, "--channels", 3, cwd=theirs)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--channels 3: {path} takes pictures of 1 (leave" in done.stderr


def test_an_operator_that_is_not_supported_ends_the_command_in_one_line(
    cli: Cli, theirs: Path
) -> None:
    done = cli("export", "sketches:Softened", "--size", "16x16", "--output", "out", cwd=theirs)
    assert done.returncode == 4
    *before, last = done.stderr.splitlines()
    for word in ("error: operator aten.erfinv", "'soft'", "is not supported"):
        assert word in last
    # All that is supported stands above, where it buries nothing.
    assert len(last) < 200
    listed = before[before.index("Operators that are supported:") + 1 :]
    assert all(line.startswith("  ") and len(line) <= 100 for line in listed)
    assert {"instance_norm", "conv2d", "upsample_nearest2d"} < set(
        re.split(r"[,\s]+", " ".join(listed))
    )
    assert "Traceback" not in done.stderr
    assert not (theirs / "out").exists()
    done = cli("export", "--weights", "mine.safetensors", cwd=theirs)
    assert done.returncode == 2
    assert "--weights goes with a generator of your own" in done.stderr


def test_failures_are_counted_once_each_and_what_is_said_of_all_is_said_once(
    cli: Cli, theirs: Path
) -> None:
    flags = ("--output", "out", "--size", "16x16,32x16", "--dtype", "fp32", "--dtype", "fp16")
    done = cli("export", "sketches:seeded", *flags, "--min-psnr", 199, cwd=theirs)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "error: 8 artifacts failed: " in last
    assert last.count("failed") == 1
    assert last.count("below the bound") == 8
    done = cli("export", "sketches:Softened", *flags, cwd=theirs)
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert "error: operator aten.erfinv" in last
    assert last.count("erfinv") == 1
    assert done.stderr.count("Operators that are supported:") == 1


def test_too_little_memory_is_told_in_one_line(cli: Cli, theirs: Path) -> None:
    done = cli("export", "sketches:Vast", "--size", "16x16", "--output", "out", cwd=theirs)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "error: not enough memory to export: " in last
    assert last.endswith("(smaller pictures (--size) take less)")
    assert "Traceback" not in done.stderr
    assert not (theirs / "out").exists()


def test_pictures_get_the_channels_a_network_takes() -> None:
    given = _pictures(8, 12)
    assert with_channels(given, 3) is given
    (grey, *_) = with_channels(given, 1).values
    assert grey.shape == (1, 8, 12, 1)
    assert np.allclose(grey[..., 0], given.values[0] @ [0.299, 0.587, 0.114], atol=1e-6)
    (many, *_) = with_channels(given, 7).values
    assert many.shape == (1, 8, 12, 7)
    assert np.array_equal(many[..., :3], given.values[0])
    planes = [many[..., i] for i in range(7)]
    assert not any(np.array_equal(a, b) for i, a in enumerate(planes) for b in planes[:i])
    assert to_show(many, 4, 24).shape == (1, 4, 24, 3)
    assert np.array_equal(to_show(grey, 8, 12)[..., 2], grey[..., 0])
