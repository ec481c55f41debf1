"""What the C runner does beyond the CPU, as far as this kind of machine has such a thing.

LiteRT's GPU accelerator draws on a Vulkan driver that computes on the CPU (Chromium brings one).
TensorFlow Lite's C library is a stand-in; the code that counts a delegate's nodes runs inside the
real interpreter too. ONNX Runtime has a provider, Azure's, that takes no node.
"""

from __future__ import annotations

import os
import subprocess
import sys
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
    """Return a folder with the delegate and the stand-in for TensorFlow Lite's C library."""
    folder = tmp_path_factory.mktemp("native")
    source = data_dir("android_bench") / "src"
    for name, files in {
        "libcounting.so": (RIG / "counting_delegate.c", source / "delegation.c"),
        "libtensorflowlite_c.so": (RIG / "tflite_c.c",),
    }.items():
        flags = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{source}")
        subprocess.run(["gcc", *flags, "-o", folder / name, *files], check=True)
    return folder


def on_stand_in(runner: Path, native: Path, tiny: Path, *more: object) -> RunnerResult:
    own = ("--library", native / "libtensorflowlite_c.so", "--runs", 3)
    return run_runner(host_command(runner, tiny / "tiny.tflite", *own, *more), 60)


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


def test_a_provider_that_took_nothing_is_seen(runner: Path, tiny: Path, tmp_path: Path) -> None:
    own = ("--backend", "external", "--backend-option", "provider=AZURE", "--runs", 2)
    output = ("--output", tmp_path / "output")
    told = run_runner(host_command(runner, tiny / "tiny.onnx", *own, *output), 60)
    assert told.nodes_taken == 0
    assert told.nodes == 2
    assert told.details["fully_accelerated"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["output"]  # and no profile left behind
