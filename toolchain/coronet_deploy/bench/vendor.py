"""Vendors' benchmark programs as further back ends, by path: told apart, started, read.

    tool = identify(device, program)
    result = run_vendor(device, program, tool, request, seconds=120)

Their figures stand beside the runner's, never among them: what they time and how they warm up is
theirs, and two of the three keep no single inference.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from pathlib import Path, PurePosixPath

from coronet_deploy.bench import vendor_benchmark_model, vendor_perf_test
from coronet_deploy.bench.adb import AdbFlood, AdbTimeout, Device, ShellResult
from coronet_deploy.bench.launch import Failure
from coronet_deploy.bench.vendor_proto import decode_result
from coronet_deploy.bench.vendor_result import Achieved, Request, Tool, VendorResult
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Runtime

_HELP_S = 20.0
_QUICK_S = 20.0
_SIGNALLED = 128
# perf_test ends with -1 when it fails.
_MINUS_ONE = 255


def identify(device: Device, program: str, source: Path | None = None) -> Tool:
    """Return which program stands at the path `program` on the phone, by its `--help`.

    On a phone that only says what it would be told, by its file here, `source`.

    Raises:
        BadInput: it is none of them, or does not start.
        DeviceLost: the phone went away.

    """
    result = device.shell([*_environment(program, None), program, "--help"], seconds=_HELP_S)
    tool = told_by_file(source) if device.dry and source else told_apart(_text(result))
    if tool is None:
        raise BadInput(
            f"{program} is no benchmark program that is known: {result.complaint}",
            hint="benchmark_model of LiteRT or TFLite, or onnxruntime_perf_test",
        )
    return tool


def told_apart(help_text: str) -> Tool | None:
    """Return the program that prints this help, or None."""
    # LiteRT's is built on TFLite's and knows most of its flags: its own decide.
    if any(flag in help_text for flag in ("dispatch_library_path", "use_npu", "NPU Vendor Flags")):
        return Tool.LITERT
    if "use_xnnpack" in help_text or "--graph" in help_text:
        return Tool.TFLITE
    return Tool.ONNXRUNTIME if "perf_test" in help_text or "perftest" in help_text else None


def told_by_file(source: Path) -> Tool | None:
    """Return the program that the file `source` is, or None: by its name, and what help it holds.

    A program holds the names of its flags, but ONNX Runtime's may hold many others' too.
    """
    if "perf_test" in source.name:
        return Tool.ONNXRUNTIME
    held = told_apart(source.read_bytes().decode("latin-1"))
    return held or (Tool.TFLITE if "benchmark_model" in source.name else None)


def run_vendor(
    device: Device, program: str, tool: Tool, request: Request, *, seconds: float
) -> VendorResult:
    """Launch `program` on the phone, no longer than `seconds`, and return what came of it.

    A launch that failed (it crashed, hung, took less of the graph than asked) is a result with an
    error.

    Raises:
        BadInput: the program does not run such an artifact, or has no such back end.
        DeviceLost: the phone went away.

    """
    _check_runtime(tool, request)
    if tool is Tool.ONNXRUNTIME:
        arguments = vendor_perf_test.arguments(request)
    else:
        arguments = vendor_benchmark_model.arguments(request, tool)
    pin = ["taskset", request.mask] if request.mask else []
    command = [*_environment(program, request.library), *pin, program, *arguments]
    device.shell(["rm", "-f", request.result_file], seconds=_QUICK_S)
    try:
        ended = device.shell(command, seconds=seconds)
    except AdbTimeout:
        told = f"no answer after {seconds:g} s: stopped"
        return VendorResult(tool, error=told, failure=Failure.DEADLINE)
    except AdbFlood:
        told = "it wrote without end: stopped"
        return VendorResult(tool, error=told, failure=Failure.GARBAGE)
    result = _parsed(device, tool, request, ended)
    return _judged(result, request, ended)


def _parsed(device: Device, tool: Tool, request: Request, ended: ShellResult) -> VendorResult:
    text = _text(ended)
    written = device.shell(["cat", request.result_file], seconds=_QUICK_S)
    file = written.stdout if written.status == 0 else None
    if tool is Tool.ONNXRUNTIME:
        rows = None if file is None else file.decode(errors="replace")
        return vendor_perf_test.parse(text, rows, request)
    result = vendor_benchmark_model.parse(text, tool, request.backend)
    if file and result.error is None:
        # The same figures, finer than what is printed.
        with contextlib.suppress(ValueError):
            result = decode_result(file, result)
    return result


def _judged(result: VendorResult, request: Request, ended: ShellResult) -> VendorResult:
    """Fail a result that its exit status, its delegation or its count speaks against."""
    if ended.status > _SIGNALLED and ended.status != _MINUS_ONE:
        told = f"{_ending(ended)}: {result.error}" if result.error else _ending(ended)
        return _failed(result, Failure.CRASHED, told)
    if ended.status != 0 or result.error is not None:
        return _failed(result, Failure.REFUSED, result.error or _ending(ended))
    fell_back = result.achieved in {Achieved.PARTIAL, Achieved.NONE}
    if request.backend != "cpu" and fell_back and not request.allow_fallback:
        told = f"{request.backend} took {'none' if result.achieved is Achieved.NONE else 'part'}"
        nodes = f", {result.nodes_taken} of {result.nodes} nodes" if result.nodes else ""
        return _failed(result, Failure.DELEGATION, f"{told} of the graph{nodes}")
    count = result.summary.count if result.summary else 0
    if 0 < count < request.runs:
        warning = f"it stopped after {count} of {request.runs} inferences"
        return replace(result, warnings=(*result.warnings, warning))
    return result


def _failed(result: VendorResult, failure: Failure, error: str) -> VendorResult:
    return replace(result, samples_ms=(), error=error, failure=failure)


def _check_runtime(tool: Tool, request: Request) -> None:
    runtime = Runtime.ONNX if tool is Tool.ONNXRUNTIME else Runtime.TFLITE
    if not request.artifact.endswith(runtime.suffix):
        name = PurePosixPath(request.artifact).name
        raise BadInput(f"{tool.value} runs {runtime.suffix} files, and {name} is none")


def _environment(program: str, library: str | None) -> list[str]:
    """Return the words that let a program find libraries beside it and beside the delegate."""
    folders = dict.fromkeys(str(PurePosixPath(one).parent) for one in (program, library) if one)
    path = ":".join(folders)
    return ["env", f"LD_LIBRARY_PATH={path}", f"ADSP_LIBRARY_PATH={list(folders)[-1]}"]


def _text(result: ShellResult) -> str:
    return (result.stdout + b"\n" + result.stderr).decode(errors="replace")


def _ending(ended: ShellResult) -> str:
    if _SIGNALLED < ended.status != _MINUS_ONE:
        with contextlib.suppress(ValueError):
            return f"it was killed by {signal.Signals(ended.status - _SIGNALLED).name}"
    return f"it ended with status {ended.status}: {ended.complaint}"
