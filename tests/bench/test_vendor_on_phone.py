"""Vendors' programs started on a virtual phone: scripts there that print what the programs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.launch import Failure
from coronet_deploy.bench.vendor import identify, run_vendor
from coronet_deploy.bench.vendor_result import Achieved, Request, Tool
from coronet_deploy.errors import BadInput
from virtual_phone import VirtualPhone

FIXTURES = Path(__file__).with_name("fixtures") / "vendor"
HERE = "/data/local/tmp/vendor"
OUT = f"{HERE}/out"
TFLITE = Request("/d/m.tflite", OUT, runs=50)
ONNX = Request("/d/m.onnx", OUT, runs=3)

PROGRAM = """#!/system/bin/sh
here=${0%/*}
case "$1" in --help) cat $here/help; exit 1;; esac
echo "$LD_LIBRARY_PATH $*" > $here/asked
cat $here/stdout
cat $here/stderr >&2
[ -e $here/rows ] && cat $here/rows >> $here/out
. $here/end
"""

Install = Callable[..., str]


@pytest.fixture
def device(phone: VirtualPhone) -> Iterator[Device]:
    made = Device(phone.serial)
    made.shell(["mkdir", "-p", HERE], seconds=10, check=True)
    yield made
    made.shell(["rm", "-rf", HERE], seconds=10)


@pytest.fixture
def install(device: Device, tmp_path: Path) -> Install:
    """Put a program on the phone that prints these fixtures and ends so."""

    def put(
        help_text: str, stdout: str, stderr: str = "", rows: str = "", end: str = "exit 0"
    ) -> str:
        files = {"program": PROGRAM, "end": end}
        named = {"help": help_text, "stdout": stdout, "stderr": stderr, "rows": rows}
        for name, fixture in named.items():
            files[name] = (FIXTURES / fixture).read_text() if fixture else ""
        if not rows:
            del files["rows"]
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            device.push(tmp_path / name, f"{HERE}/{name}")
        device.shell(["chmod", "755", f"{HERE}/program"], seconds=10, check=True)
        return f"{HERE}/program"

    return put


def test_tflites_program_is_known_asked_and_read(device: Device, install: Install) -> None:
    program = install("help-tflite.txt", "tflite-cpu.txt")
    tool = identify(device, program)
    assert tool is Tool.TFLITE
    result = run_vendor(device, program, tool, replace(TFLITE, mask="3"), seconds=20)
    assert result.error is None
    assert result.summary is not None
    assert (result.summary.count, result.summary.median_ms) == (50, 79.5)
    asked = device.read_text(f"{HERE}/asked") or ""
    assert asked.startswith(f"{HERE} --graph=/d/m.tflite")
    assert "--num_runs=50" in asked


def test_litert_s_program_is_read_on_both_streams(device: Device, install: Install) -> None:
    program = install("help-litert.txt", "litert-cpu.stdout", "litert-cpu.stderr")
    tool = identify(device, program)
    assert tool is Tool.LITERT
    result = run_vendor(device, program, tool, TFLITE, seconds=20)
    assert result.error is None
    assert result.summary is not None
    assert result.summary.count == 1054


def test_perf_test_appends_and_an_old_file_does_not_count(device: Device, install: Install) -> None:
    program = install("help-ort.txt", "ort.txt", rows="ort.rows")
    tool = identify(device, program)
    assert tool is Tool.ONNXRUNTIME
    for _ in range(2):
        result = run_vendor(device, program, tool, ONNX, seconds=20)
        assert result.error is None
        assert len(result.samples_ms) == 3
    asked = device.read_text(f"{HERE}/asked") or ""
    assert asked.endswith(f"-I -S 1 -s /d/m.onnx {OUT}")


def test_part_of_the_graph_is_a_failure_unless_allowed(device: Device, install: Install) -> None:
    program = install("help-tflite.txt", "tflite-gpu-partial.txt")
    gpu = replace(TFLITE, backend="gpu")
    result = run_vendor(device, program, Tool.TFLITE, gpu, seconds=20)
    assert result.error == "gpu took part of the graph"
    assert result.failure is Failure.DELEGATION
    allowed = replace(gpu, allow_fallback=True)
    result = run_vendor(device, program, Tool.TFLITE, allowed, seconds=20)
    assert result.error is None
    assert result.achieved is Achieved.PARTIAL


def test_fewer_inferences_than_asked_are_told(device: Device, install: Install) -> None:
    program = install("help-tflite.txt", "tflite-slow.txt")
    result = run_vendor(device, program, Tool.TFLITE, TFLITE, seconds=20)
    assert result.error is None
    assert result.warnings == ("it stopped after 17 of 50 inferences",)


@pytest.mark.parametrize(
    ("end", "told", "failure"),
    [
        ("exit 1", "ended with status 1", Failure.REFUSED),
        ("kill -ABRT $$", "killed by SIGABRT", Failure.CRASHED),
        # What adb says of a lost phone, too.
        ("exit 255", "ended with status 255", Failure.REFUSED),
        ("exec sleep 100", "no answer after 2 s", Failure.DEADLINE),
    ],
)
def test_a_program_that_ends_badly(
    device: Device, install: Install, end: str, told: str, failure: Failure
) -> None:
    program = install("help-ort.txt", "ort.txt", rows="ort.rows", end=end)
    result = run_vendor(device, program, Tool.ONNXRUNTIME, ONNX, seconds=2)
    assert result.samples_ms == ()
    assert told in (result.error or "")
    assert result.failure is failure


def test_what_cannot_be_run_is_refused(device: Device, install: Install) -> None:
    program = install("help-tflite.txt", "tflite-cpu.txt")
    with pytest.raises(BadInput, match=r"runs \.tflite files, and m\.onnx is none"):
        run_vendor(device, program, Tool.TFLITE, ONNX, seconds=5)
    for path in ("/system/bin/ls", f"{HERE}/nothing"):
        with pytest.raises(BadInput, match="no benchmark program that is known"):
            identify(device, path)
