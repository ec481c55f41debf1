"""Which layer goes wrong: an artifact's values inside beside torch's, layer by layer.

The file is opened up so that its runtime hands out what its layers make; it still computes them
with the kernels, and in the partitions, that an inference has. A value of the file belongs to the
torch layer of the same name. What rewrites fold into it (a BatchNorm, a ReLU) is found by running
the same rewrites in float32 here; values that stand for no layer any more are left out.

A value that only an InstanceNorm reads may be scaled and shifted channel by channel without any
effect, and rewrites do so: it is compared up to that. Inside a file whose channels were brought to
like size for integers or float16 ("equalize"), every value is compared up to a scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import OUTPUT, Graph, Node
from coronet_deploy.export.interpret import interpret_values
from coronet_deploy.export.manifest import Contract, Manifest
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.operators import InstanceNorm
from coronet_deploy.export.passes import Preference, passes_for, run_passes
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.dead_bias import DropDeadBiases
from coronet_deploy.export.passes.half_weights import RoundWeights
from coronet_deploy.export.schemes import INTEGER_BITS
from coronet_deploy.images import Array
from coronet_deploy.memory import shortage
from coronet_deploy.verify.described import require_layers
from coronet_deploy.verify.gate import drawn
from coronet_deploy.verify.onnx_integers import add_integers_whole
from coronet_deploy.verify.parity import CAP_DB
from coronet_deploy.verify.stored import to_real, to_stored
from coronet_deploy.vocabulary import DType, Runtime, TensorContract

if TYPE_CHECKING:
    from torch import nn

    from coronet_deploy.export.subject import Subject

LEAST_SNR_DB: Mapping[DType, float] = {
    **dict.fromkeys(DType, 10.0),
    DType.FP32: 60.0,
    DType.FP16: 30.0,
}
"""Below this a layer is wrong and not merely rounded; a deep one carries all rounding before it."""

_EQUALIZE = "equalize"
_SAME_DB = 60.0  # two float32 computations of one value agree by this
_FOLDED = 3  # how many operators a rewrite may have folded into the one before


@dataclass(frozen=True)
class LayerFigures:
    """One torch layer beside the artifact: signal to error in dB, and the largest difference.

    `value` is the name inside the file. An `affine` layer is compared up to a scale of each
    channel, and a shift where a norm takes that out.
    """

    layer: str
    value: str
    snr_db: float
    max_abs: float
    affine: bool


def first_wrong(layers: Sequence[LayerFigures], least_db: float) -> LayerFigures | None:
    """Return the first layer whose signal to error is below `least_db`."""
    return next((layer for layer in layers if not layer.snr_db >= least_db), None)


def compare_layers(
    path: Path, manifest: Manifest, subject: Subject, picture: Array
) -> tuple[LayerFigures, ...]:
    """Return the layers of an artifact beside torch's on `picture` (1, H, W, C), in their order.

    Raises:
        ConversionFailed: the generator cannot be captured, or the opened file does not load; or
            it was written by another converter, whose values have no layers' names.

    """
    require_layers(path, manifest)
    graph = capture(subject.generator, *manifest.size, subject.channels)
    references = _references(subject.generator, graph, picture)
    names = _stands_for(graph, manifest, picture)
    given = _inside(path, manifest, list(names), picture)
    norms = {n.inputs[0] for n in graph.nodes if isinstance(n.op, InstanceNorm)}
    found = []
    for value, (reference, relu) in names.items():
        if value not in given:
            continue
        expected = references[reference]
        affine = reference in norms and graph.readers[reference] == 1
        scaled = _EQUALIZE in manifest.passes and value != OUTPUT
        expected = np.maximum(expected, 0) if relu else expected
        made = given[value].reshape(expected.shape)
        snr_db, max_abs = _difference(expected, made, affine=affine, scaled=scaled)
        layer = reference.rpartition("/")[0] or reference
        found.append(LayerFigures(layer, value, snr_db, max_abs, affine or scaled))
    return tuple(found)


def _references(generator: nn.Module, graph: Graph, picture: Array) -> dict[str, Array]:
    """Return the captured values by name: torch's own where a layer of its makes one."""
    values = interpret_values(graph, picture, [n.output for n in graph.nodes])
    made: list[tuple[str, Array]] = []
    single = {name for name, layer in generator.named_modules() if not any(layer.children())}
    hooks = []

    def keep(name: str) -> Any:  # noqa: ANN401 - torch's type of a hook
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == picture.ndim:
                # A copy: an activation in place would change it afterwards.
                made.append((name, output.detach().clone().numpy().transpose(0, 2, 3, 1)))

        return hook

    for name, layer in generator.named_modules():
        if name:
            hooks.append(layer.register_forward_hook(keep(name)))
    try:
        values[OUTPUT] = drawn(generator, picture)
    finally:
        for hook in hooks:
            hook.remove()
    for layer_name, output in made:
        if value := _value_of(layer_name, output, graph, values, single=layer_name in single):
            values[value] = output
    return values


