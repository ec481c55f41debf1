"""Vendors' benchmark programs: told apart, asked, and read in each format they may print."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from coronet_deploy.bench import vendor_benchmark_model, vendor_perf_test
from coronet_deploy.bench.vendor import told_apart, told_by_file
from coronet_deploy.bench.vendor_proto import decode_result
from coronet_deploy.bench.vendor_result import Achieved, Request, Summary, Tool, VendorResult
from coronet_deploy.errors import BadInput

FIXTURES = Path(__file__).with_name("fixtures") / "vendor"
TFLITE = Request("/d/m.tflite", "/d/out", threads=4, runs=50)
ONNX = Request("/d/m.onnx", "/d/out", threads=4, runs=3)


def read(name: str) -> str:
    return (FIXTURES / name).read_text()


def tflite(name: str, backend: str = "cpu") -> VendorResult:
    return vendor_benchmark_model.parse(read(f"tflite-{name}.txt"), Tool.TFLITE, backend)


def onnx(text: str, rows: str | None, request: Request = ONNX) -> VendorResult:
    return vendor_perf_test.parse(read(text), read(rows) if rows else None, request)


@pytest.mark.parametrize(
    ("name", "tool"),
    [("tflite", Tool.TFLITE), ("litert", Tool.LITERT), ("ort", Tool.ONNXRUNTIME)],
)
def test_programs_are_told_apart_by_their_help(name: str, tool: Tool) -> None:
    assert told_apart(read(f"help-{name}.txt")) is tool


def test_other_programs_are_none_of_them() -> None:
    assert told_apart("Usage: ls [-la]") is None
    assert told_apart("") is None


@pytest.mark.parametrize(
    ("name", "held", "tool"),
    [
        ("bench", "help-tflite.txt", Tool.TFLITE),
        ("benchmark_model", "help-litert.txt", Tool.LITERT),
        ("benchmark_model_plus_flex", None, Tool.TFLITE),
        ("onnxruntime_perf_test", "help-tflite.txt", Tool.ONNXRUNTIME),
        ("perf", "help-ort.txt", Tool.ONNXRUNTIME),
        ("ls", None, None),
    ],
)
def test_programs_are_told_apart_by_their_files(
    name: str, held: str | None, tool: Tool | None, tmp_path: Path
) -> None:
    flags = read(held).encode() if held else b""
    (tmp_path / name).write_bytes(b"\x7fELF\xff\xfe\0" + flags + b"\0\x80")
    assert told_by_file(tmp_path / name) is tool


def test_statistics_of_the_measured_phase_are_told_from_the_warm_up() -> None:
    result = tflite("cpu")
    assert result.error is None
    assert result.summary == Summary(
        50, 79.732, 79.449, 81.35, 77.385, 88.213, 1.929, 77.901, 79.5, 83.02
    )
    assert result.warmup is not None
    assert (result.warmup.count, result.warmup.mean_ms) == (3, 211.669)
    assert (result.load_ms, result.peak_rss_mb) == (9.34, 181.25)
    assert (result.nodes_taken, result.nodes, result.partitions) == (539, 548, 19)
    # It keeps no single inference, and that is said.
    assert result.samples_ms == ()
    assert result.details()["samples"] == "none"
    assert json.loads(json.dumps(result.details()))["summary"]["median_ms"] == 79.5


@pytest.mark.parametrize(
    ("name", "count", "mean", "median", "warm"),
    [
        ("older", 50, 33.0718, None, 43.2681),
        ("slow", 17, 1240.27, 1239.807, 1381.51),
        ("all-same", 50, 0.007, None, 0.009),
        ("timings-only", 0, 90.8659, None, 92.7552),
        ("logcat", 25, 145.528, 141.253, 211.669),
        ("no-result-file", 50, 33.0718, None, 43.2681),
    ],
)
def test_every_variant_of_the_statistics(
    name: str, count: int, mean: float, median: float | None, warm: float
) -> None:
    result = tflite(name)
    assert result.error is None
    assert result.summary is not None
    assert result.summary.count == count
    assert result.summary.mean_ms == pytest.approx(mean)
    assert result.summary.median_ms == (None if median is None else pytest.approx(median))
    assert result.warmup is not None
    assert result.warmup.mean_ms == pytest.approx(warm)


@pytest.mark.parametrize(
    ("name", "achieved", "nodes"),
    [
        ("gpu-full", Achieved.FULL, 31),
        ("gpu-partial", Achieved.PARTIAL, None),
        ("gpu-none", Achieved.NONE, None),
        # XNNPACK took all of it: that is the CPU.
        ("gpu-unsupported", Achieved.NONE, None),
    ],
)
def test_how_much_a_delegate_took(name: str, achieved: Achieved, nodes: int | None) -> None:
    result = tflite(name, "gpu")
    assert (result.achieved, result.nodes) == (achieved, nodes)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none-measured", "ended before it had measured"),
        ("cut-short", "ended before it had measured"),
        ("refused", "Failed to apply GPU delegate."),
        ("fallback", "Disallowed CPU fallback detected."),
        ("bad-model", "Failed to load model"),
        # It measures all the same and ends with 0, on another back end than was meant.
        ("mistyped", "does not know --use_nnapii"),
    ],
)
def test_a_failed_launch_is_one(name: str, told: str) -> None:
    result = tflite(name, "gpu")
    assert result.error is not None
    assert told in result.error


def test_litert_tells_on_both_streams() -> None:
    text = read("litert-cpu.stdout") + "\n" + read("litert-cpu.stderr")
    result = vendor_benchmark_model.parse(text, Tool.LITERT)
    assert result.error is None
    assert result.summary is not None
    # The statistics lines are finer than the 10 us of its own table.
    assert result.summary.count == 1054
    assert result.summary.mean_ms == pytest.approx(0.947132)
    assert result.summary.p95_ms == pytest.approx(0.991)
    assert (result.load_ms, result.nodes_taken) == (5.76, 90)
    assert result.peak_rss_mb is None


def test_litert_without_statistics_lines() -> None:
    result = vendor_benchmark_model.parse(read("litert-plain.txt"), Tool.LITERT)
    assert result.summary == Summary(2166, 0.46, min_ms=0.31, max_ms=3.1, std_ms=0.12)
    assert result.warmup == Summary(957, 0.52, first_ms=4.44)
    for name, told in (("none-run", "before it had measured"), ("aborted", "incompatible")):
        error = vendor_benchmark_model.parse(read(f"litert-{name}.txt"), Tool.LITERT).error
        assert told in (error or "")


def test_perf_test_keeps_its_samples() -> None:
    result = onnx("ort.txt", "ort.rows")
    assert result.error is None
    assert result.samples_ms == pytest.approx((19.7812, 20.2704, 19.9047))
    assert result.summary is not None
    assert (result.summary.count, result.summary.mean_ms) == (3, 19.9333)
    assert result.summary.median_ms == pytest.approx(19.9047)
    assert result.load_ms == pytest.approx(50.8382)
    assert result.peak_rss_mb == pytest.approx(104.457, abs=1e-3)
    assert result.details()["samples"] == "kept"


@pytest.mark.parametrize(
    ("text", "rows", "samples"),
    [
        ("ort.txt", "ort-commas.rows", 2),
        ("ort-older.txt", "ort-older.rows", 3),
        ("ort-verbose.txt", None, 3),
    ],
)
def test_every_variant_of_the_rows(text: str, rows: str | None, samples: int) -> None:
    result = onnx(text, rows)
    assert result.error is None
    assert len(result.samples_ms) == samples
    assert result.samples_ms[0] == pytest.approx(19.7812)
    assert result.summary is not None
    assert result.summary.median_ms is not None


def test_rows_of_two_launches_are_not_one() -> None:
    result = onnx("ort.txt", "ort-appended.rows")
    assert result.samples_ms == ()
    assert "not of one launch" in (result.error or "")


def test_without_rows_there_is_no_sample() -> None:
    result = onnx("ort-no-file.txt", None)
    assert result.error is not None
    assert result.summary is not None
    assert result.summary.median_ms == pytest.approx(19.9047)
    failed = onnx("ort-failed.txt", None)
    assert "fallback to CPU EP has been explicitly disabled" in (failed.error or "")
    assert vendor_perf_test.parse("", None, ONNX).error == "it printed nothing"


@pytest.mark.parametrize("number", [".", "1.2.3", "1..5", "9e999", "9" * 400])
def test_a_number_that_is_none_is_no_figure(number: str) -> None:
    text = f"INFO: count=50 first=1 curr=1 avg={number}\nInference timings in us: "
    text += f"Init: 5, First inference: 1, Warmup (avg): 1, Inference (avg): {number}\n"
    result = vendor_benchmark_model.parse(text, Tool.TFLITE)
    assert result.summary is None
    assert result.error == "it ended before it had measured"
    told = f"Session creation time cost: {number} s\nP50 Latency: {number} s\n"
    failed = vendor_perf_test.parse(told, f"/m.onnx,{number},1,2,0\n", ONNX)
    assert (failed.summary, failed.load_ms, failed.samples_ms) == (None, None, ())
    assert "holds no time" in (failed.error or "")


def flags(request: Request, tool: Tool) -> dict[str, str]:
    given = vendor_benchmark_model.arguments(request, tool)
    cut = (flag.removeprefix("--").partition("=") for flag in given)
    return {name: value for name, _, value in cut}


def test_exactly_so_many_runs_are_asked_for() -> None:
    for tool in (Tool.TFLITE, Tool.LITERT):
        given = flags(TFLITE, tool)
        assert (given["num_runs"], given["min_secs"], given["num_threads"]) == ("50", "0", "4")
        assert "require_full_delegation" not in given


def test_another_back_end_must_take_all_unless_allowed() -> None:
    gpu = Request("/d/m.tflite", "/d/out", backend="gpu")
    assert flags(gpu, Tool.TFLITE)["require_full_delegation"] == "true"
    # LiteRT's aborts if the CPU is asked for as well, which it is by default.
    given = flags(gpu, Tool.LITERT)
    assert (given["use_gpu"], given["use_cpu"]) == ("true", "false")
    assert given["require_full_delegation"] == "true"
    allowed = Request("/d/m.tflite", "/d/out", backend="gpu", allow_fallback=True)
    assert flags(allowed, Tool.LITERT)["use_cpu"] == "true"
    for tool in (Tool.TFLITE, Tool.LITERT):
        assert "require_full_delegation" not in flags(allowed, tool)


def test_delegates_and_providers_by_path() -> None:
    options = ("backend_type=htp", "htp_performance_mode=burst")
    qnn = Request("/d/m.tflite", "/d/out", backend="qnn", library="/d/libq.so", options=options)
    given = flags(qnn, Tool.TFLITE)
    assert given["external_delegate_path"] == "/d/libq.so"
    assert given["external_delegate_options"] == "backend_type:htp;htp_performance_mode:burst"
    assert flags(qnn, Tool.LITERT)["dispatch_library_path"] == "/d/libq.so"
    line = vendor_perf_test.arguments(qnn)
    at = line.index("-i")
    assert line[at + 1] == "backend_path|/d/libq.so backend_type|htp htp_performance_mode|burst"
    assert line[line.index("-C") + 1] == "session.disable_cpu_ep_fallback|1"
    assert line[-2:] == ["/d/m.tflite", "/d/out"]
    assert "-C" not in vendor_perf_test.arguments(ONNX)


@pytest.mark.parametrize(
    ("tool", "backend"), [(Tool.TFLITE, "qnn"), (Tool.LITERT, "qnn"), (Tool.LITERT, "nnapi")]
)
def test_a_back_end_that_a_program_lacks_is_refused(tool: Tool, backend: str) -> None:
    with pytest.raises(BadInput, match=backend):
        vendor_benchmark_model.arguments(Request("/m.tflite", "/o", backend=backend), tool)


def test_perf_test_has_no_gpu() -> None:
    with pytest.raises(BadInput, match="no back end gpu"):
        vendor_perf_test.arguments(Request("/m.onnx", "/o", backend="gpu"))


def message(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def floats(**fields: float) -> bytes:
    return b"".join(
        bytes([int(key[1:]) << 3 | 5]) + struct.pack("<f", value) for key, value in fields.items()
    )


RESULT_FILE = (
    message(1, b"name")
    + message(2, floats(f1=8.375, f2=8.0, f3=9.0, f4=0.125, f5=8.25, f6=8.0, f7=8.875, f8=568.5))
    + message(3, bytes([1 << 3, 0x80, 0x20]) + floats(f3=181.25))
    + message(4, bytes([2 << 3, 0x9A, 0x08, 3 << 3, 60]))
)


def test_the_result_file_is_read_without_protobuf() -> None:
    result = decode_result(RESULT_FILE, tflite("gpu-full", "gpu"))
    assert result.summary == Summary(1050, 8.375, 8.449, 8.35, 8.0, 9.0, 0.125, 8.0, 8.25, 8.875)
    assert (result.load_ms, result.peak_rss_mb) == (568.5, 181.25)
    assert result.achieved is Achieved.FULL


@pytest.mark.parametrize("length", range(len(RESULT_FILE)))
def test_a_result_file_cut_short_is_never_believed(length: int) -> None:
    # But for a cut between two messages before the last, which leaves no count of runs.
    with pytest.raises(ValueError, match=r"cut short|without"):
        decode_result(RESULT_FILE[:length], tflite("cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_result_file_with_a_figure_that_is_none_is_refused(value: float) -> None:
    latency = b"\x0d" + struct.pack("<f", value)
    data = b"\x12" + bytes([len(latency)]) + latency + b"\x22\x02\x10\x05"
    with pytest.raises(ValueError, match="is no figure"):
        decode_result(data, tflite("cpu"))
