"""Artifacts run on this host by the runtimes that phones use.

A session takes and gives pictures as (1, H, W, C) float32 real values in [-1, 1], whatever the
file's layout and number type. `run` does all of it; a bench calls `prepare` once and times
`invoke` alone, which copies nothing:

    session = open_session(path, runtime_of(path), threads=1)
    session.prepare(picture)
    session.invoke()
    translated = session.fetch()
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from coronet_deploy.errors import BadInput, ConversionFailed, CoronetError, EnvironmentProblem
from coronet_deploy.export.manifest import METADATA_KEY
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.subject import MOST_CHANNELS
from coronet_deploy.images import Array
from coronet_deploy.memory import FREE_SOME, shortage
from coronet_deploy.storage import existing_file, require_utf8
from coronet_deploy.verify.installed import not_loading
from coronet_deploy.verify.onnx_integers import add_integers_whole
from coronet_deploy.verify.stored import INTEGER_TYPES, to_real, to_stored
from coronet_deploy.vocabulary import Runtime, TensorContract

_NO_THREAD = "pthread_create failed"


@dataclass(frozen=True)
class Partitions:
    """How an artifact was split between a runtime's fast path and the rest.

    `providers` names who may run nodes, first choice first. `parts` is the number of delegate
    calls an inference makes; `taken` of `total` nodes run inside them.
    """

    providers: tuple[str, ...]
    parts: int
    taken: int
    total: int

    @property
    def fully_accelerated(self) -> bool:
        """True if one delegate call runs the whole graph."""
        return self.parts == 1 and self.taken == self.total


class Session(ABC):
    """One artifact loaded into its runtime; `close` or leaving the context frees it."""

    runtime: Runtime
    path: Path
    threads: int
    input: TensorContract
    output: TensorContract

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The pictures it takes: (1, H, W, C), whatever the file's own layout is."""
        n, a, b, c = self.input.shape
        return (n, b, c, a) if self.input.layout == "NCHW" else (n, a, b, c)

    @abstractmethod
    def prepare(self, picture: Array) -> None:
        """Place (1, H, W, C) float32 real values in [-1, 1] where the runtime reads its input."""

    @abstractmethod
    def invoke(self) -> None:
        """Run one inference on what was prepared: this call is what a bench times."""

    @abstractmethod
    def fetch(self) -> Array:
        """Return the latest inference's picture, (1, H, W, C) float32 real values."""

    @property
    @abstractmethod
    def partitions(self) -> Partitions:
        """What the fast path took of the graph."""

    @property
    @abstractmethod
    def metadata(self) -> str | None:
        """What our exporter wrote into the file about itself, as JSON; None in other files."""

    @abstractmethod
    def close(self) -> None:
        """Free what the runtime holds."""

    def run(self, picture: Array) -> Array:
        """Return the translated picture; both (1, H, W, C) float32 real values in [-1, 1]."""
        self.prepare(picture)
        self.invoke()
        return self.fetch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, picture: Array) -> None:
        if picture.shape != self.input_shape:
            raise BadInput(
                f"{self.path} takes pictures of shape {self.input_shape}, not {picture.shape}"
            )


def runtime_of(path: Path) -> Runtime:
    """Return the runtime an artifact is for, by its suffix.

    Raises:
        BadInput: the suffix is neither `.onnx` nor `.tflite`.

    """
    for runtime in Runtime:
        if path.suffix == runtime.suffix:
            return runtime
    known = " or ".join(runtime.suffix for runtime in Runtime)
    raise BadInput(f"{path} is not an artifact: its name does not end in {known}")


def open_session(path: Path, runtime: Runtime, threads: int, *, optimize: bool = True) -> Session:
    """Return the artifact loaded into its runtime on the CPU, with `threads` threads.

    Without `optimize` it loads sooner and runs slower: for a look at what the file says.

    Raises:
        BadInput: there is no such file, or its name is not UTF-8, which the runtimes read.
        ConversionFailed: the runtime does not load it, or it does not map one picture to one.
        EnvironmentProblem: the runtime is not installed, or does not load; or memory is not enough.

    """
    existing_file(path, "artifact")
    require_utf8(str(path), "no runtime can open it")
    if threads < 1:
        raise BadInput(f"{threads} threads: at least 1")
    kind = _LiteRT if runtime is Runtime.TFLITE else _OnnxRuntime
    return kind(path, threads, optimize=optimize)


