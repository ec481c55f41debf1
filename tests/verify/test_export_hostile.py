"""What goes wrong around an export: full disks, interruptions, degenerate networks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.subject import Subject
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.storage import write_bytes
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import smooth_picture, trained
from support import COMMAND, Cli, fill

_SOURCE = Source(sha256="0" * 64, kind=Kind.DENSE)


def _order(folder: Path, width: int = 4, dtypes: tuple[DType, ...] = (DType.FP32,)) -> Order:
    torch.manual_seed(0)
    plan = full_plan(Architecture.RESNET_6, width=width)
    subject = Subject("small", _SOURCE, trained(build_generator(plan)), 3, plan)
    given = Pictures(("a",), (smooth_picture(32, 32),))
    return Order(subject, folder, given, given, dtypes=dtypes)


def test_a_disk_that_fills_up_keeps_what_was_there_and_adds_nothing(disk: Path) -> None:
    out = disk / "out"
    release(_order(out, width=2))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    blocker = fill(disk)
    with pytest.raises(EnvironmentProblem, match="cannot write") as caught:
        release(_order(out, width=3))
    assert str(out) in str(caught.value)
    assert ".export-" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    blocker.unlink()
    release(_order(out, width=3))
    assert {path.name for path in out.iterdir()} == set(before)


def _ended(checkpoint: Path, out: Path, end: signal.Signals) -> tuple[int, str]:
    """Return the status of an export that got a signal at work, and what it then said."""
    line = [str(COMMAND), "export", str(checkpoint), "--size", "512x512"]
    line += ["--dtype", "int8", "--output", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if end is not signal.SIGKILL:  # whatever these tests were started under
        line = ["env", f"--default-signal={end.name.removeprefix('SIG')}", *line]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 240
        for text in process.stderr:
            if "sensitivity" in text or "building" in text or time.monotonic() > deadline:
                break
        process.send_signal(end)
        told = process.stderr.read()
    return process.returncode, told


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_export_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, end: signal.Signals
) -> None:
    out = tmp_path / "out"
    status, told = _ended(checkpoint, out, end)
    assert status == 130, told
    assert told.splitlines()[-1] == "coronet-deploy: interrupted"
    assert not out.exists()


def test_what_a_killed_export_left_is_removed_and_what_is_at_work_stays(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, told = _ended(checkpoint, out, signal.SIGKILL)
    assert status == -signal.SIGKILL, told
    (left,) = (one for one in out.iterdir() if one.is_dir())
    assert left.name.startswith(".export-")
    beside: list[Path] = []

    def meanwhile(_: str) -> None:
        if not beside:
            beside.extend(one for one in out.iterdir() if one.is_dir())
            release(_order(out, width=2))

    assert len(release(_order(out), meanwhile)) == 2
    assert len(beside) == 1
    assert left not in beside
    assert not [path for path in out.iterdir() if path.is_dir()]


@pytest.mark.parametrize("end", ["", ".json", ".png", ".rejected"])
def test_a_folder_that_has_an_artifacts_name_is_said_before_anything_is_made(
    tmp_path: Path, end: str
) -> None:
    order = _order(tmp_path / "out")
    folder = order.output_dir / f"{order.name_of(Runtime.TFLITE, DType.FP32)}{end}"
    folder.mkdir(parents=True)
    with pytest.raises(EnvironmentProblem, match="a folder has that name") as caught:
        release(order)
    assert str(folder) in str(caught.value)
    assert list(order.output_dir.iterdir()) == [folder]


def test_an_output_of_a_name_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot write into .*File name too long"):
        release(_order(tmp_path / ("x" * 300)))


@pytest.mark.parametrize("name", [".", "/"])
def test_a_file_without_a_name_cannot_be_written(name: str) -> None:
    with pytest.raises(EnvironmentProblem, match="it is a folder"):
        write_bytes(Path(name), b"a grid")


@pytest.mark.parametrize(
    "line", [("verify", "a.onnx"), ("evaluate", "a.onnx", "--data", "pictures")]
)
def test_a_grid_that_is_a_folder_is_said_at_once(
    cli: Cli, tmp_path: Path, line: tuple[str, ...]
) -> None:
    done = cli(*line, "--grid", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "coronet-deploy: error: --grid . is a folder (name a file)\n"


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_one_channel_everywhere_is_exported_like_any_other(dtype: DType, tmp_path: Path) -> None:
    assert len(release(_order(tmp_path, width=1, dtypes=(dtype,)))) == 2


def test_activations_that_are_constant_pass_through_a_norm(tmp_path: Path) -> None:
    order = _order(tmp_path)
    with torch.no_grad():
        order.subject.generator.get_parameter("enter.weight").zero_()
    # torch's norm of a constant is not 0 but the rounding of its mean, made 300 times as large.
    assert len(release(replace(order, bounds_db={DType.FP32: 45.0}))) == 2


def test_a_picture_of_nan_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    order = _order(tmp_path / "out")
    order.pictures.values[0][0, 3, 3] = float("nan")
    with pytest.raises(BadInput, match="not finite"):
        release(order)
    assert not (tmp_path / "out").exists()


def test_a_size_that_does_not_fit_is_refused_before_the_first_is_made(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    sizes = ("--size", "32x32", "--size", "64x64,30x64")
    done = cli("export", checkpoint, *sizes, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "30x64" in done.stderr
    assert "multiples of 4" in done.stderr
    assert not (tmp_path / "out").exists()
    done = cli("export", checkpoint, "--size", "99999x64")
    assert done.returncode == 2
    assert "at most 4096" in done.stderr


def test_what_another_converter_cannot_write_is_refused(cli: Cli, checkpoint: Path) -> None:
    done = cli("export", checkpoint, "--converter", "litert-torch", "--dtype", "int8")
    assert done.returncode == 2
    assert "FP32 TFLite files only" in done.stderr


def test_weights_that_half_cannot_hold_fail_the_half_artifact_alone(tmp_path: Path) -> None:
    order = _order(tmp_path, dtypes=(DType.FP32, DType.FP16))
    with torch.no_grad():
        order.subject.generator.get_parameter("tail.weight")[0, 0, 0, 0] = 1e5
    made = []
    with pytest.raises(CoronetError, match="float16"):
        release(order, finished=lambda artifact: made.append(artifact.dtype))
    assert made == [DType.FP32, DType.FP32]
