"""What cannot come to an end is refused before the work, not behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lowering import small_checkpoint
from support import Cli

RUN = Path(__file__).parents[1] / "results/fixtures/run-v1.json"
LONG = "x" * 300
RECIPE = Path(__file__).parents[2] / "models/facades-unet256/recipe.toml"


def _refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


def _without(package: str, folder: Path, *line: object) -> subprocess.CompletedProcess[str]:
    """Run the command where `package`, which its work takes, cannot be imported."""
    program = f"import sys\nsys.modules[{package!r}] = None\nfrom coronet_deploy.cli import main\n"
    program += f"sys.exit(main({[str(one) for one in line]!r}))"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.parametrize("command", ["export", "demo"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("/proc/x", "No such file or directory"),
        (LONG, "File name too long"),
        (f"new/{LONG}", "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_is_told_before_torch_is_loaded(
    command: str, place: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = _without("torch", tmp_path, command, "--output", place)
    _refused(done, 3, f"--output {place} cannot be written: {reason}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["export", "demo"])
def test_a_folder_whose_name_no_runtime_reads_is_refused_before_the_work(
    command: str, tmp_path: Path
) -> None:
    done = _without("torch", tmp_path, command, "--output", os.fsdecode(b"bad\xff"))
    _refused(done, 2, "b'bad\\xff' is not UTF-8, and no runtime can open files in it (rename it)")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_an_artifact_whose_name_no_runtime_reads_is_refused(
    suffix: str, cli: Cli, tmp_path: Path
) -> None:
    artifact = os.fsdecode(b"bad\xff." + suffix.encode())
    (tmp_path / artifact).write_bytes(b"not read")
    done = cli("evaluate", artifact, "--data", ".", cwd=tmp_path)
    _refused(done, 2, "is not UTF-8, and no runtime can open it")


def test_train_tells_of_its_folder_before_it_looks_for_data(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = ("train", RECIPE, "--data", "none", "--output", "file")
    _refused(cli(*line, cwd=tmp_path), 3, "--output file cannot be written: Not a directory")


@pytest.mark.parametrize("name", [LONG, f"new/{LONG}"])
def test_the_name_of_a_report_is_tried_before_anything_is_measured(
    name: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").touch()
    done = cli("bench", "a.onnx", "--markdown", name, cwd=tmp_path)
    _refused(done, 3, f"--markdown {name} cannot be written: File name too long")


@pytest.mark.parametrize("line", [("verify", "a.onnx"), ("evaluate", "--data", ".")])
def test_a_grid_of_no_form_of_pictures_is_refused_before_the_work(
    line: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").touch()
    done = _without("pydantic", tmp_path, *line, "--grid", "g.pdf")
    told = "no picture is written as .pdf (its name may end in .png, .jpg, .jpeg, .bmp, "
    _refused(done, 2, f"--grid g.pdf: {told}")


def test_two_reports_in_one_file_are_refused(cli: Cli, tmp_path: Path) -> None:
    line = ("compare", "a.onnx", "b.onnx", "--junit", "f", "--markdown", "./f")
    _refused(cli(*line, cwd=tmp_path), 2, "--markdown and --junit name the same file")


@pytest.mark.parametrize(
    "line",
    [
        ("report", "./a.json", "--format", "json", "--output", "a.json"),
        ("report", "a.json", "--format", "html", "--history", "store", "--output", "store"),
        ("compare", "a.json", "b.json", "--bmf", "link.json"),
        ("compare", "--history", "store", "a.json", "--junit", "store"),
        ("compare", "a.onnx", "b.onnx", "--markdown", "b.onnx"),
        ("bench", "a.onnx", "--markdown", "a.onnx"),
        ("verify", "a.onnx", "--grid", "a.onnx"),
        ("evaluate", "a.onnx", "--data", ".", "--grid", "a.onnx"),
        ("materialize", "a.safetensors", "--output", "a.safetensors"),
    ],
)
def test_a_file_that_is_read_is_not_replaced_by_what_is_written(
    line: tuple[str, ...], cli: Cli, tmp_path: Path
) -> None:
    shutil.copy(RUN, tmp_path / "a.json")
    shutil.copy(RUN, tmp_path / "b.json")
    (tmp_path / "link.json").symlink_to("b.json")
    for name in ("a.onnx", "b.onnx", "a.safetensors", "store"):
        (tmp_path / name).write_bytes(b"weeks of work")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _refused(cli(*line, cwd=tmp_path), 2, f"{' '.join(line[-2:])} is a file that is read")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [
        ("bench", "--markdown", "model.tflite"),
        ("compare", "a.onnx", "b.onnx", "--junit", "model.onnx"),
        ("evaluate", "--data", ".", "--grid", "model.safetensors"),
        ("report", RUN, "--output", "model.pth"),
    ],
)
def test_a_flag_that_takes_a_file_does_not_take_the_model_behind_it(
    line: tuple[object, ...], cli: Cli, tmp_path: Path
) -> None:
    """Who takes --markdown for a switch had the default artifacts measured, and the model lost."""
    (tmp_path / "out/artifacts").mkdir(parents=True)
    (tmp_path / "out/artifacts/a.onnx").touch()
    model = tmp_path / str(line[-1])
    model.write_bytes(b"weeks of work")
    told = f"{line[-2]} {line[-1]} is a model's file by its name"
    _refused(cli(*line, cwd=tmp_path), 2, told, f"{line[-2]} takes a file of its own")
    assert model.read_bytes() == b"weeks of work"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "line",
    [
        ("export", "--output", "net.onnx"),
        ("demo", "--output", "report.html"),
        ("bench", "a.onnx", "--output", "run.json"),
        ("bench", "a.onnx", "--output", "table.csv"),
        ("compare", "a.onnx", "a.onnx", "--output", "verdict.xml"),
        ("train", RECIPE, "--data", "none", "--output", "net.safetensors"),
    ],
)
def test_no_folder_is_made_of_a_files_name(
    line: tuple[object, ...], cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").touch()
    told = f"--output {line[-1]} is a file's name, and --output takes a folder"
    _refused(cli(*line, cwd=tmp_path), 2, told)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_what_is_no_file_may_be_written_to(cli: Cli, tmp_path: Path) -> None:
    done = cli("report", RUN, "--output", "/dev/null", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_baseline_without_a_name_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from coronet_deploy import cli
    from coronet_deploy.cli import bench
    from coronet_deploy.errors import BadInput

    monkeypatch.chdir(tmp_path)
    args = cli._parser().parse_args(["bench", "a.onnx", "--baseline", "", "--output", "runs"])
    with pytest.raises(BadInput, match="--baseline is not among the artifacts"):
        bench.run(args)
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_a_busy_machine_is_told_before_the_first_launch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from coronet_deploy.bench import system
    from coronet_deploy.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(system, "host_state", lambda: {"load_1min": 9.5})
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    assert main(["compare", "a.onnx", "b.onnx", "--max-load", "9"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "the machine is busy: load average 9.5, above 9 (--max-load)" in line
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("load", ["-1", "0", "nan", "much"])
def test_a_load_that_is_none_is_called_a_load(load: str, cli: Cli) -> None:
    done = cli("compare", "a.onnx", "b.onnx", f"--max-load={load}")
    assert done.returncode == 2
    assert f"{load!r} is not a load average above 0" in done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [(("--history", "runs"), "RUN is missing"), ((), "BASE and CANDIDATE are missing")],
)
def test_compare_says_which_side_is_missing(line: tuple[str, ...], told: str, cli: Cli) -> None:
    _refused(cli("compare", *line), 2, told)


def test_a_run_beside_itself_is_called_so(cli: Cli) -> None:
    done = cli("compare", RUN, RUN, "--json", "--max-load", "999")
    assert "BASE and CANDIDATE are the same run" in " ".join(json.loads(done.stdout)["notes"])


@pytest.mark.parametrize(
    "line", [("bench", "{}"), ("compare", "{}", "{}"), ("compare", ".", ".")], ids=" ".join
)
def test_a_name_that_is_not_utf8_is_named_in_one_line(
    line: tuple[str, ...], cli: Cli, tmp_path: Path
) -> None:
    name = os.fsdecode(b"bad\xff.onnx")
    (tmp_path / name).write_bytes(b"x")
    done = cli(*(word.format(name) for word in line), cwd=tmp_path)
    _refused(done, 2, r"b'bad\xff.onnx' is not UTF-8")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("size", ["100000000x8", "8x100000", f"8x{'9' * 5000}", "100000"])
def test_a_size_that_is_too_large_is_told_the_bound(size: str, cli: Cli) -> None:
    done = cli("export", "--size", size)
    assert done.returncode == 2
    assert "is too large: sides of at most 4096" in done.stderr


@pytest.mark.parametrize("name", ["a.onnx.json", "model.safetensors", "a"])
def test_verify_looks_at_the_name_before_anything(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    done = _without("pydantic", tmp_path, "verify", name)
    _refused(done, 2, f"{name} is not an artifact: its name does not end in .onnx or .tflite")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small checkpoint of seeded weights."""
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path, cli: Cli) -> Path:
    """Return the folder of what several number types and runtimes in one line made."""
    folder = checkpoint.parent / "artifacts"
    line = ("export", checkpoint, "--size", "32x48", "--output", folder, "--json")
    done = cli(*line, *("--dtype", "fp32", "--dtype", "int8-dynamic", "--runtime", "tflite"))
    assert done.returncode == 0, done.stderr
    assert [one["dtype"] for one in json.loads(done.stdout)["artifacts"]] == [
        "fp32",
        "int8-dynamic",
    ]
    return folder


