"""The C runner: built as users build it, beside the Python runtimes on real artifacts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.bench.phone_launch import timing_arguments
from coronet_deploy.bench.runner import (
    RunnerError,
    RunnerGarbage,
    RunnerKilled,
    RunnerRefused,
    RunnerTimeout,
    RunnerTruncated,
    host_command,
    host_library,
    parse_lines,
    run_runner,
)
from coronet_deploy.bench.worker import SAMPLES_LEAST
from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.images import read_picture
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import Runtime
from support import Cli

SIZE = 128
# All operators of a pruned U-Net, and few channels: what is tested runs it, and does not make it.
_NARROW = """
import torch
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture


def make():
    torch.manual_seed(3)
    return build_generator(full_plan(Architecture.UNET_128, width=8))
"""


@pytest.fixture(scope="module")
def artifacts(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export a generator, FP32 and INT8, in both formats."""
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "narrow.py").write_text(_NARROW)
    line = ("export", "narrow:make", "--size", f"{SIZE}x{SIZE}", "--output", "made")
    for more in (
        ("--dtype", "fp32"),
        ("--dtype", "int8", "--min-psnr", 20, "--calibration-count", 2),
    ):
        result = cli(*line, *more, cwd=folder)
        assert result.returncode == 0, result.stderr
    made = (folder / "made").iterdir()
    return {path.name.split("_")[-1]: path for path in made if path.suffix != ".json"}


