"""TFLite files: the picture they draw, how XNNPACK takes them, and what lies in them."""

from __future__ import annotations

import functools
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.passes import Preference, lower
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.export.tflite_file import (
    forget_inner_names,
    halve_float_weights,
    pack,
    read_model,
)
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Architecture, DType, Norm, Runtime
from lowering import is_one_partition, run_tflite, run_torch, shrunk, smooth_picture, trained

_CASES = [
    (Architecture.RESNET_9, Norm.INSTANCE, 12),
    (Architecture.RESNET_6, Norm.BATCH, 8),
    (Architecture.UNET_256, Norm.BATCH, 8),
    (Architecture.UNET_256, Norm.INSTANCE, 8),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@functools.cache
def _case(architecture: Architecture, norm: Norm, width: int) -> tuple[Graph, Array, Array]:
    """Return a captured generator, a picture, and what torch draws of it."""
    torch.manual_seed(0)
    network = trained(build_generator(full_plan(architecture, norm, width=width)))
    picture = smooth_picture(256, 256)
    return capture(network, 256, 256), picture, run_torch(network, picture)


@pytest.mark.parametrize(("dtype", "bound_db"), [(DType.FP32, 100), (DType.FP16, 60)])
@pytest.mark.parametrize("prefer", ["speed", "size"])
@pytest.mark.parametrize(("architecture", "norm", "width"), _CASES)
def test_a_generator_draws_the_same_picture_in_one_partition(
    architecture: Architecture,
    norm: Norm,
    width: int,
    prefer: Preference,
    dtype: DType,
    bound_db: float,
) -> None:
    graph, picture, expected = _case(architecture, norm, width)
    lowered, _ = lower(graph, Runtime.TFLITE, prefer=prefer)
    data = emit_tflite(lowered, dtype, {})
    assert psnr_db(expected, run_tflite(data, picture)) >= bound_db
    assert is_one_partition(data)


@given(
    widths=st.lists(st.integers(1, 70), min_size=4, max_size=8),
    norm=st.sampled_from(Norm),
    height=st.integers(2, 8).map(lambda n: 4 * n),
    width=st.integers(2, 8).map(lambda n: 4 * n),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_resnets_of_any_plan_and_size(
    widths: list[int], norm: Norm, height: int, width: int, channels: tuple[int, int]
) -> None:
    plan = shrunk(full_plan(Architecture.RESNET_6, norm), widths)
    plan = type(plan)(plan.architecture, plan.norm, plan.groups, *channels)
    network = trained(build_generator(plan))
    picture = smooth_picture(height, width, channels[0])
    lowered, _ = lower(capture(network, height, width, channels[0]), Runtime.TFLITE)
    data = emit_tflite(lowered, DType.FP32, {})
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-3


@given(widths=st.lists(st.integers(1, 20), min_size=4, max_size=8), norm=st.sampled_from(Norm))
@settings(max_examples=4, deadline=None, derandomize=True)
def test_unets_of_any_plan(widths: list[int], norm: Norm) -> None:
    network = trained(build_generator(shrunk(full_plan(Architecture.UNET_128, norm), widths)))
    picture = smooth_picture(128, 256)
    lowered, _ = lower(capture(network, 128, 256), Runtime.TFLITE)
    data = emit_tflite(lowered, DType.FP32, {})
    # A norm over the few pixels of the innermost levels magnifies the rounding of near-equal ones.
    assert psnr_db(run_torch(network, picture), run_tflite(data, picture)) > 80


@given(
    kernel=st.integers(1, 5),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 1),
    outputs=st.sampled_from([1, 6]),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
)
@settings(max_examples=25, deadline=None)
def test_transposed_convolutions(
    kernel: int, padding: int, output_padding: int, outputs: int, size: tuple[int, int]
) -> None:
    layer = nn.ConvTranspose2d(3, outputs, kernel, 2, padding, output_padding)
    picture = smooth_picture(*size)
    lowered, _ = lower(capture(layer, *size), Runtime.TFLITE)
    drawn = run_tflite(emit_tflite(lowered, DType.FP32, {}), picture)
    assert np.abs(drawn - run_torch(layer, picture)).max() < 1e-5


def test_operators_that_no_generator_has() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, groups=3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, (3, 2), padding="same"),
        nn.InstanceNorm2d(6, affine=True),
        nn.ConvTranspose2d(6, 4, 3, 3),
        nn.LeakyReLU(0.1),
        nn.Sigmoid(),
    )
    picture = smooth_picture(18, 13)
    lowered, _ = lower(capture(trained(network), 18, 13), Runtime.TFLITE)
    data = emit_tflite(lowered, DType.FP32, {})
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-5
    assert is_one_partition(data)


def test_the_captured_graph_is_written_as_it_is_where_tflite_can() -> None:
    network = nn.Sequential(nn.ReflectionPad2d(2), nn.ConvTranspose2d(3, 4, 3, 2), nn.Tanh())
    picture = smooth_picture(7, 9)
    data = emit_tflite(capture(network, 7, 9), DType.FP32, {})
    assert np.abs(run_tflite(data, picture) - run_torch(network, picture)).max() < 1e-5


def _file(dtype: DType, metadata: dict[str, str] | None = None) -> bytes:
    graph, _, _ = _case(*_CASES[0])
    return emit_tflite(lower(graph, Runtime.TFLITE)[0], dtype, metadata or {})


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_the_same_network_gives_the_same_bytes(dtype: DType) -> None:
    network = build_generator(shrunk(full_plan(Architecture.RESNET_6), [3, 25]))

    def file() -> bytes:
        lowered, _ = lower(capture(network, 32, 32), Runtime.TFLITE)
        return emit_tflite(lowered, dtype, {"b": "2", "a": "1"})

    assert file() == file()