def _value_of(
    layer: str, output: Array, graph: Graph, values: Mapping[str, Array], *, single: bool
) -> str | None:
    """Return which captured value it is that a layer gave: not always the last one made in it.

    Where none is like it, one operator by itself (`single`) has only one value to be; of more it is
    left open. A block that ends with the network gave what is called the output, in no layer.
    """
    scopes = {n.output: n.output.rpartition("/")[0] for n in reversed(graph.nodes)}
    inside = [
        name
        for name, scope in scopes.items()
        if f"{scope}.".startswith(f"{layer}.") and graph.shapes[name] == output.shape
    ]
    for name in inside:
        if _difference(output, values[name], affine=False)[0] >= _SAME_DB:
            return name
    return inside[0] if single and len(inside) == 1 else None


def _stands_for(graph: Graph, manifest: Manifest, picture: Array) -> dict[str, tuple[str, bool]]:
    """Return which captured value each value of the artifact is, and if a ReLU was put on it."""
    prefer: Preference = "speed" if "winograd" in manifest.passes else "size"
    # Rounding is what is told, not what is expected.
    names = set(manifest.passes) - {RoundWeights.name}
    if _EQUALIZE in names:  # which folds first
        names |= {FoldBatchNorm.name, DropDeadBiases.name}
    integer = manifest.dtype not in {DType.FP32, DType.FP16}
    half = manifest.dtype is DType.FP16
    passes = passes_for(
        manifest.runtime,
        prefer,
        integer=integer,
        throughout=manifest.dtype in INTEGER_BITS,
        half=half,
    )
    ran = [step for step in passes if step.name in names]
    lowered, _ = run_passes(graph, tuple(ran))
    captured = {node.output: node for node in graph.nodes}
    shared = [
        node.output
        for node in lowered.nodes
        if node.output in captured
        and math.prod(lowered.shapes[node.output]) == math.prod(graph.shapes[node.output])
    ]
    before = interpret_values(graph, picture, list(captured))
    # Neighbouring pixels may lie side by side as channels there: the same numbers in that order.
    after = {
        name: value.reshape(graph.shapes[name])
        for name, value in interpret_values(lowered, picture, shared).items()
    }
    reader = _only_readers(graph)
    norms = {n.inputs[0] for n in graph.nodes if isinstance(n.op, InstanceNorm)}
    found: dict[str, tuple[str, bool]] = {}
    for name in shared:
        for candidate in _chain(name, captured, reader):
            affine = candidate in norms and graph.readers[candidate] == 1
            if before[candidate].shape != after[name].shape or name in found:
                continue
            alike = {
                relu: _difference(expected, after[name], affine=affine)[0]
                for relu, expected in (
                    (False, before[candidate]),
                    (True, np.maximum(before[candidate], 0)),
                )
            }
            relu = alike[True] > alike[False]  # where little is below zero, both are
            if alike[relu] >= _SAME_DB:
                found[name] = candidate, relu
    return found


def _only_readers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.inputs if graph.readers[name] == 1}


def _chain(name: str, captured: Mapping[str, Node], reader: Mapping[str, Node]) -> Iterator[str]:
    """Yield a value and those that what alone reads it makes, as far as folding may reach."""
    for _ in range(_FOLDED):
        yield name
        if name not in reader:
            return
        name = reader[name].output
        if name not in captured:
            return


