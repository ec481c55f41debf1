"""Run a .tflite file by libLiteRt.so, called from Python: `... FILE THREADS SAMPLES INPUT`.

The package ai-edge-litert carries its kernels twice, in two builds that choose among them
otherwise: in libLiteRt.so, which the C runner loads and apps ship, and in the library of its own
`Interpreter`. Beside this program the runner shows what it adds itself. INPUT holds the bytes of
the input tensor. Prints what the host bench's worker prints.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

from coronet_deploy.bench.runner import host_library
from coronet_deploy.bench.system import peak_rss_mb
from coronet_deploy.bench.worker import Budget, take_samples, warm_up
from coronet_deploy.vocabulary import Runtime

DEADLINE_S = 300.0
_ON_CPU, _TO_WRITE = 1, 1
_ZERO, _ONE = ctypes.c_size_t(0), ctypes.c_size_t(1)


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint, 7),
        ("has_strides", ctypes.c_uint, 1),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


class Network:
    """A file compiled for the CPU, with memory for its one input and its one output."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load and compile; RuntimeError if LiteRT refuses."""
        self._library = ctypes.CDLL(str(host_library(Runtime.TFLITE)))
        self._environment = self._made("CreateEnvironment", 0, None)
        model = self._made("CreateModelFromFile", self._environment, str(path).encode())
        options = self._made("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, _ON_CPU)
        # LiteRT frees the text itself.
        libc = ctypes.CDLL(None)
        libc.strdup.restype = ctypes.c_void_p
        text = ctypes.c_void_p(libc.strdup(f"num_threads = {threads}\n".encode()))
        kernels = self._made("CreateOpaqueOptions", b"xnnpack", text, libc.free)
        self._call("AddOpaqueOptions", options, kernels)
        self._compiled = self._made("CreateCompiledModel", self._environment, model, options)
        graph = self._made("GetModelSubgraph", model, _ZERO)
        self._input, self._output = (self._buffer(graph, way) for way in ("Input", "Output"))

    def write(self, data: bytes) -> None:
        """Place the input's bytes."""
        held = ctypes.c_void_p()
        self._call("LockTensorBuffer", self._input[0], ctypes.byref(held), _TO_WRITE)
        ctypes.memmove(held, data, len(data))
        self._call("UnlockTensorBuffer", self._input[0])

    def invoke(self) -> None:
        """Run one inference."""
        self._call("RunCompiledModel", self._compiled, _ZERO, _ONE, self._input, _ONE, self._output)

    def _buffer(self, graph: ctypes.c_void_p, way: str) -> ctypes.Array[ctypes.c_void_p]:
        kind = _TensorType()
        tensor = self._made(f"GetSubgraph{way}", graph, _ZERO)
        self._call("GetRankedTensorType", tensor, ctypes.byref(kind))
        wanted = self._made(
            f"GetCompiledModel{way}BufferRequirements", self._compiled, _ZERO, _ZERO
        )
        make = "CreateManagedTensorBufferFromRequirements"
        return (ctypes.c_void_p * 1)(
            self._made(make, self._environment, ctypes.byref(kind), wanted).value
        )

    def _made(self, name: str, *arguments: object) -> ctypes.c_void_p:
        """Return the handle that a function writes where its last argument points."""
        handle = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(handle))
        return handle

    def _call(self, name: str, *arguments: object) -> None:
        words = [ctypes.c_void_p(a) if isinstance(a, int) and a > 1 else a for a in arguments]
        if status := self._library[f"LiteRt{name}"](*words):
            raise RuntimeError(f"LiteRt{name} answers with status {status}")


def main(path: Path, threads: int, samples: int, given: Path) -> None:
    """Load, warm up, measure, print."""
    start = time.perf_counter()
    network = Network(path, threads)
    load_ms = (time.perf_counter() - start) * 1e3
    network.write(given.read_bytes())
    warm_up(network.invoke)
    samples_ms = take_samples(network.invoke, Budget(samples, DEADLINE_S))
    told = {"samples_ms": samples_ms, "load_ms": load_ms, "peak_rss_mb": peak_rss_mb()}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
