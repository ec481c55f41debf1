"""`coronet-deploy export` and `verify`, through the installed command."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.manifest import read_manifest
from coronet_deploy.storage import sha256_of

Cli = Callable[..., subprocess.CompletedProcess[str]]
Exported = tuple[Path, dict[str, Any]]

SIZE = "32x48"
NAMES = ("small_32x48_fp32.onnx", "small_32x48_fp32.tflite")


def _files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def _refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Check for the status, and for one line of error that holds all `words`."""
    assert done.returncode == status, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("coronet-deploy: error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in last


def test_export_says_what_it_made(exported: Exported) -> None:
    folder, said = exported
    assert set(_files(folder)) == {
        f"{name}{end}" for name in NAMES for end in ("", ".json", ".png")
    }
    for row in said["artifacts"]:
        path = Path(row["path"])
        assert path.parent == folder
        assert row["bytes"] == path.stat().st_size
        assert row["sha256"] == sha256_of(path)
        assert row["dtype"] == "fp32"
        assert path.suffix == f".{row['runtime']}"
        assert row["psnr_db"] > 100
        assert 0 <= row["max_abs"] < 1e-3
        assert row["seconds"] > 0
        manifest = read_manifest(folder / f"{path.name}.json")
        assert manifest.sha256 == row["sha256"]
        assert manifest.size == (32, 48)
        assert manifest.input.layout == ("NCHW" if path.suffix == ".onnx" else "NHWC")


def test_the_manifest_is_inside_the_file_too(exported: Exported) -> None:
    import onnxruntime
    from ai_edge_litert import schema_py_generated as schema

    folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / NAMES[0]))
    inside = json.loads(session.get_modelmeta().custom_metadata_map["coronet_deploy"])
    beside = json.loads((folder / f"{NAMES[0]}.json").read_text())
    assert inside.items() <= beside.items()
    data = (folder / NAMES[1]).read_bytes()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entry = next(m for m in model.metadata if m.name == b"coronet_deploy")
    inside = json.loads(bytes(model.buffers[entry.buffer].data))
    beside = json.loads((folder / f"{NAMES[1]}.json").read_text())
    assert inside.items() <= beside.items()
    assert inside["source"]["kind"] == "dense"


def test_exporting_again_gives_the_same_bytes_and_may_happen_twice_at_once(
    exported: Exported, checkpoint: Path, tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).with_name("coronet-deploy")), "export", str(checkpoint)]
    command += ["--size", SIZE, "--output", str(tmp_path / "both")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env) for _ in range(2)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert _files(tmp_path / "both") == _files(exported[0])


