"""`coronet-deploy bench` as people call it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import DType, Runtime
from support import COMMAND

Cli = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--threads", "1", "--rounds", "2", "--samples", "5")
KEYS = ["artifact", "device", "backend", "threads", "launches", "samples", "median_ms", "p90_ms"]


def test_json_has_a_row_a_target_and_the_run_file_has_every_sample(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "table.md"
    done = cli(
        "bench", tiny / "tiny.onnx", tiny / "tiny.tflite", "--json", "--threads", "1,2",
        "--rounds", 2, "--samples", 5, "--output", tmp_path / "runs", "--markdown", notes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["artifact"], row["threads"]) for row in rows] == [
        ("tiny.onnx", 1), ("tiny.onnx", 2), ("tiny.tflite", 1), ("tiny.tflite", 2),
    ]  # fmt: skip
    for row in rows:
        assert list(row)[:9] == [*KEYS, "run_file"]
        assert (row["device"], row["backend"]) == ("host", "cpu")
        assert (row["launches"], row["samples"]) == (2, 10)
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    run = read_run(Path(rows[0]["run_file"]))
    assert sum(len(launch.samples_ms) for launch in run.launches) == 40
    assert run.command[:2] == ("coronet-deploy", "bench")
    assert notes.read_text().startswith("| Artifact | Threads |")
    assert "launch 1 of 8" in done.stderr


def test_without_artifacts_those_in_the_output_folder_are_measured(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    empty = cli("bench", cwd=tmp_path)
    assert empty.returncode == 2
    assert "out/artifacts" in empty.stderr
    folder = tmp_path / "out" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "tiny.tflite").write_bytes((tiny / "tiny.tflite").read_bytes())
    (folder / "tiny.onnx.rejected").write_bytes(b"x")
    done = cli("bench", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny.tflite" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


def test_a_folder_stands_for_the_artifacts_in_it(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    empty = cli("bench", folder, cwd=tmp_path)
    told = f"coronet-deploy: error: folder {folder} holds no .onnx or .tflite file\n"
    assert (empty.returncode, empty.stderr) == (2, told)
    for name in ("tiny.onnx", "tiny.tflite"):
        (folder / name).write_bytes((tiny / name).read_bytes())
        (folder / f"{name}.json.png").touch()
        (folder / f"._{name}").touch()
    done = cli("bench", folder, folder / "tiny.onnx", *QUICK, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["artifact"] for row in rows] == ["tiny.onnx", "tiny.tflite"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["tiny.onnx", "--device", "pixel-8"], 2, "pixel-8"),
        (["missing.onnx"], 2, "missing.onnx"),
        (["--threads", "0"], 2, "--threads"),
        (["--threads", "1,1"], 2, "twice"),
        (["--rounds", "none"], 2, "--rounds"),
        (["--seconds", "nan"], 2, "--seconds"),
        (["tiny.onnx", "--baseline", "other.onnx"], 2, "other.onnx"),
        (["a/x.onnx", "b/x.onnx", "--baseline", "x.onnx"], 2, "any of a/x.onnx, b/x.onnx"),
        (["tiny.onnx", "--output", "tiny.onnx"], 3, "tiny.onnx"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Cli, tiny: Path, arguments: list[str], status: int, told: str
) -> None:
    done = cli("bench", *arguments, cwd=tiny)
    assert done.returncode == status
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_baseline_is_named_by_its_path_however_that_is_written(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    line = ("./tiny.onnx", "./tiny.tflite", "--baseline", "./tiny.onnx", "--output", tmp_path)
    done = cli("bench", *line, *QUICK, "--json", cwd=tiny)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["rows"]
    assert (first["artifact"], first["speedup"]) == ("tiny.onnx", 1.0)
    assert second["speedup"] == first["median_ms"] / second["median_ms"]


@pytest.mark.parametrize(
    ("artifact", "module", "package"),
    [
        ("tiny.onnx", "onnxruntime", "onnxruntime"),
        ("tiny.tflite", "ai_edge_litert", "ai-edge-litert"),
    ],
)
def test_a_runtime_that_is_not_installed_is_told_before_anything_is_measured(
    tiny: Path, tmp_path: Path, artifact: str, module: str, package: str
) -> None:
    program = f"import sys\nsys.modules[{module!r}] = None\nfrom coronet_deploy.cli import main\n"
    program += "sys.exit(main(sys.argv[1:]))"
    other = next(one for one in ("tiny.onnx", "tiny.tflite") if one != artifact)
    line = [sys.executable, "-c", program, "bench", str(tiny / artifact), str(tiny / other)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(
        f"coronet-deploy: error: the package {package!r} is not installed"
    )
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_refused_artifact_fails_its_row_and_the_command_but_not_the_others(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x01not really")
    done = cli("bench", tiny / "tiny.onnx", broken, *QUICK, "--json", "--output", tmp_path)
    assert done.returncode == 4
    good, bad = json.loads(done.stdout)["rows"]
    assert good["samples"] == 10
    assert (bad["samples"], bad["median_ms"], bad["failed"]) == (0, None, 1)
    assert str(broken) in bad["error"]
    alone = cli("bench", broken, *QUICK, "--json", "--output", tmp_path)
    assert alone.returncode == 5
    assert json.loads(alone.stdout)["rows"][0]["launches"] == 0


@pytest.mark.parametrize("runtime", list(Runtime))
def test_too_little_memory_is_one_line(runtime: Runtime, tmp_path: Path) -> None:
    layers = (nn.Conv2d(3, 512, 3, padding=1), nn.Tanh(), nn.Conv2d(512, 3, 3, padding=1))
    graph, _ = lower(capture(nn.Sequential(*layers).eval(), 2048, 2048), runtime)
    emit = emit_tflite if runtime is Runtime.TFLITE else emit_onnx
    path = tmp_path / f"large{runtime.suffix}"
    path.write_bytes(emit(graph, DType.FP32, {}))  # the middle alone is 8 GiB
    line = [COMMAND, "bench", path, *QUICK, "--output", tmp_path]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "bash", *map(str, line)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"coronet-deploy: error: nothing was measured: {path.name}: ")
    assert "not enough memory" in last or "is memory enough for it?" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_launches_that_had_finished(
    tiny: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with _bench(tiny / "tiny.onnx", tmp_path, "--rounds", "500") as process:
        _wait_for(process, "launch 4 of")
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in told
    (file,) = tmp_path.glob("*.json")
    run = read_run(file)
    assert len(run.launches) >= 3
    assert all(launch.samples_ms for launch in run.launches)
    assert run.conditions["interrupted"] is True
    assert f"{len(run.launches)} of 500 launches kept in {file}" in told


def test_ctrl_c_before_the_first_launch_ends_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    slow = ("--rounds", "2", "--samples", "1000000", "--seconds", "60")
    with _bench(tiny / "tiny.onnx", tmp_path, *slow) as process:
        _wait_for(process, "launch 1 of")
        worker = _worker_of(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{worker}").exists()


def test_a_worker_that_is_killed_twice_is_a_failed_launch(tiny: Path, tmp_path: Path) -> None:
    slow = ("--rounds", "1", "--samples", "1000000", "--seconds", "60", "--json")
    with _bench(tiny / "tiny.onnx", tmp_path, *slow) as process:
        _wait_for(process, "launch 1 of")
        os.kill(_worker_of(process.pid), signal.SIGKILL)
        _wait_for(process, "SIGKILL (out of memory?): once more")
        os.kill(_worker_of(process.pid), signal.SIGKILL)
        out, told = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "SIGKILL (out of memory?), twice" in told
    assert "SIGKILL" in json.loads(out)["rows"][0]["error"]


def test_a_worker_past_the_deadline_is_stopped(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli(
        "bench", tiny / "tiny.onnx", *QUICK, "--samples", 1_000_000, "--seconds", 1.49,
        "--deadline", 1.5, "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 5
    assert "no answer after 1.5 s" in done.stderr


def _bench(artifact: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = Path(sys.executable).with_name("coronet-deploy")
    line = [str(command), "bench", str(artifact), "--threads", "1", "--output", str(output), *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the bench ended before {text!r}")


def _worker_of(pid: int) -> int:
    """Return the process that a bench has running, once it runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for _ in range(200):
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.05)
    raise AssertionError("the bench started no worker")


@pytest.mark.parametrize("columns", [40, 80])
def test_a_long_name_does_not_push_the_count_off_a_terminal(
    tiny: Path, tmp_path: Path, columns: int
) -> None:
    artifact = tmp_path / f"{'long' * 20}.tflite"
    artifact.write_bytes((tiny / "tiny.tflite").read_bytes())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    line = [COMMAND, "bench", artifact, *QUICK, "--output", tmp_path / "runs"]
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        list(map(str, line)), stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux's answer once the other end is closed
            while chunk := os.read(ours, 1 << 16):
                seen += chunk
        assert process.wait(60) == 0
    os.close(ours)
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    for part in ("0/2", "1/2", "longlong", "\N{HORIZONTAL ELLIPSIS}"):
        assert part in told
    assert "/100" not in told
    assert max(map(len, re.split(r"[\r\n]+", told))) <= columns


def test_a_name_does_not_drive_the_terminal(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "a\x1b[31m.tflite"
    artifact.write_bytes((tiny / "tiny.tflite").read_bytes())
    done = cli("bench", artifact, *QUICK, "--output", tmp_path / "runs")
    assert done.returncode == 0
    assert "launch 1 of 2" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