def _difference(
    expected: Array, given: Array, *, affine: bool, scaled: bool = False
) -> tuple[float, float]:
    """Return signal to error in dB, and the largest difference.

    Each channel is shifted to mean 0 first if `affine`, and scaled to fit if that or `scaled`.
    """
    x, y = expected.astype(np.float64), given.astype(np.float64)
    if not np.isfinite(y).all():
        return -CAP_DB, float("inf")
    axes = (0, 1, 2)
    if affine:
        x, y = x - x.mean(axes), y - y.mean(axes)
    if affine or scaled:
        power = np.square(y).mean(axes)
        y = y * ((x * y).mean(axes) / np.where(power > 0, power, 1))
    error = x - y
    signal, noise = float(np.mean(np.square(x))), float(np.mean(np.square(error)))
    if noise == 0:
        return CAP_DB, 0.0
    snr_db = 10 * np.log10(max(signal, 1e-30) / noise)
    return float(np.clip(snr_db, -CAP_DB, CAP_DB)), float(np.abs(error).max())


def _inside(path: Path, manifest: Manifest, names: list[str], picture: Array) -> dict[str, Array]:
    """Return what the artifact's runtime makes of `names`, as NHWC real values."""
    if manifest.runtime is Runtime.TFLITE:
        return _inside_tflite(path, manifest, names, picture)
    return _inside_onnx(path, manifest, names, picture)


def _contract(contract: Contract) -> TensorContract:
    return TensorContract(
        contract.name,
        contract.layout,
        contract.shape,
        contract.dtype,
        contract.value_range,
        contract.scale,
        contract.zero_point,
    )


def _inside_tflite(
    path: Path, manifest: Manifest, names: list[str], picture: Array
) -> dict[str, Array]:
    try:
        from ai_edge_litert.interpreter import Interpreter

        from coronet_deploy.export.tflite_file import pack, read_model
    except ImportError as error:
        raise missing_package(error.name or "ai-edge-litert", "export") from error
    model = read_model(path.read_bytes())
    graph = model.subgraphs[0]
    places = {t.name.decode(): place for place, t in enumerate(graph.tensors)}
    there = [name for name in names if name in places]
    graph.outputs = list(dict.fromkeys([*graph.outputs, *(places[name] for name in there)]))
    model.signatureDefs = []  # it tells the outputs that were
    with captured_stderr():
        try:
            interpreter = Interpreter(model_content=pack(model), num_threads=1)
            interpreter.allocate_tensors()
            (taken,) = interpreter.get_input_details()
            interpreter.set_tensor(taken["index"], to_stored(picture, _contract(manifest.input)))
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            if shortage(error):
                raise
            raise ConversionFailed(f"{path}, opened up, does not run: {error}") from error
    details = {d["name"]: d for d in interpreter.get_output_details()}
    return {
        name: _real(interpreter.get_tensor(details[name]["index"]), details[name]) for name in there
    }


def _real(stored: np.ndarray[Any, Any], details: Mapping[str, Any]) -> Array:
    values = stored.astype(np.float32)
    if np.dtype(details["dtype"]).kind == "f":
        return values
    scale, zero = details["quantization"]
    return (values - np.float32(zero)) * np.float32(scale)


def _inside_onnx(
    path: Path, manifest: Manifest, names: list[str], picture: Array
) -> dict[str, Array]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise missing_package(error.name or "onnxruntime", "export") from error
    model = onnx.load(str(path))
    made = {output for node in model.graph.node for output in node.output}
    there = [name for name in names if name in made]
    ends = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in there if n not in ends)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    add_integers_whole(options)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: to_stored(picture, _contract(manifest.input))}
        values = session.run(there, feed)
    except Exception as error:  # its exceptions share no public base class
        if shortage(error):
            raise
        raise ConversionFailed(f"{path}, opened up, does not run: {error}") from error
    # What is stored inside as integers has its float twin behind a DequantizeLinear.
    whole = _contract(manifest.output)
    plain = replace(whole, dtype="float32")
    return {
        name: to_real(value, plain if value.dtype.kind == "f" else whole)
        for name, value in zip(there, values, strict=True)
        if value.dtype.kind == "f" or name == OUTPUT
    }