def test_a_failed_gate_keeps_the_artifact_as_rejected_and_tries_the_others(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--size", SIZE, "--runtime", "tflite", "--dtype", "all", "--min-psnr", "100")
    done = cli("export", checkpoint, *options, "--output", out, "--json")
    names = [f"small_32x48_{dtype}.tflite" for dtype in ("fp32", "fp16", "int8")]
    _refused(done, 1, names[1], names[2], "below the bound of 100 dB")
    assert [Path(row["path"]).name for row in json.loads(done.stdout)["artifacts"]] == names[:1]
    assert (out / names[0]).exists()
    for name in names[1:]:
        assert not (out / name).exists()
        assert not (out / f"{name}.json").exists()
        assert (out / f"{name}.rejected").stat().st_size > 0
        assert (out / f"{name}.rejected.png").stat().st_size > 0


def test_a_checkpoint_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    _refused(cli("export", path, "--output", tmp_path / "out"), 2, str(path), "does not exist")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    done = cli("export", checkpoint, "--size", SIZE, "--output", file / "out")
    _refused(done, 3, str(file / "out"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "fp8"),
        ("--runtime", "coreml"),
        ("--size", "256x"),
        ("--min-psnr", "nan"),
        ("--min-psnr", "200.5"),
    ],
)
def test_unknown_values_are_usage_errors(cli: Cli, arguments: tuple[str, str]) -> None:
    done = cli("export", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert arguments[1] in done.stderr


def test_a_size_that_the_generator_cannot_take(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("export", checkpoint, "--size", "30x48", "--output", tmp_path)
    _refused(done, 2, "30x48", "multiples of 4")
    assert not list(tmp_path.iterdir())


def test_pictures_that_are_not_there_or_not_whole(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    command = ("export", checkpoint, "--size", SIZE, "--output", out)
    _refused(cli(*command, "--pictures", folder), 2, str(folder), "holds no picture")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    done = cli(*command, "--dtype", "int8", "--calibration", folder)
    _refused(done, 2, str(folder / "b.png"), "not a readable picture")
    assert not out.exists()


def test_a_full_disk_leaves_nothing_behind(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    out = tmp_path / "out"
    command = ("export", checkpoint, "--size", SIZE, "--output", out, "--runtime", "onnx")
    done = cli(*command, preexec_fn=limit)
    _refused(done, 3, "cannot write", str(out))
    assert not list(tmp_path.rglob("*.*"))  # no artifact, manifest, picture or temporary file


def test_verify_compares_again(
    cli: Cli, exported: Exported, checkpoint: Path, tmp_path: Path
) -> None:
    paths = [exported[0] / name for name in NAMES]
    done = cli("verify", exported[0], "--checkpoint", checkpoint, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["artifacts"]
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row["psnr_db"] for row in rows] == [row["psnr_db"] for row in exported[1]["artifacts"]]
    grid = tmp_path / "grid.png"
    command = ("verify", paths[0], "--checkpoint", checkpoint, "--grid", grid, "--min-psnr", "199")
    _refused(cli(*command), 1, str(paths[0]), "below the bound of 199 dB")
    with Image.open(grid) as picture:
        assert picture.width == 4 * 48 + 3 * 4


def test_verify_refuses_what_is_not_the_file_of_the_manifest(
    cli: Cli, exported: Exported, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(exported[0], folder)
    path = folder / NAMES[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = cli("verify", path, "--checkpoint", checkpoint)
    _refused(done, 2, str(path), "SHA-256 differs")
    manifest = folder / f"{NAMES[1]}.json"
    manifest.unlink()
    done = cli("verify", folder / NAMES[1], "--checkpoint", checkpoint)
    _refused(done, 2, str(manifest), "does not exist (export writes it beside each artifact")


def test_half_pictures_in_and_out(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    import onnx

    command = ("export", checkpoint, "--size", SIZE, "--dtype", "fp16", "--half-io")
    done = cli(*command, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "small_32x48_fp16_half-io.onnx"
    manifest = read_manifest(tmp_path / f"{path.name}.json")
    assert manifest.input.dtype == manifest.output.dtype == "float16"
    graph = onnx.load(str(path)).graph
    ends = {tensor.type.tensor_type.elem_type for tensor in (*graph.input, *graph.output)}
    assert ends == {onnx.TensorProto.FLOAT16}
    assert "Cast" not in {node.op_type for node in graph.node}
    # The other runtime's pictures stay as they are, and so does its name.
    other = read_manifest(tmp_path / "small_32x48_fp16.tflite.json")
    assert other.input.dtype == "float32"
    assert cli("verify", path, "--checkpoint", checkpoint).returncode == 0
    _refused(cli("export", checkpoint, "--half-io"), 2, "--half-io", "fp32")


def test_as_many_calibration_pictures_as_are_wanted(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("export", checkpoint, "--size", SIZE, "--dtype", "int8", "--runtime", "onnx")
    done = cli(*command, "--calibration-count", "2", "--min-psnr", "10", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    quantization = read_manifest(tmp_path / "small_32x48_int8.onnx.json").quantization
    assert quantization is not None
    whole = [name for name in quantization.calibration_pictures if "flipped" not in name]
    assert len(whole) == 2
    # Of label maps, which are another task's: that is said.
    assert "--calibration DIR takes pictures of your task" in done.stderr
    own = ("--calibration", bundled_pictures()[0].parent)
    done = cli(*command, *own, "--min-psnr", "10", "--output", tmp_path / "own")
    assert "--pictures DIR takes pictures of your task" in done.stderr
    done = cli(*command, "--calibration-count", "0")
    assert done.returncode == 2
    assert "--calibration-count: '0' is not a number of pictures" in done.stderr
