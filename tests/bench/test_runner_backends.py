"""What the C runner does beyond the CPU, as far as this kind of machine has such a thing.

LiteRT's GPU accelerator draws on a Vulkan driver that computes on the CPU (Chromium brings one).
TensorFlow Lite's C library is a stand-in; the code that counts a delegate's nodes runs inside the
real interpreter too. ONNX Runtime has a provider, Azure's, that takes no node.
Some libraries are a real one with a function of ours before it: see `rig/`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.bench.runner import (
    RunnerRefused,
    RunnerResult,
    host_command,
    host_library,
    run_runner,
)
from coronet_deploy.storage import data_dir
from coronet_deploy.vocabulary import Runtime

RIG = Path(__file__).parents[1] / "rig"
DRIVER = Path(
    os.environ.get("CORONET_TEST_VULKAN_DRIVER", "/usr/lib/chromium/vk_swiftshader_icd.json")
)
SHAPE = (1, 32, 32, 3)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "input"
    np.random.default_rng(7).uniform(-1, 1, SHAPE).astype(np.float32).tofile(path)
    return path


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with delegates and the stand-in for TensorFlow Lite's C library."""
    folder = tmp_path_factory.mktemp("native")
    counting = data_dir("android_bench") / "src" / "delegation.c"
    for name, files in {
        "libcounting.so": (RIG / "counting_delegate.c", counting),
        "libgpu.so": (RIG / "gpu_delegate.c",),
        "libtensorflowlite_c.so": (RIG / "tflite_c.c",),
    }.items():
        compile_library(folder / name, *files)
    return folder


def compile_library(library: Path, *more: object) -> None:
    """Compile a library of the rig from files and by options for the compiler."""
    headers = data_dir("android_bench") / "src"
    flags = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{headers}")
    subprocess.run(["gcc", *flags, "-o", library, *map(str, more)], check=True)


def on_stand_in_command(runner: Path, native: Path, tiny: Path, *more: object) -> list[str]:
    own = ("--library", native / "libtensorflowlite_c.so", "--runs", 3)
    return host_command(runner, tiny / "tiny.tflite", *own, *more)


def on_stand_in(runner: Path, native: Path, tiny: Path, *more: object) -> RunnerResult:
    return run_runner(on_stand_in_command(runner, native, tiny, *more), 60)


def with_delegate(native: Path, *options: str) -> list[object]:
    words: list[object] = ["--backend", "external", "--backend-library", native / "libcounting.so"]
    for option in options:
        words += ["--backend-option", option]
    return words


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Return the arguments that choose a GPU that this process's children can use."""
    if not os.environ.get("CI") and not DRIVER.exists():
        pytest.skip("needs Chromium's Vulkan driver")
    monkeypatch.setenv("VK_ICD_FILENAMES", str(DRIVER))
    monkeypatch.setenv("VK_DRIVER_FILES", str(DRIVER))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(DRIVER.parent))  # Vulkan's loader is beside it
    accelerator = host_library(Runtime.TFLITE).with_name("libLiteRtWebGpuAccelerator.so")
    precise = ("--backend-option", "precision=2")
    return ("--backend", "gpu", "--backend-library", accelerator, *precise)


def test_the_gpu_draws_the_cpus_picture_and_a_sample_waits_for_it(
    gpu: tuple[object, ...], runner: Path, tiny: Path, picture: Path, tmp_path: Path
) -> None:
    common = ("--input", picture, "--runs", 3, "--warmup-runs", 1, "--output")
    artifact = tiny / "tiny.tflite"
    on_gpu = run_runner(host_command(runner, artifact, *common, tmp_path / "gpu", *gpu), 120)
    on_cpu = run_runner(host_command(runner, artifact, *common, tmp_path / "cpu"), 60)
    drawn, expected = (np.fromfile(tmp_path / name, np.float32) for name in ("gpu", "cpu"))
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.1
    assert (on_gpu.details["transfers"], on_cpu.details["transfers"]) == (True, False)
    assert on_gpu.details["fully_accelerated"] is True
    assert on_gpu.nodes_taken == on_gpu.nodes
    assert len(on_gpu.samples_ms) == 3


def test_a_graph_that_the_gpu_does_not_run_whole_is_said_to_be_split(
    gpu: tuple[object, ...], runner: Path, picture: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "odd.tflite"
    artifact.write_bytes(chain("TANH", "LOG_SOFTMAX", "TANH"))  # the middle one is the CPU's
    more = ("--input", picture, "--runs", 1, "--output", tmp_path / "output")
    told = run_runner(host_command(runner, artifact, *more, *gpu), 120)
    assert told.details["fully_accelerated"] is False
    assert told.nodes_taken is None
    given = np.tanh(np.fromfile(picture, np.float32).reshape(SHAPE))
    expected = np.tanh(given - np.log(np.exp(given).sum(-1, keepdims=True)))
    drawn = np.fromfile(tmp_path / "output", np.float32).reshape(SHAPE)
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-4)


