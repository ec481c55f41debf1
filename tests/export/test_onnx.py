"""ONNX files: the picture they draw, and what lies in them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export import operators as ops
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import INPUT, Builder
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.onnx import OPSET, emit_onnx
from coronet_deploy.export.passes import Preference, lower
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Architecture, DType, Norm, Runtime
from lowering import run_onnx, run_torch, shrunk, smooth_picture, trained


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.mark.parametrize(("dtype", "bound_db"), [(DType.FP32, 100), (DType.FP16, 60)])
@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("architecture", [Architecture.RESNET_9, Architecture.UNET_256])
def test_a_generator_draws_the_same_picture(
    architecture: Architecture, norm: Norm, dtype: DType, bound_db: float
) -> None:
    torch.manual_seed(0)
    network = trained(build_generator(full_plan(architecture, norm, width=8)))
    picture = smooth_picture(256, 256)
    lowered, _ = lower(capture(network, 256, 256), Runtime.ONNX)
    drawn = run_onnx(emit_onnx(lowered, dtype, {}), picture)
    assert drawn.dtype == np.float32
    assert psnr_db(run_torch(network, picture), drawn) >= bound_db


@given(
    widths=st.lists(st.integers(1, 30), min_size=4, max_size=8),
    norm=st.sampled_from(Norm),
    height=st.integers(2, 8).map(lambda n: 4 * n),
    width=st.integers(2, 8).map(lambda n: 4 * n),
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_resnets_of_any_plan_and_size(
    widths: list[int], norm: Norm, height: int, width: int
) -> None:
    network = trained(build_generator(shrunk(full_plan(Architecture.RESNET_6, norm), widths)))
    picture = smooth_picture(height, width)
    lowered, _ = lower(capture(network, height, width), Runtime.ONNX)
    drawn = run_onnx(emit_onnx(lowered, DType.FP32, {}), picture)
    assert np.abs(drawn - run_torch(network, picture)).max() < 1e-3


@given(
    kernel=st.integers(1, 5),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 1),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
)
@settings(max_examples=25, deadline=None)
def test_transposed_convolutions(
    kernel: int, padding: int, output_padding: int, size: tuple[int, int]
) -> None:
    layer = nn.ConvTranspose2d(3, 4, kernel, 2, padding, output_padding)
    picture = smooth_picture(*size)
    drawn = run_onnx(emit_onnx(capture(layer, *size), DType.FP32, {}), picture)
    assert np.abs(drawn - run_torch(layer, picture)).max() < 1e-5


@pytest.mark.parametrize(
    ("prefer", "wide", "interleaved", "transposed"),
    [("speed", True, 2, 0), ("size", True, 1, 0), ("speed", False, 0, 1)],
)
def test_wide_layers_are_computed_otherwise(
    prefer: Preference, wide: bool, interleaved: int, transposed: int
) -> None:
    inner, deep = (160, 40) if wide else (60, 20)
    network = nn.Sequential(
        nn.Conv2d(3, inner, 1),
        nn.Conv2d(inner, inner, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(inner, deep, 1),
        nn.ConvTranspose2d(deep, deep, 4, 2, 1),
        nn.Conv2d(deep, 3, 1),
    )
    picture = smooth_picture(22, 26)
    graph, _ = lower(capture(network, 22, 26), Runtime.ONNX, prefer=prefer)
    data = emit_onnx(graph, DType.FP32, {})
    kinds = Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
    assert (kinds["Transpose"], kinds["ConvTranspose"]) == (2 * interleaved, transposed)
    assert psnr_db(run_torch(network, picture), run_onnx(data, picture)) >= 100


@given(
    block=st.integers(2, 4),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_channels_become_pixels(block: int, size: tuple[int, int], channels: int) -> None:
    builder = Builder((1, *size, block * block * channels))
    graph = builder.finish(builder.emit(ops.DepthToSpace(block), INPUT))
    picture = np.random.default_rng(0).integers(-99, 99, graph.input_shape).astype(np.float32)
    expected = interpret(graph, picture)
    for dtype in (DType.FP32, DType.FP16):
        assert np.array_equal(run_onnx(emit_onnx(graph, dtype, {}), picture), expected)
    whole = emit_onnx(graph, DType.FP32, {}, integer=True)
    assert [node.op_type for node in onnx.load_from_string(whole).graph.node] == ["DepthToSpace"]
    assert np.array_equal(run_onnx(whole, picture), expected)


def test_operators_that_no_generator_has() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.ZeroPad2d((1, 0, 2, 3)),
                nn.Conv2d(3, 6, 3, 2, 1, groups=3),
                nn.Conv2d(6, 6, (3, 2), padding="same"),
                nn.InstanceNorm2d(6, affine=True),
                nn.BatchNorm2d(6),
                nn.Sigmoid(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x)
            return torch.cat([y - 0.5, y * y], 3)[:, 1:5, 2:, :-1]

    network = trained(Network())
    picture = smooth_picture(18, 13)
    graph = capture(network, 18, 13)
    for g in (graph, lower(graph, Runtime.ONNX)[0]):
        drawn = run_onnx(emit_onnx(g, DType.FP32, {}), picture)
        assert np.abs(drawn - run_torch(network, picture)).max() < 1e-5


def test_the_file_is_plain_and_says_what_it_is() -> None:
    network = build_generator(full_plan(Architecture.RESNET_6, width=2))
    graph, _ = lower(capture(network, 16, 24), Runtime.ONNX)
    data = emit_onnx(graph, DType.FP32, {"coronet_deploy": "{}", "a": "ü"})
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET
    assert {p.key: p.value for p in model.metadata_props} == {"coronet_deploy": "{}", "a": "ü"}
    for end, name in ((model.graph.input[0], "input"), (model.graph.output[0], "output")):
        assert end.name == name
        assert [d.dim_value for d in end.type.tensor_type.shape.dim] == [1, 3, 16, 24]
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {
        "Add",
        "Conv",
        "ConvTranspose",
        "InstanceNormalization",
        "Pad",
        "Relu",
        "Reshape",
        "Tanh",
        "Transpose",
    }


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16])
def test_the_same_network_gives_the_same_bytes(dtype: DType) -> None:
    network = build_generator(full_plan(Architecture.UNET_128, width=2))

    def file() -> bytes:
        lowered, _ = lower(capture(network, 128, 128), Runtime.ONNX)
        return emit_onnx(lowered, dtype, {"b": "2", "a": "1"})

    assert file() == file()


def test_float16_computes_in_float16_between_float32_ends() -> None:
    graph = capture(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), 16, 16)
    half = onnx.load_from_string(emit_onnx(graph, DType.FP16, {}))
    assert [node.op_type for node in half.graph.node] == ["Cast", "Conv", "Conv", "Cast"]
    kinds = {tensor.data_type for tensor in half.graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}
    ends = {end.type.tensor_type.elem_type for end in (*half.graph.input, *half.graph.output)}
    assert ends == {onnx.TensorProto.FLOAT}


def test_means_and_reshapes_keep_the_order_that_numbers_have_in_pixels() -> None:
    picture = smooth_picture(128, 128)
    network = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.ReLU())
    lowered, _ = lower(capture(network, 128, 128), Runtime.TFLITE)
    assert {"mean", "reshape", "rsqrt"} < set(lowered.count())
    drawn = run_onnx(emit_onnx(lowered, DType.FP32, {}), picture)
    assert np.abs(drawn - run_torch(network, picture)).max() < 1e-5


class _Alien(ops.Operator):
    kind = "alien"

    def infer(self, *shapes: ops.Shape) -> ops.Shape:
        return shapes[0]


def test_what_cannot_be_written_is_refused() -> None:
    builder = Builder((1, 8, 8, 3))
    alien = builder.finish(builder.emit(_Alien(), INPUT))
    with pytest.raises(ConversionFailed, match="alien"):
        emit_onnx(alien, DType.FP32, {})
    with pytest.raises(ConversionFailed, match="int8"):
        emit_onnx(capture(nn.InstanceNorm2d(3), 8, 8), DType.INT8, {})
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.weight[0, 0] = 1e5
    with pytest.raises(ConversionFailed, match="float16"):
        emit_onnx(capture(layer, 8, 8), DType.FP16, {})