def run(runner: Path, model: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        host_command(runner, model, *more), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"])
def test_it_draws_what_the_python_runtime_draws(
    name: str, runner: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    artifact = artifacts[name]
    picture = read_picture(bundled_pictures()[0], SIZE, SIZE)[None]
    runtime = Runtime.TFLITE if artifact.suffix == ".tflite" else Runtime.ONNX
    with open_session(artifact, runtime, threads=1) as session:
        expected = session.run(picture)
    channels_first = runtime is Runtime.ONNX
    given = picture.transpose(0, 3, 1, 2) if channels_first else picture
    np.ascontiguousarray(given).tofile(tmp_path / "input")
    more = ("--input", tmp_path / "input", "--output", tmp_path / "output")
    result = run(runner, artifact, *more, "--runs", 3, "--warmup-runs", 2)
    assert result.returncode == 0, result.stdout + result.stderr
    drawn = np.fromfile(tmp_path / "output", np.float32)
    shape = (1, 3, SIZE, SIZE) if channels_first else (1, SIZE, SIZE, 3)
    drawn = drawn.reshape(shape)
    drawn = drawn.transpose(0, 2, 3, 1) if channels_first else drawn
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5)

    told = parse_lines(result.stdout.splitlines())
    assert (len(told.samples_ms), len(told.warmup_ms)) == (3, 2)
    assert min(told.samples_ms) > 0
    assert told.peak_rss_mb
    assert told.peak_rss_mb > artifact.stat().st_size / 2**21
    header = json.loads(result.stdout.splitlines()[0])
    assert header["input"]["shape"] == list(shape)
    assert header["model_bytes"] == artifact.stat().st_size
    if runtime is Runtime.TFLITE:
        assert header["fully_accelerated"] is True
        assert told.nodes_taken == told.nodes


def test_threads_mask_and_seconds_are_obeyed(runner: Path, tiny: Path) -> None:
    one = min(os.sched_getaffinity(0))
    mask = f"{1 << one:x}"
    bounds = ("--runs", 1_000_000, "--seconds", 0.2, "--warmup-runs", 0, "--frequency-every", 2)
    result = run(runner, tiny / "tiny.tflite", "--threads", 2, "--cpu-mask", mask, *bounds)
    assert result.returncode == 0, result.stdout
    rows = [json.loads(row) for row in result.stdout.splitlines()]
    assert rows[0]["cpus_allowed_list"] == str(one)
    assert rows[0]["threads"] == 2
    samples = [row for row in rows if row["kind"] == "sample"]
    assert 1 < len(samples) < 1_000_000
    assert {row["cpu"] for row in samples} == {one}
    starts = [row["t"] for row in samples]
    assert starts == sorted(starts)
    assert rows[-1] == {**rows[-1], "kind": "end", "samples": len(samples), "interrupted": False}


@pytest.mark.parametrize(
    ("bounds", "samples"),
    [
        (("--runs", 30, "--seconds", 1e-6), 1),
        (("--runs", 30, "--seconds", 1e-6, "--runs-least", 5), 5),
        (("--runs", 3, "--seconds", 1e-6, "--runs-least", 5), 3),
        (("--runs", 30, "--seconds", 60, "--runs-least", 5), 30),
        (timing_arguments(30, 1e-6), SAMPLES_LEAST),  # what a phone's timed launch gives
        (timing_arguments(3, 1e-6), 3),
    ],
)
def test_the_seconds_end_nothing_before_the_least_runs(
    bounds: tuple[object, ...], samples: int, runner: Path, tiny: Path
) -> None:
    told = run_runner(host_command(runner, tiny / "tiny.tflite", *bounds), 60)
    assert len(told.samples_ms) == samples


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_inference_in_hand(
    number: signal.Signals, runner: Path, tiny: Path
) -> None:
    with subprocess.Popen(
        host_command(runner, tiny / "tiny.onnx", "--runs", 2_000_000_000),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["kind"] == "header"
        process.send_signal(number)
        rest = process.stdout.read().splitlines()
        assert process.wait(30) == 0
    assert json.loads(rest[-1])["interrupted"] is True


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("no model", 2, "cannot read"),
        ("other format", 2, "is not a TFLite file"),
        ("torn model", 2, "loading the model"),
        ("torn tflite", 2, "reading the model"),
        ("short input", 2, "has fewer bytes than the 12288"),
        ("long input", 2, "has more bytes than the 12288"),
        ("folder for an input", 2, "Is a directory"),
        ("no folder for output", 2, "cannot write"),
        ("no library", 3, "cannot load the runtime"),
        ("other library", 3, "has no OrtGetApiBase"),
        ("unknown provider", 4, "NOSUCH"),
        ("no nnapi", 4, "without NNAPI"),
        ("delegate for litert", 4, "takes no external delegate"),
        ("unknown back end", 2, "--backend cuda: cpu, gpu, nnapi or external"),
        ("empty model", 2, "empty.onnx is empty"),
        ("folder for a model", 2, "not a file"),
        ("bad number", 2, "--threads 0: not a whole number"),
        ("number past an int", 2, "--threads 4294967297: at most 1024"),
        ("no least", 2, "--runs-least 0: not a whole number of at least 1"),
        ("bad mask", 2, "--cpu-mask xyz: not hexadecimal"),
        ("unknown flag", 2, "unknown argument --fast"),
        ("lone flag", 2, "--runs needs a value"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(
    fault: str, status: int, said: str, runner: Path, tiny: Path, tmp_path: Path
) -> None:
    onnx, tflite = tiny / "tiny.onnx", tiny / "tiny.tflite"
    size = 3 * 32 * 32 * 4
    (tmp_path / "short").write_bytes(bytes(size - 1))
    (tmp_path / "long").write_bytes(bytes(size + 1))
    (tmp_path / "torn.tflite").write_bytes(tflite.read_bytes()[:-400])
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "torn.onnx").write_bytes(onnx.read_bytes()[:-40])
    words: list[str] = {
        "no model": host_command(runner, tmp_path / "none.onnx"),
        "other format": host_command(runner, onnx, "--runtime", "tflite"),
        "torn tflite": host_command(runner, tmp_path / "torn.tflite"),
        "torn model": host_command(runner, tmp_path / "torn.onnx"),
        "short input": host_command(runner, onnx, "--input", tmp_path / "short"),
        "long input": host_command(runner, tflite, "--input", tmp_path / "long"),
        "folder for an input": host_command(runner, onnx, "--input", tmp_path),
        "no folder for output": host_command(
            runner, onnx, "--output", tmp_path / "none" / "output"
        ),
        "no library": host_command(runner, onnx, "--library", tmp_path / "none.so"),
        "other library": host_command(runner, onnx, "--library", host_library(Runtime.TFLITE)),
        "unknown provider": host_command(
            runner, onnx, "--backend", "external", "--backend-option", "provider=NOSUCH"
        ),
        "no nnapi": host_command(runner, onnx, "--backend", "nnapi"),
        "delegate for litert": host_command(runner, tflite, "--backend", "external"),
        "unknown back end": host_command(runner, tflite, "--backend", "cuda"),
        "empty model": host_command(runner, tmp_path / "empty.onnx"),
        "folder for a model": host_command(runner, tmp_path / "folder.onnx"),
        "number past an int": host_command(runner, onnx, "--threads", 4294967297),
        "bad number": host_command(runner, onnx, "--threads", 0),
        "no least": host_command(runner, onnx, "--runs-least", 0),
        "bad mask": host_command(runner, onnx, "--cpu-mask", "xyz"),
        "unknown flag": host_command(runner, onnx, "--fast", "yes"),
        "lone flag": host_command(runner, onnx, "--runs"),
    }[fault]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["kind"] == "error"
    assert said in last["message"]
    assert said in result.stderr
    with pytest.raises(RunnerError, match=r".+"):
        parse_lines(result.stdout.splitlines())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    "name",
    [
        "é名.bin".encode(),
        '\U0001f600 \x7f\x85\u2028\ufeff"\\\t.bin'.encode(),
        b"a\xffb\xc3.bin",
        b"cut short \xe5\x90",
        b"too long \xc0\xaf \xe0\x80\xaf \xf0\x8f\xbf\xbf",
        b"no character \xed\xa0\x80 \xf4\x90\x80\x80 \xf5\x80\x80\x80",
    ],
)
def test_a_name_of_any_bytes_is_told_as_text(
    name: bytes, runner: Path, tiny: Path, tmp_path: Path
) -> None:
    line = host_command(runner, tiny / "tiny.onnx", "--input", tmp_path / os.fsdecode(name))
    done = subprocess.run(line, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    shown = f"{tmp_path}/{name.decode(errors='replace')}"
    told = f"cannot read {shown}: No such file or directory"
    assert json.loads(done.stdout)["message"] == told
    with pytest.raises(RunnerRefused) as caught:
        run_runner(line, 60)
    assert str(caught.value) == told


def test_a_tflite_file_cut_anywhere_is_refused_before_the_runtime_crashes(
    runner: Path, tiny: Path, tmp_path: Path
) -> None:
    whole = (tiny / "tiny.tflite").read_bytes()
    torn = tmp_path / "torn.tflite"
    for size in [*range(8, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        torn.write_bytes(whole[:size])
        line = host_command(runner, torn, "--runs", 1, "--warmup-runs", 0)
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in {0, 2}, f"{size} of {len(whole)} bytes: {done.stderr}"
        last = json.loads(done.stdout.splitlines()[-1])
        assert last["kind"] == ("error" if done.returncode else "end")


HEADER = '{"kind":"header","version":"1","runtime_version":"9","load_ns":5000000}'
SAMPLE = '{"kind":"sample","t":1,"ns":2000000,"cpu":0,"khz":null}'
END = '{"kind":"end","samples":1,"peak_rss_kb":2048}'


def test_lines_that_are_fine_are_read() -> None:
    warmup = SAMPLE.replace("sample", "warmup").replace("2000000", "3000000")
    told = parse_lines([HEADER, warmup, SAMPLE, END])
    assert (told.samples_ms, told.warmup_ms, told.load_ms) == ((2.0,), (3.0,), 5.0)
    assert (told.peak_rss_mb, told.nodes, told.interrupted) == (2.0, None, False)
    assert told.tools == {"runner": "1", "runtime": "9"}


@pytest.mark.parametrize(
    ("lines", "error", "said"),
    [
        ([], RunnerTruncated, "cut short"),
        ([HEADER, SAMPLE], RunnerTruncated, "cut short"),
        ([HEADER, SAMPLE, SAMPLE, END], RunnerTruncated, "2 samples arrived of the 1"),
        ([HEADER[:-1]], RunnerGarbage, "garbage"),
        (['{"kind":"header"}', '{"kind":"end","samples":0}'], RunnerGarbage, "lacks"),
        (["[1]"], RunnerGarbage, "garbage"),
        (['{"kind":"sample"}'], RunnerGarbage, "garbage"),
        ([SAMPLE.replace("2000000", "-1")], RunnerGarbage, "garbage"),
        (['{"kind":"poem"}'], RunnerGarbage, "poem"),
        ([HEADER.replace("{", '{"protocol":2,'), SAMPLE, END], RunnerGarbage, "build it again"),
        ([HEADER, '{"kind":"error","code":"x","message":"no luck"}'], RunnerRefused, "no luck"),
        ([HEADER, SAMPLE.replace("2000000", f"2{'0' * 400}"), END], RunnerGarbage, "no count"),
        ([HEADER, SAMPLE.replace("2000000", "true"), END], RunnerGarbage, "no count"),
        ([HEADER, "[" * 100_000, END], RunnerGarbage, "garbage"),
        ([HEADER.replace("5000000", "NaN"), SAMPLE, END], RunnerGarbage, "no count"),
        ([HEADER.replace("{", '{"nodes":"12",'), SAMPLE, END], RunnerGarbage, "'12' is no count"),
        ([HEADER.replace("{", '{"nodes":-1,'), SAMPLE, END], RunnerGarbage, "'-1' is no count"),
    ],
)
def test_output_that_is_none_is_refused(
    lines: list[str], error: type[RunnerError], said: str
) -> None:
    with pytest.raises(error, match=said):
        parse_lines(lines)


def test_a_run_on_this_host_gives_samples_or_a_named_error(
    runner: Path, tiny: Path, tmp_path: Path
) -> None:
    command = host_command(runner, tiny / "tiny.onnx", "--runs", 4)
    told = run_runner(command, 60)
    assert len(told.samples_ms) == 4
    with pytest.raises(RunnerRefused, match="cannot read") as caught:
        run_runner(host_command(runner, tmp_path / "none.onnx"), 60)
    assert caught.value.code == "model"
    with pytest.raises(RunnerTimeout, match="no answer after 1 s"):
        run_runner([*command, "--runs", "2000000000"], 1)
    with pytest.raises(RunnerKilled, match="SIGSEGV"):
        run_runner(["/bin/sh", "-c", "kill -SEGV $$"], 60)
    with pytest.raises(RunnerKilled, match="signal 40"):
        run_runner(["/bin/sh", "-c", "kill -40 $$"], 60)
    with pytest.raises(EnvironmentProblem, match="runner build --preset host"):
        run_runner([str(tmp_path / "coronet-runner")], 60)


def test_a_pipe_for_the_output_is_given_it_and_stays_a_pipe(
    runner: Path, tiny: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = run(runner, tiny / "tiny.tflite", "--runs", 1, "--output", pipe)
        assert done.returncode == 0, done.stderr
        assert pipe.is_fifo()
        assert len(os.read(reader, 1 << 20)) == 3 * 32 * 32 * 4
    finally:
        os.close(reader)


def test_lines_that_nobody_takes_are_told(runner: Path, tiny: Path) -> None:
    line = host_command(runner, tiny / "tiny.onnx", "--runs", 2)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 5
    assert "stdout did not take all lines: No space left on device" in done.stderr