def test_flags_of_export_that_are_given_again_accumulate(exported: Path) -> None:
    names = sorted(path.name for path in exported.glob("*.tflite"))
    assert names == ["small_32x48_fp32.tflite", "small_32x48_int8-dynamic.tflite"]


def test_a_line_of_several_number_types_is_one_of_each() -> None:
    from coronet_deploy import cli
    from coronet_deploy.cli._asked import requests_of

    def asked(*line: str) -> list[tuple[str, str, bool]]:
        requests = requests_of(cli._parser().parse_args(["export", *line]))
        return [(one.runtime, one.dtype, one.half_io) for one in requests]

    assert asked() == [("all", "fp32", False)]
    assert asked("--runtime", "onnx", "--runtime", "tflite")[0][0] == "all"
    assert asked("--runtime", "tflite,onnx")[0][0] == "all"
    assert asked("--runtime", "onnx,onnx")[0][0] == "onnx"
    assert asked("--dtype", "fp32,int8") == asked("--dtype", "fp32", "--dtype", "int8")
    assert asked("--dtype", "int16x8,all") == asked("--dtype", "int16x8", "--dtype", "all")
    assert asked("--dtype", "int16x8", "--dtype", "all", "--dtype", "fp16") == [
        ("all", "all", False),
        ("all", "int16x8", False),
    ]
    assert asked("--dtype", "fp16", "--dtype", "fp32", "--half-io") == [
        ("all", "fp16", True),
        ("all", "fp32", False),
    ]
    assert asked("--dtype", "fp32", "--half-io") == [("all", "fp32", True)]


