"""`BenchmarkResult`, the file that `benchmark_model --result_file_path` writes, read by hand.

The message (LiteRT, tflite/tools/benchmark/proto/benchmark_result.proto) holds some twenty numbers;
reading them needs no protobuf package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace

from coronet_deploy.bench.vendor_result import Summary, VendorResult

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of the messages.
_LATENCY, _MEMORY, _MISC = 2, 3, 4
_AVG, _MIN, _MAX, _STD, _MEDIAN, _P5, _P95, _INIT, _FIRST, _WARM = range(1, 11)
_PEAK_MB = 3
_NUM_RUNS, _NUM_WARMUP_RUNS = 2, 3
_MOST_BITS = 64

Value = int | float | bytes


def decode_result(data: bytes, printed: VendorResult) -> VendorResult:
    """Return `printed` with the figures of the file in place of those that were printed.

    What the file does not hold (a median, in files of older builds) stays as printed.

    Raises:
        ValueError: it is no such file, or was cut short.

    """
    message = dict(_fields(data))
    latency, memory, misc = (_numbers(message.get(key)) for key in (_LATENCY, _MEMORY, _MISC))
    count = int(misc.get(_NUM_RUNS, 0))
    if count < 1 or _AVG not in latency:
        raise ValueError("a result file without results")
    before = printed.summary or Summary(count)
    summary = replace(
        before,
        count=count,
        mean_ms=latency[_AVG],
        min_ms=latency.get(_MIN, before.min_ms),
        max_ms=latency.get(_MAX, before.max_ms),
        std_ms=latency.get(_STD, before.std_ms),
        median_ms=latency.get(_MEDIAN, before.median_ms),
        p5_ms=latency.get(_P5, before.p5_ms),
        p95_ms=latency.get(_P95, before.p95_ms),
    )
    warmup = printed.warmup
    if _WARM in latency:
        warmup = replace(
            warmup or Summary(0),
            count=int(misc.get(_NUM_WARMUP_RUNS, 0)),
            mean_ms=latency[_WARM],
            first_ms=latency.get(_FIRST),
        )
    return replace(
        printed,
        summary=summary,
        warmup=warmup,
        load_ms=latency.get(_INIT, printed.load_ms),
        peak_rss_mb=memory.get(_PEAK_MB) or printed.peak_rss_mb,
    )


def _numbers(value: Value | None) -> dict[int, float]:
    if not isinstance(value, bytes):
        return {}
    return {key: float(one) for key, one in _fields(value) if not isinstance(one, bytes)}


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield the fields of a message (protobuf's wire format): number and value."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        value: Value
        if kind == _VARINT:
            value, place = _varint(data, place)
        elif kind in {_FIXED32, _FIXED64}:
            size, code = (4, "<f") if kind == _FIXED32 else (8, "<d")
            value, place = _unpacked(code, _slice(data, place, size)), place + size
        elif kind == _BYTES:
            size, place = _varint(data, place)
            value, place = _slice(data, place, size), place + size
        else:
            raise ValueError(f"no field of kind {kind} is known")
        yield number, value


def _unpacked(code: str, data: bytes) -> float:
    (value,) = struct.unpack(code, data)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no figure")
    return float(value)


def _slice(data: bytes, place: int, size: int) -> bytes:
    if place + size > len(data):
        raise ValueError("cut short")
    return data[place : place + size]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        byte = _slice(data, place, 1)[0]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follow
            return value, place
    raise ValueError("a number without end")
