"""`coronet-deploy evaluate`, through the installed command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.storage import sha256_of
from coronet_deploy.verify.examples import find_examples
from quality_data import write_pairs, write_picture, write_squeezenet
from support import COMMAND, fill

Cli = Callable[..., subprocess.CompletedProcess[str]]
Exported = tuple[Path, dict[str, Any]]

SIZE = ("--size", "32x48")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 6)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squeezenet(tmp_path_factory.mktemp("features") / "squeezenet.safetensors")


def _refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (last,) = [line for line in done.stderr.splitlines() if "error: " in line]
    for word in words:
        assert word in last


def test_checkpoint_and_artifacts_are_judged_alike(
    cli: Cli, checkpoint: Path, exported: Exported, data: Path, features: Path, tmp_path: Path
) -> None:
    said = []
    grid = tmp_path / "grid.png"
    models = (checkpoint, *sorted(exported[0].glob("*.onnx")), *exported[0].glob("*.tflite"))
    options = ("--data", data, "--direction", "AtoB", "--features", features, "--json")
    for model in models:
        size = SIZE if model == checkpoint else ()
        done = cli("evaluate", model, *options, *size, "--grid", grid)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert [row["kind"] for row in said] == ["checkpoint", "onnx", "tflite"]
    assert {row["data_sha256"] for row in said} == {find_examples(data, "AtoB").digest()}
    for model, row in zip(models, said, strict=True):
        assert row["sha256"] == sha256_of(model)
        assert (row["generated"], row["true"], row["paired"]) == (6, 6, True)
        assert row["size"] == [32, 48]
        frechet, kernel = row["distances"]
        assert (frechet["name"], kernel["name"]) == ("SqueezeNet-FD", "SqueezeNet-KID")
        assert frechet["features_sha256"] == sha256_of(features)
        assert frechet["reliable"] is False
        assert (kernel["subsets"], kernel["subset_size"]) == (100, 3)
        for name in ("psnr_db", "ssim", "l1"):
            ours, torchs = row["likeness"][name]["mean"], said[0]["likeness"][name]["mean"]
            assert ours == pytest.approx(torchs, rel=1e-3)
        assert kernel["value"] == pytest.approx(said[0]["distances"][1]["value"], rel=1e-2)
    with Image.open(grid) as picture:
        assert picture.size == (3 * 48 + 2 * 4, 16 + 4 * (32 + 4))


def test_the_table_fits_and_says_what_to_go_by(
    cli: Cli, checkpoint: Path, data: Path, features: Path
) -> None:
    command = ("evaluate", checkpoint, "--data", data, *SIZE, "--direction", "BtoA")
    done = cli(*command, "--features", features, "--count", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("4 generated and 4 true pictures" in line for line in lines)
    text = " ".join(done.stdout.split())
    assert "SqueezeNet-FD is unreliable here" in text
    assert "Go by SqueezeNet-KID." in text
    assert cli(*command, "--features", features, "--count", "4").stdout == done.stdout


@pytest.mark.parametrize("columns", ["0", "40"])
def test_a_narrow_terminal_loses_no_figure(
    columns: str, cli: Cli, checkpoint: Path, data: Path
) -> None:
    command = ("evaluate", checkpoint, "--data", data, *SIZE, "--direction", "BtoA")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    wide = cli(*command, env={**environment, "COLUMNS": "80"})
    narrow = cli(*command, env={**environment, "COLUMNS": columns})
    assert "PSNR dB" in wide.stdout
    assert narrow.stdout.split() == wide.stdout.split()


def test_without_a_direction_it_asks(cli: Cli, checkpoint: Path, data: Path) -> None:
    _refused(cli("evaluate", checkpoint, "--data", data, *SIZE), 2, "--direction")


def test_a_device_that_is_not_there_or_not_used_is_named(
    cli: Cli, checkpoint: Path, exported: Exported, data: Path
) -> None:
    line = ("--data", data, "--direction", "AtoB")
    done = cli("evaluate", checkpoint, *line, *SIZE, "--device", "meta")
    _refused(done, 2, "--device meta: torch cannot use it here")
    artifact = next(exported[0].glob("*.onnx"))
    done = cli("evaluate", artifact, *line, "--device", "cuda")
    _refused(done, 2, f"--device cuda has no effect: {artifact} runs in a runtime of its own")


def test_too_little_memory_is_one_line(data: Path) -> None:
    line = [COMMAND, "evaluate", "--data", data, "--direction", "BtoA", "--size", "4096x4096"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "bash", *map(str, line)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    _refused(done, 3, "not enough memory to draw pictures", "(--size)")


def test_an_artifact_knows_its_direction(
    cli: Cli, exported: Exported, data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported[0], tmp_path / "artifacts")
    path = next(folder.glob("*.onnx"))
    beside = path.with_name(f"{path.name}.json")
    said = json.loads(beside.read_text())
    assert "direction" not in said
    beside.write_text(json.dumps(said | {"direction": "BtoA"}))
    done = cli("evaluate", path, "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["direction"] == "BtoA"
    done = cli("evaluate", path, "--data", data, "--direction", "AtoB", "--json")
    assert json.loads(done.stdout)["direction"] == "AtoB"


def test_folders_of_the_same_names_are_pairs_if_that_is_said(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    for i in range(3):
        for place, name in enumerate(("testA", "testB")):
            write_picture(tmp_path / name / f"{i}.png", 10 * place + i, 32, 48)
    line = ("evaluate", checkpoint, "--data", tmp_path, "--direction", "AtoB", *SIZE)
    _refused(cli(*line), 2, "holds no pairs", "--paired")
    done = cli(*line, "--paired", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["paired"], said["generated"], said["true"]) == (True, 3, 3)
    assert set(said["likeness"]) == {"psnr_db", "ssim", "l1"}


def test_pairs_of_unlike_shapes_are_told(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    line = ("evaluate", checkpoint, "--data", tmp_path, "--direction", "AtoB", *SIZE, "--paired")
    for i in range(3):
        write_picture(tmp_path / "testA" / f"{i}.png", i, 32, 48)
        # Half or double the size, to the pixel, is the same shape.
        write_picture(tmp_path / "testB" / f"{i}.png", 10 + i, 21 * (i + 1), 32 * (i + 1))
    done = cli(*line)
    assert (done.returncode, "unlike" in done.stderr) == (0, False), done.stderr
    write_picture(tmp_path / "testB" / "1.png", 11, 32, 32)
    done = cli(*line, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["paired"]
    told = next(text for text in done.stderr.splitlines() if "unlike" in text)
    both = f"{tmp_path / 'testA' / '1.png'} is 48x32 and {tmp_path / 'testB' / '1.png'} 32x32"
    assert told.startswith(f"1 of 3 pairs are of unlike shapes, such as {both}: each picture is")


def test_the_judged_files_have_a_digest_that_moves_with_them(tmp_path: Path) -> None:
    for i in range(3):
        for place, name in enumerate(("testA", "testB")):
            write_picture(tmp_path / "data" / name / f"{i}.png", 10 * place + i, 32, 48)
    pairs = write_pairs(tmp_path / "pairs", 4)

    def digest(folder: Path, count: int | None = None, *, matched: bool = False) -> str:
        return find_examples(folder, "AtoB", count, matched=matched).digest()

    folder = tmp_path / "data"
    moved = shutil.copytree(folder, tmp_path / "moved")
    for name in ("testA", "testB"):
        (moved / name / "0.png").rename(moved / name / "9.png")
    for matched in (False, True):
        assert digest(folder, matched=matched) == digest(moved, matched=matched)
    found = [digest(pairs), digest(pairs, 2), digest(folder), digest(folder, matched=True)]
    # The same files, of which others belong together.
    (moved / "testB" / "9.png").rename(moved / "testB" / "t.png")
    (moved / "testB" / "1.png").rename(moved / "testB" / "9.png")
    (moved / "testB" / "t.png").rename(moved / "testB" / "1.png")
    assert digest(moved) == digest(folder)
    found.append(digest(moved, matched=True))
    write_picture(moved / "testB" / "1.png", 50, 32, 48)
    found.append(digest(moved))
    assert len(set(found)) == len(found)


def test_an_artifact_has_the_size_it_has(cli: Cli, exported: Exported, data: Path) -> None:
    path = next(exported[0].glob("*.tflite"))
    done = cli("evaluate", path, "--data", data, "--direction", "AtoB", "--size", "64x64")
    _refused(done, 2, "--size", "32x48")


@pytest.mark.parametrize("size", ["4x4", "4x32", "12x10"])
def test_a_size_that_the_generator_does_not_take(
    size: str, cli: Cli, checkpoint: Path, data: Path
) -> None:
    done = cli("evaluate", checkpoint, "--data", data, "--direction", "AtoB", "--size", size)
    _refused(done, 2, f"pictures of {size} do not fit resnet", "multiples of 4, at least 8")


def test_data_that_cannot_be_used(cli: Cli, exported: Exported, data: Path, tmp_path: Path) -> None:
    path = next(exported[0].glob("*.onnx"))
    folder = tmp_path / "data"
    command = ("evaluate", path, "--direction", "AtoB", "--data", folder)
    _refused(cli(*command), 2, str(folder), "not a folder")
    folder.mkdir()
    _refused(cli(*command), 2, str(folder), "neither pairs")
    shutil.copy(data / "00.png", folder)
    _refused(cli(*command), 2, str(folder), "1 picture", "at least 2")
    write_picture(folder / "odd.png", 1, 32, 95)
    _refused(cli(*command), 2, str(folder / "odd.png"), "95x32")
    (folder / "odd.png").write_bytes((data / "00.png").read_bytes()[:200])
    _refused(cli(*command), 2, str(folder / "odd.png"), "not a readable picture")


def test_feature_files_that_cannot_be_used(
    cli: Cli, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    command = ("evaluate", checkpoint, "--data", data, "--direction", "AtoB", *SIZE)
    gone = tmp_path / "gone.safetensors"
    _refused(cli(*command, "--features", gone), 2, str(gone), "does not exist")
    # A checkpoint is a whole safetensors file, too.
    _refused(cli(*command, "--features", checkpoint), 2, "is not a SqueezeNet 1.0")
    _refused(cli(*command, "--inception", data / "00.png"), 2, "00.png", "not a whole torch file")
    gone = tmp_path / "gone.pth"
    words = "https://github.com/toshas/torch-fidelity/releases/", "2015-12-05-6726825d.pth"
    _refused(cli(*command, "--inception", gone), 2, str(gone), "does not exist", *words)


def test_a_grid_that_cannot_be_written_costs_no_figures(
    cli: Cli, checkpoint: Path, data: Path, disk: Path
) -> None:
    command = ("evaluate", checkpoint, "--data", data, "--direction", "AtoB", *SIZE, "--json")
    before = cli(*command, "--grid", "/proc/none/grid.png")
    _refused(before, 3, "--grid /proc/none/grid.png cannot be written")
    assert "pictures" not in before.stderr
    fill(disk)
    late = cli(*command, "--grid", disk / "grid.png")
    assert late.returncode == 3
    assert "cannot write" in late.stderr
    assert json.loads(late.stdout)["generated"] == 6
    assert not (disk / "grid.png").exists()


def test_what_takes_its_time_after_the_pictures_is_told(
    cli: Cli, checkpoint: Path, data: Path, features: Path
) -> None:
    command = ("evaluate", checkpoint, "--data", data, "--direction", "AtoB", *SIZE)
    done = cli(*command, "--features", features)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "SqueezeNet-FD and SqueezeNet-KID of 6 pictures"


def test_features_without_the_package_that_reads_them(features: Path) -> None:
    program = (
        "import sys\n"
        "from coronet_deploy.verify.features import read_squeezenet\n"
        "from coronet_deploy.errors import EnvironmentProblem\n"
        "from pathlib import Path\n"
        "sys.modules['safetensors'] = None\n"
        "try: read_squeezenet(Path(sys.argv[1]))\n"
        "except EnvironmentProblem as error: print(error)\n"
    )
    line = [sys.executable, "-c", program, str(features)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "'safetensors' is not installed" in done.stdout


def test_a_generator_that_draws_no_numbers_fails(cli: Cli, data: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    nan = helper.make_tensor("nan", TensorProto.FLOAT, [1], np.array([np.nan], np.float32))
    shape = [1, 3, 32, 48]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "nan"], ["y"])],
        "broken",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [nan],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path, grid = tmp_path / "broken.onnx", tmp_path / "grid.png"
    onnx.save(model, str(path))
    command = ("evaluate", path, "--data", data, "--direction", "AtoB", "--grid", grid)
    _refused(cli(*command), 1, str(path), "not finite")
    assert not grid.exists()


def test_fid_says_which_package_it_takes(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    import torch

    weights = tmp_path / "inception.pth"
    torch.save({"fc.bias": torch.zeros(3)}, weights)
    arguments = ["evaluate", str(checkpoint), "--data", str(data), "--direction", "AtoB"]
    arguments += [*SIZE, "--inception", str(weights)]
    program = (
        "import sys\n"
        "sys.modules['torch_fidelity'] = None\n"
        "from coronet_deploy.cli import main\n"
        f"sys.exit(main({arguments!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    _refused(done, 3, "'torch_fidelity", "coronet-deploy[fid]")