def test_beside_a_gpu_the_cpu_has_the_threads_that_were_asked_for(
    gpu: tuple[object, ...], runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = host_library(Runtime.TFLITE).parent
    real = ("-Wl,--no-as-needed", f"-L{folder}", "-l:libLiteRt.so", f"-Wl,-rpath,{folder}")
    compile_library(tmp_path / "libLiteRt.so", RIG / "litert_listener.c", *real)
    monkeypatch.setenv("LITERT_OPTIONS", str(tmp_path / "options"))
    artifact = tmp_path / "odd.tflite"
    artifact.write_bytes(chain("TANH", "LOG_SOFTMAX", "TANH"))
    own = ("--library", tmp_path / "libLiteRt.so", "--threads", 3, "--runs", 1)
    run_runner(host_command(runner, artifact, *own, *gpu), 120)
    alone, *together = (tmp_path / "options").read_text().splitlines()
    assert alone == "gpu_options: precision = 2"
    assert set(together) == {"gpu_options: precision = 2", "xnnpack: num_threads = 3"}


def chain(*operators: str) -> bytes:
    """Return a TFLite file of these operators of one input, one after the other."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    model.operatorCodes, graph.operators, graph.tensors = [], [], []
    for number in range(len(operators) + 1):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{number}".encode(), list(SHAPE), 0
        tensor.type = schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    for number, name in enumerate(operators):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        operator.opcodeIndex, operator.inputs, operator.outputs = number, [number], [number + 1]
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0], [len(operators)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_without_a_gpu_the_back_end_is_refused(
    runner: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    command = host_command(runner, tiny / "tiny.tflite", "--backend", "gpu")
    with pytest.raises(RunnerRefused, match="compiling the model") as caught:
        run_runner(command, 60)
    assert caught.value.code == "delegate"
    assert "finds no accelerator for gpu" in str(caught.value)
    assert "--backend-library" in str(caught.value)
    with pytest.raises(RunnerRefused, match="cannot load the accelerator") as caught:
        run_runner([*command, "--backend-library", str(tmp_path / "none.so")], 60)
    assert caught.value.code == "library"


@pytest.mark.parametrize(("take", "taken", "parts"), [(3, 3, 1), (1, 1, 1), (0, 0, 0)])
def test_the_nodes_that_a_delegate_took_are_counted(
    take: int, taken: int, parts: int, runner: Path, native: Path, tiny: Path
) -> None:
    told = on_stand_in(runner, native, tiny, *with_delegate(native, f"take={take}"))
    assert (told.nodes_taken, told.nodes, told.partitions) == (taken, 3, parts)
    assert told.details["fully_accelerated"] is (taken == 3)
    assert told.details["transfers"] is True
    assert len(told.samples_ms) == 3


def test_the_count_is_right_in_the_real_interpreter(
    native: Path, tiny: Path, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from ai_edge_litert.interpreter import Interpreter, load_delegate\n"
        "library, model, take, report = sys.argv[1:]\n"
        "delegate = load_delegate(library, {'take': take, 'report': report})\n"
        "interpreter = Interpreter(model, experimental_delegates=[delegate])\n"
        "interpreter.allocate_tensors()\n"
        "interpreter.invoke()\n"
        "del interpreter, delegate\n"
    )
    for take in (1, 2):
        report = tmp_path / f"report-{take}"
        words = [str(native / "libcounting.so"), str(tiny / "tiny.tflite"), str(take), str(report)]
        subprocess.run([sys.executable, "-c", program, *words], check=True, timeout=60)
        assert report.read_text() == f"2 {take} 1"


def test_the_c_library_gets_the_input_and_gives_the_output(
    runner: Path, native: Path, tiny: Path, picture: Path, tmp_path: Path
) -> None:
    told = on_stand_in(runner, native, tiny, "--input", picture, "--output", tmp_path / "output")
    assert (tmp_path / "output").read_bytes() == picture.read_bytes()
    assert told.tools["runtime"] == "TFLite stand-in"
    assert told.nodes is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("external", "libcounting.so", "refuse=yes"), "delegate", "made no delegate"),
        (("external", "none.so", "take=1"), "library", "cannot load the delegate"),
        (("gpu", "libtensorflowlite_c.so", "take=1"), "symbol", "exports no delegate"),
        (("nnapi", "libcounting.so", "take=1"), "delegate", "NNAPI"),
    ],
)
def test_a_delegate_that_is_none_is_refused(
    words: tuple[str, str, str], code: str, said: str, runner: Path, native: Path, tiny: Path
) -> None:
    backend, library, option = words
    own = ("--backend", backend, "--backend-library", native / library, "--backend-option", option)
    with pytest.raises(RunnerRefused, match=said) as caught:
        on_stand_in(runner, native, tiny, *own)
    assert caught.value.code == code


@pytest.mark.parametrize("ends", ["well", "refused"])
def test_a_delegate_that_crashes_as_it_is_torn_down_hides_nothing(
    ends: str, runner: Path, native: Path, tiny: Path
) -> None:
    more = ("refuse=yes",) if ends == "refused" else ()
    own = with_delegate(native, "say=chatter", "crash=yes", *more)
    words = on_stand_in_command(runner, native, tiny, *own)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (4 if more else 0), done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["kind"] == ("error" if more else "end")
    assert ("made no delegate" in done.stderr) == bool(more)
    assert "chatter" in done.stderr  # what it said on stdout was in a buffer
    assert "chatter" not in done.stdout


@pytest.mark.parametrize(
    ("library", "backend", "given", "said"),
    [
        ("tflite", "cpu", ["key=value"], "key: TensorFlow Lite's cpu takes no options"),
        ("tflite", "cpu", ["libgpu.so"], "libgpu.so: TensorFlow Lite's cpu takes none"),
        ("tflite", "gpu", ["libgpu.so", "key=value"], "key: the GPU delegate takes no options"),
        ("litert", "cpu", ["libgpu.so"], "libgpu.so: LiteRT's cpu takes none"),
        ("onnx", "cpu", ["key=value"], "key: ONNX Runtime's cpu takes no options"),
        ("onnx", "cpu", ["libgpu.so"], "libgpu.so: ONNX Runtime's cpu takes none"),
        ("onnx", "nnapi", ["key=value"], "key: ONNX Runtime's NNAPI takes no options"),
        ("onnx", "nnapi", ["provider=QNN"], "provider: ONNX Runtime's NNAPI takes no options"),
        ("onnx", "nnapi", ["libgpu.so"], "libgpu.so: ONNX Runtime's NNAPI takes none"),
    ],
)
def test_what_a_back_end_has_no_way_to_take_is_refused(
    library: str,
    backend: str,
    given: list[str],
    said: str,
    runner: Path,
    native: Path,
    tiny: Path,
) -> None:
    own: list[object] = ["--backend", backend]
    for one in given:
        own += ["--backend-option", one] if "=" in one else ["--backend-library", native / one]
    if library == "tflite":
        own += ["--library", native / "libtensorflowlite_c.so"]
    artifact = tiny / ("tiny.onnx" if library == "onnx" else "tiny.tflite")
    command = host_command(runner, artifact, *own)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["code"] == "usage"
    assert said in json.loads(line)["message"]


def test_the_gpu_delegate_of_the_c_library_runs_without_options(
    runner: Path, native: Path, tiny: Path
) -> None:
    own = ("--backend", "gpu", "--backend-library", native / "libgpu.so")
    told = on_stand_in(runner, native, tiny, *own)
    assert (told.nodes_taken, told.nodes) == (0, 3)


def test_a_provider_that_took_nothing_is_seen(runner: Path, tiny: Path, tmp_path: Path) -> None:
    own = ("--backend", "external", "--backend-option", "provider=AZURE", "--runs", 2)
    output = ("--output", tmp_path / "output")
    told = run_runner(host_command(runner, tiny / "tiny.onnx", *own, *output), 60)
    assert told.nodes_taken == 0
    assert told.nodes == 2
    assert told.details["fully_accelerated"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["output"]  # and no profile left behind


def test_the_session_that_tells_the_placement_is_in_no_figure(
    runner: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXRUNTIME", str(host_library(Runtime.ONNX)))
    compile_library(tmp_path / "libonnxruntime.so", RIG / "slow_profile.c")
    own = ("--library", tmp_path / "libonnxruntime.so", "--output", tmp_path / "output")
    azure = ("--backend", "external", "--backend-option", "provider=AZURE")
    began = time.monotonic()
    told = run_runner(host_command(runner, tiny / "tiny.onnx", *own, *azure), 60)
    assert time.monotonic() - began > 2  # ending the profile takes that long
    assert told.nodes == 2
    assert told.load_ms is not None
    assert 0 < told.load_ms < 2000
    assert told.peak_rss_mb is None
    assert run_runner(host_command(runner, tiny / "tiny.onnx", *own), 60).peak_rss_mb
