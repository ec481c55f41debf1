"""Tiny real artifacts (one convolution and a tanh, in both formats), and virtual phones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.export.capture import capture
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.vocabulary import DType, Runtime
from phone_bench import Bench, compile_faulty
from support import Cli
from virtual_phone import SM8550, AdbServer, VirtualPhone, require_rig

SIZE = 32


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds tiny.onnx and tiny.tflite."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    graph = capture(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()).eval(), SIZE, SIZE)
    onnx = emit_onnx(lower(graph, Runtime.ONNX)[0], DType.FP32, {})
    tflite = emit_tflite(lower(graph, Runtime.TFLITE)[0], DType.FP32, {})
    (folder / "tiny.onnx").write_bytes(onnx)
    (folder / "tiny.tflite").write_bytes(tflite)
    return folder


@pytest.fixture(scope="session")
def runner(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the C runner for this host, as users do."""
    if not os.environ.get("CI") and not (shutil.which("cmake") and shutil.which("gcc")):
        pytest.skip("needs cmake and gcc")
    folder = tmp_path_factory.mktemp("runner")
    result = cli("runner", "build", "--preset", "host", "--output", folder, "--json")
    assert result.returncode == 0, result.stderr
    return Path(json.loads(result.stdout)["runner"])


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """Run an adb server of the tests' own."""
    require_rig()
    with AdbServer.start(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="session")
def _booted(adb_server: AdbServer) -> Iterator[VirtualPhone]:
    with VirtualPhone.boot(SM8550, adb_server) as booted:
        yield booted


@pytest.fixture
def phone(
    _booted: VirtualPhone, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> VirtualPhone:
    """Return a virtual SM8550 that all tests share, which adb calls of this test reach."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    _booted.connect(adb_server, seconds=20)
    return _booted


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runner that misbehaves: see rig/faulty_runner.c."""
    return compile_faulty(tmp_path_factory.mktemp("faulty"))


@pytest.fixture
def bench(
    phone: VirtualPhone, adb_server: AdbServer, faulty: Path, tiny: Path, tmp_path: Path
) -> Iterator[Bench]:
    """Return what runs the command on the shared phone with the runner that misbehaves."""
    made = Bench(adb_server, phone, faulty, tiny / "tiny.tflite", tmp_path / "runs")
    yield made
    made.mode(None)