class _LiteRT(Session):
    """LiteRT's interpreter with XNNPACK.

    Not its CompiledModel, although that is the newer interface: both run the same kernels at
    the same speed, but only the interpreter tells which nodes the delegate took, and it does not
    load GPU and vendor libraries on the way.
    """

    runtime = Runtime.TFLITE

    def __init__(self, path: Path, threads: int, *, optimize: bool) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise not_loading(self.runtime, error) from error
        self.path, self.threads = path, threads
        kernels = (
            OpResolverType.AUTO if optimize else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        with captured_stderr() as messages:
            try:
                # The delegate is applied when the graph's memory is laid out.
                self._interpreter = Interpreter(
                    str(path), num_threads=threads, experimental_op_resolver_type=kernels
                )
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError, MemoryError) as error:
                raise _unloadable(path, "LiteRT", error, messages()) from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.input = _picture_contract(path, "input", "NHWC", [_litert_tensor(t) for t in inputs])
        self.output = _picture_contract(
            path, "output", "NHWC", [_litert_tensor(t) for t in outputs]
        )
        self._input_index, self._output_index = inputs[0]["index"], outputs[0]["index"]

    def prepare(self, picture: Array) -> None:
        self._check(picture)
        self._interpreter.set_tensor(self._input_index, to_stored(picture, self.input))

    def invoke(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> Array:
        return to_real(self._interpreter.get_tensor(self._output_index), self.output)

    @property
    def partitions(self) -> Partitions:
        # The one place that lists delegate nodes has no public name.
        nodes = self._interpreter._get_ops_details()  # noqa: SLF001 - see above
        delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
        plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
        taken = _nodes_inside(delegates, plain)
        return Partitions(("XNNPACK",), len(delegates), taken, len(plain))

    @property
    def metadata(self) -> str | None:
        # The interpreter does not give it out.
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(self.path.read_bytes())
        for entry in map(model.Metadata, range(model.MetadataLength())):
            if entry.Name() == METADATA_KEY.encode():
                data = model.Buffers(entry.Buffer())
                return bytes(data.DataAsNumpy()).decode(errors="replace") if data else None
        return None

    def close(self) -> None:
        self._interpreter = None


def _nodes_inside(delegates: Sequence[Any], nodes: Sequence[Any]) -> int:
    """Count the nodes that delegates run: those between a delegate's outputs and its inputs."""
    maker = {int(tensor): node for node in nodes for tensor in node["outputs"]}
    inside: set[int] = set()
    for delegate in delegates:
        given = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            node = maker.get(tensor)
            if tensor in given or node is None or node["index"] in inside:
                continue
            inside.add(node["index"])
            wanted.extend(int(source) for source in node["inputs"])
    return len(inside)


def _litert_tensor(details: Mapping[str, Any]) -> TensorContract:
    dtype = np.dtype(details["dtype"]).name
    scale, zero_point = details["quantization"]
    integer = dtype in INTEGER_TYPES
    return TensorContract(
        name=details["name"],
        layout="NHWC",
        shape=tuple(int(size) for size in details["shape"]),
        dtype=dtype,
        scale=float(scale) if integer else None,
        zero_point=int(zero_point) if integer else None,
    )


class _OnnxRuntime(Session):
    """ONNX Runtime's CPU provider, nodes in sequence, input and output bound to fixed memory."""

    runtime = Runtime.ONNX

    def __init__(self, path: Path, threads: int, *, optimize: bool) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise not_loading(self.runtime, error) from error
        self.path, self.threads = path, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        add_integers_whole(options)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public base class
            raise _unloadable(path, "ONNX Runtime", error, "") from error
        told = _embedded_tensors(self._session)
        tensors = [_onnx_tensor(t, told) for t in self._session.get_inputs()]
        self.input = _picture_contract(path, "input", "NCHW", tensors)
        tensors = [_onnx_tensor(t, told) for t in self._session.get_outputs()]
        self.output = _picture_contract(path, "output", "NCHW", tensors)
        self._result = np.zeros(self.output.shape, self.output.dtype)
        self._binding = self._session.io_binding()
        self._place(np.zeros(self.input.shape, self.input.dtype))
        contract = self.output
        self._binding.bind_output(
            contract.name, "cpu", 0, self._result.dtype, contract.shape, self._result.ctypes.data
        )

    def _place(self, stored: np.ndarray[Any, Any]) -> None:
        self._stored = stored  # the binding holds an address only
        self._binding.bind_input(
            self.input.name, "cpu", 0, stored.dtype, stored.shape, stored.ctypes.data
        )

    def prepare(self, picture: Array) -> None:
        self._check(picture)
        self._place(to_stored(picture, self.input))

    def invoke(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def fetch(self) -> Array:
        return to_real(self._result, self.output)

    @property
    def partitions(self) -> Partitions:
        providers = tuple(self._session.get_providers())
        nodes = _onnx_nodes(self.path)
        return Partitions(providers, 1, nodes, nodes)

    @property
    def metadata(self) -> str | None:
        return _metadata(self._session)

    def close(self) -> None:
        self._binding = self._session = None


def _onnx_nodes(path: Path) -> int:
    """Return how many nodes an ONNX file holds; 0 if the `onnx` package is not installed."""
    try:
        import onnx
    except ImportError:
        return 0
    return len(onnx.load(str(path), load_external_data=False).graph.node)


def _metadata(session: Any) -> str | None:  # noqa: ANN401 - a class with no public type
    text: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return text


def _embedded_tensors(session: Any) -> Mapping[str, Any]:  # noqa: ANN401 - a class with no public type
    """Return what our own metadata says of a file's tensors, by name; empty for other files."""
    try:
        told = json.loads(_metadata(session) or "{}")
        return {told[role]["name"]: told[role] for role in ("input", "output") if role in told}
    except (ValueError, TypeError, KeyError):
        return {}


def _onnx_tensor(tensor: Any, told: Mapping[str, Any]) -> TensorContract:  # noqa: ANN401 - a class with no public type
    kinds = {"tensor(float)": "float32", "tensor(float16)": "float16"}
    kinds |= {"tensor(int8)": "int8", "tensor(uint8)": "uint8"}
    dtype = kinds.get(tensor.type, tensor.type)
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    if dtype not in INTEGER_TYPES:
        return TensorContract(tensor.name, "NCHW", shape, dtype)
    # The file's own types have no scale; without ours the stored numbers are taken as they are.
    known = told.get(tensor.name, {})
    return TensorContract(
        tensor.name,
        "NCHW",
        shape,
        dtype,
        scale=known.get("scale"),
        zero_point=known.get("zero_point"),
    )


def _picture_contract(
    path: Path, role: str, layout: str, tensors: Sequence[TensorContract]
) -> TensorContract:
    """Return the only tensor of `tensors`, if it is one picture of fixed size."""
    if len(tensors) != 1:
        raise ConversionFailed(f"{path} has {len(tensors)} {role}s; a generator has one")
    contract = tensors[0]
    shape = contract.shape
    channels = shape[1 if layout == "NCHW" else -1] if shape else 0
    fits = len(shape) == len(layout) and min(shape) >= 1 and shape[0] == 1
    if not fits or channels > MOST_CHANNELS:
        raise ConversionFailed(f"{path}: {role} of shape {shape} is not one picture ({layout})")
    if contract.dtype not in {"float32", "float16", *INTEGER_TYPES}:
        raise ConversionFailed(f"{path}: {role} of type {contract.dtype} cannot hold a picture")
    return contract


def _unloadable(path: Path, runtime: str, error: Exception, messages: str) -> CoronetError:
    """Return the error of a file its runtime refuses, with the first reason it printed."""
    told = [line for line in messages.splitlines() if line.startswith("ERROR:")]
    reason = " ".join(str(error).split()) or " ".join(told[:1])
    short = shortage(error) or (not reason and "it says no more")  # as LiteRT does of memory alone
    if short:
        what = f"not enough memory for {runtime} to load {path}: {short}"
        return EnvironmentProblem(what, hint=FREE_SOME)
    if _NO_THREAD in reason:
        what = f"{runtime} can start no thread to load {path} with"
        return EnvironmentProblem(what, hint=f"{FREE_SOME}; ulimit -u bounds threads as well")
    return ConversionFailed(
        f"{runtime} does not load {path}: {reason[:300]}",
        hint="is it whole, of this format, and is memory enough for it?"
        if "XNNPACK" in reason.upper()
        else "is it whole, and of this format?",
    )