def test_names_signature_and_metadata_are_found_by_any_reader() -> None:
    data = _file(DType.FP32, {"coronet_deploy": '{"plan": "übung"}', "licence": "none"})
    assert flatbuffers.util.GetBufferIdentifier(data, 0) == b"TFL3"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    ends = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    assert [tensor.name for tensor in ends] == [b"input", b"output"]
    assert [list(tensor.shape) for tensor in ends] == [[1, 256, 256, 3]] * 2
    assert signature.signatureKey == b"serving_default"
    assert (signature.inputs[0].name, signature.outputs[0].name) == (b"input", b"output")
    stored = {entry.name: bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert stored == {
        b"coronet_deploy": '{"plan": "übung"}'.encode(),
        b"licence": b"none",
    }


def test_every_constant_is_aligned_to_sixteen_bytes() -> None:
    data = _file(DType.FP16)
    model = schema.Model.GetRootAs(data)
    starts = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            table = buffer._tab
            starts.append(table.Vector(table.Offset(4)))
    assert len(starts) > 100
    assert {start % 16 for start in starts} == {0}


def _tree(value: Any) -> Any:
    """Return the schema's objects as plain values, to compare."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_tree(item) for item in value]
    fields = getattr(value, "__dict__", None)
    if fields is None:
        return value
    return type(value).__name__, {name: _tree(item) for name, item in fields.items()}


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_what_is_equal_stands_in_the_file_once(dtype: DType) -> None:
    data = _file(dtype)
    model = schema.ModelT.InitFromPackedBuf(data)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    plain = bytes(builder.Output())
    assert len(data) < len(plain) - 10_000
    assert _tree(schema.ModelT.InitFromPackedBuf(plain)) == _tree(model)
    assert pack(read_model(plain)) == data


def test_a_large_file_is_written_without_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [layer for _ in range(300) for layer in (nn.Conv2d(3, 3, 1), nn.LeakyReLU())]
    graph = capture(nn.Sequential(*layers), 4, 4)

    def grow(_: object) -> None:
        raise AssertionError("the builder grew")

    monkeypatch.setattr(flatbuffers.Builder, "GrowByteBuffer", grow)
    assert len(emit_tflite(lower(graph, Runtime.TFLITE)[0], DType.FP32, {})) > 60_000


def test_names_go_from_pieces_alone_however_often() -> None:
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT() for _ in range(5)]
    names = [b"input", b"input/conv2d", b"pad/reflect_pad", b"pad/reflect_pad/slice", b"output"]
    for tensor, name in zip(graph.tensors, names, strict=True):
        tensor.name = name
    operator = schema.OperatorT()
    operator.outputs = [1, 2, 3, 4]
    graph.operators = [operator]
    for _ in range(2):
        forget_inner_names(graph)
        left = [tensor.name for tensor in graph.tensors]
        assert left == [b"input", b"input/conv2d", b"pad/reflect_pad", b"", b"output"]


def test_float16_halves_the_file() -> None:
    full, half = (len(_file(dtype)) for dtype in (DType.FP32, DType.FP16))
    assert 0.45 < half / full < 0.6


def test_what_tflite_lacks_asks_for_lowering() -> None:
    with pytest.raises(ConversionFailed, match="lower the graph first"):
        emit_tflite(capture(nn.InstanceNorm2d(3), 8, 8), DType.FP32, {})
    with pytest.raises(ConversionFailed, match="lower the graph first"):
        emit_tflite(capture(nn.ConvTranspose2d(3, 3, 3, 2, 1), 8, 8), DType.FP32, {})
    with pytest.raises(ConversionFailed, match="int8"):
        emit_tflite(capture(nn.ReLU(), 8, 8), DType.INT8, {})


def test_a_weight_beyond_float16_is_refused() -> None:
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight[0, 0] = 1e5
    with pytest.raises(ConversionFailed, match="float16"):
        emit_tflite(capture(layer, 8, 8), DType.FP16, {})


def test_float_weights_beside_integer_ones_take_half_and_draw_the_same() -> None:
    graph, picture, _ = _case(*_CASES[0])
    data = emit_tflite(lower(graph, Runtime.TFLITE, prefer="size")[0], DType.FP32, {})
    model = read_model(data)
    # One that no float16 holds, one of numbers too small for it, and two that share a buffer.
    weights = [t for t in model.subgraphs[0].tensors if t.name.endswith(b"weight")]
    huge, (one, other) = weights[0], [t for t in weights if t.name.startswith(b"blocks.1.conv")]
    far = np.frombuffer(model.buffers[huge.buffer].data, np.float32).copy()
    far[0] = 1e5
    model.buffers[huge.buffer].data = far.view(np.uint8).data
    small = next(t for t in weights if t.name.startswith(b"blocks.2.conv1"))
    faint = np.frombuffer(model.buffers[small.buffer].data, np.float32) * np.float32(1e-7)
    model.buffers[small.buffer].data = faint.view(np.uint8).data
    other.buffer = one.buffer
    before = pack(model)
    halve_float_weights(model)
    kinds = schema.TensorType
    kept = huge, small, one, other
    assert [t.type for t in kept] == [kinds.FLOAT32] * 4
    assert all(model.buffers[t.buffer].data is not None for t in kept)
    halved = [t for t in model.subgraphs[0].tensors if t.type == kinds.FLOAT16]
    saved = sum(2 * int(np.prod(t.shape)) for t in halved)
    after = pack(model)
    assert 0.9 * saved < len(before) - len(after) <= saved
    assert is_one_partition(after)
    assert psnr_db(run_tflite(before, picture), run_tflite(after, picture)) > 60