def test_verify_tells_of_the_grids_place_before_it_compares(
    exported: Path, checkpoint: Path, cli: Cli
) -> None:
    line = ("verify", exported / "small_32x48_fp32.tflite", "--checkpoint", checkpoint)
    done = cli(*line, "--grid", "/proc/g.png")
    _refused(done, 3, "--grid /proc/g.png cannot be written")


def test_verify_prints_its_verdict_before_a_grid_that_fails(
    exported: Path, checkpoint: Path, cli: Cli, tmp_path: Path
) -> None:
    import resource

    line = ("verify", exported / "small_32x48_fp32.tflite", "--checkpoint", checkpoint)
    done = cli(
        *line,
        *("--grid", tmp_path / "g.png"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert done.returncode == 3
    assert "pass" in done.stdout
    assert f"cannot write {tmp_path / 'g.png'}" in done.stderr


def test_dry_run_does_not_claim_to_run_nothing(cli: Cli) -> None:
    told = " ".join(cli("bench", "--help").stdout.split())
    assert "print every adb command of the bench; of them only those that list phones" in told


def test_what_artifacts_take_is_said_in_one_number(tmp_path: Path) -> None:
    from coronet_deploy.cli._bench_phone import _find
    from coronet_deploy.errors import BadInput

    with pytest.raises(BadInput, match=r"^lib\.so is needed for onnx artifacts, and .* holds none"):
        _find(tmp_path, ["lib.so"], "--onnxruntime-library", "onnx artifacts")
