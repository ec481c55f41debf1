"""Integer files and plans: what stands in them, and in which numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.channels import equalize_channels
from coronet_deploy.export.integer.formats import PIXELS_8, Format
from coronet_deploy.export.integer.plan import plan_integer
from coronet_deploy.export.integer.tflite import write_tflite
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.operators import InstanceNorm, Relu, Requantize
from coronet_deploy.export.passes import run_passes
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.subpixel import SubpixelConvolution
from coronet_deploy.export.tflite_file import pack, read_model
from coronet_deploy.ranges import FULL_RESNET_MARGIN, FULL_UNET_MARGIN, Range
from coronet_deploy.verify.stored import to_stored
from coronet_deploy.vocabulary import DType, Runtime, TensorContract
from lowering import own_subject, run_onnx, smooth_picture

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 32, 48


@pytest.mark.parametrize("dtype", [DType.INT8_FULL, DType.INT16X8])
def test_no_float_is_left_in_an_integer_tflite_file(
    resnet: nn.Module, pictures: Pictures, dtype: DType
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    leaky = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()
    )
    for network in (resnet, leaky):
        built = build(
            capture(network.eval(), HEIGHT, WIDTH),
            Runtime.TFLITE,
            dtype,
            own_subject(network),
            pictures,
        )
        interpreter = Interpreter(model_content=built.data)
        floats = {t["name"] for t in interpreter.get_tensor_details() if t["dtype"] == np.float32}
        allowed = set() if dtype is DType.INT8_FULL else {"input", "output"}
        assert floats == allowed


def test_every_operator_of_an_integer_onnx_file_stands_between_pairs(
    resnet: nn.Module, pictures: Pictures
) -> None:
    import onnx

    built = build(
        capture(resnet, HEIGHT, WIDTH), Runtime.ONNX, DType.INT8_FULL, own_subject(resnet), pictures
    )
    graph = onnx.load_from_string(built.data).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear", "Relu"}:
            continue
        read = {makers.get(name, "constant") for name in node.input}
        # An integer initializer may say a shape; a float one may not stand there.
        assert read <= {"DequantizeLinear", "constant"}, node.name
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert all(name.endswith("/scale") for name in floats)
    assert not any(node.op_type == "ConvTranspose" for node in graph.node)


def test_a_relu_behind_a_norm_rounds_after_it_has_cut(
    resnet: nn.Module, pictures: Pictures
) -> None:
    graph = capture(resnet, HEIGHT, WIDTH)
    plan = plan_integer(graph, Runtime.ONNX, pictures, 8)
    makers = {node.output: node for node in plan.graph.nodes}
    wide = [
        node
        for node in plan.graph.nodes
        if isinstance(node.op, Relu) and isinstance(makers[node.inputs[0]].op, InstanceNorm)
    ]
    assert len(wide) > 5
    assert {plan.formats[node.output].bits for node in wide} == {16}
    for node in wide:
        readers = [n for n in plan.graph.nodes if node.output in n.inputs]
        (narrow,) = [n.output for n in readers if isinstance(n.op, Requantize)]
        # All eight bits are for what is above zero.
        assert plan.formats[narrow].zero_point == -128
    last = nn.Sequential(nn.Conv2d(3, 3, 3), nn.InstanceNorm2d(3), nn.ReLU())
    plan = plan_integer(capture(last, HEIGHT, WIDTH), Runtime.ONNX, pictures, 8)
    assert plan.formats["output/int16"].bits == 16


def test_a_resnet_has_more_room_for_values_that_were_not_seen(
    resnet: nn.Module, pictures: Pictures
) -> None:
    graph, subject = capture(resnet, HEIGHT, WIDTH), own_subject(resnet)
    narrow = write_tflite(plan_integer(graph, Runtime.TFLITE, pictures, 8), {})
    wide = write_tflite(plan_integer(graph, Runtime.TFLITE, pictures, 8, FULL_RESNET_MARGIN), {})
    built = build(graph, Runtime.TFLITE, DType.INT8_FULL, subject, pictures)
    scales = [_scales(data) for data in (narrow, wide, built.data)]
    assert scales[1] == scales[2]
    ratios = [scales[1][name] / scales[0][name] for name in scales[0] if name in scales[1]]
    # Only 8-bit values have it, and ranges settle a few per cent beside.
    assert 1.1 < max(ratios) < 1.1 * FULL_RESNET_MARGIN / FULL_UNET_MARGIN


def _scales(data: bytes) -> dict[bytes, float]:
    """Return the scale of each tensor made at run time of an integer TFLite file."""
    graph = read_model(data).subgraphs[0]
    made = {place for operator in graph.operators for place in operator.outputs}
    return {graph.tensors[i].name: float(graph.tensors[i].quantization.scale[0]) for i in made}


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT8_DYNAMIC, DType.INT8_WEIGHTS])
def test_every_tflite_file_holds_what_is_equal_once(
    resnet: nn.Module, pictures: Pictures, dtype: DType
) -> None:
    graph = capture(resnet, HEIGHT, WIDTH)
    data = build(graph, Runtime.TFLITE, dtype, own_subject(resnet), pictures).data
    assert pack(read_model(data)) == data


def test_pixels_go_in_as_they_are() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    real = (pixels.astype(np.float32) / np.float32(127.5) - 1).astype(np.float32)
    contract = TensorContract(
        "input", "NHWC", pixels.shape, "int8", scale=float(PIXELS_8.scale), zero_point=0
    )
    assert np.array_equal(to_stored(real, contract), pixels.astype(int) - 128)
    unsigned = replace(contract, dtype="uint8", zero_point=128)
    assert np.array_equal(to_stored(real, unsigned), pixels)


def test_channels_of_unlike_size_are_made_alike_exactly() -> None:
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 6, 3, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.Tanh(),
    ).eval()
    with torch.no_grad():
        for layer in (network[0], network[2]):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            factor = torch.exp(2 * torch.randn(layer.out_channels))
            layer.weight.mul_(factor[:, None, None, None])
            layer.bias.mul_(factor)
    picture = smooth_picture(HEIGHT, WIDTH)
    pictures = Pictures(("a",), (picture,))
    graph, _ = run_passes(capture(network, HEIGHT, WIDTH), (FoldBatchNorm(),))
    even = equalize_channels(graph, pictures)
    before, after = (interpret(g, picture, np.float64) for g in (graph, even))
    assert np.abs(before - after).max() < 1e-5
    # And the last convolution's value, which a tanh reads, is left as it was.
    assert np.array_equal(
        even.constants[even.nodes[-2].inputs[2]], graph.constants[graph.nodes[-2].inputs[2]]
    )


@pytest.mark.parametrize("kernel", [(2, 2, 0, 0), (3, 2, 1, 1), (4, 2, 1, 0), (5, 3, 1, 1)])
@pytest.mark.parametrize("channels", [2, 24])
def test_phases_interleaved_by_depth_to_space(
    kernel: tuple[int, int, int, int], channels: int
) -> None:
    size, stride, padding, more = kernel
    torch.manual_seed(6)
    network = nn.ConvTranspose2d(3, channels, size, stride, padding, more).eval()
    before = capture(network, 8, 12)
    after = SubpixelConvolution(winograd=False, depth_to_space=True).run(before)
    assert after.count()["depth_to_space"] == 1
    assert "conv_transpose2d" not in after.count()
    picture = smooth_picture(8, 12)
    drawn = [interpret(graph, picture, np.float64) for graph in (before, after)]
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-12
    file = emit_onnx(after, DType.FP32, {})
    assert np.abs(run_onnx(file, picture) - drawn[0]).max() < 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_that_is_not_finite_names_the_picture(bad: float, resnet: nn.Module) -> None:
    picture = smooth_picture(HEIGHT, WIDTH)
    picture[0, 3, 4, 1] = bad
    pictures = Pictures(("good.png", "bad.png"), (smooth_picture(HEIGHT, WIDTH), picture))
    graph = capture(resnet, HEIGHT, WIDTH)
    with pytest.raises(ConversionFailed, match=r"bad\.png.*not finite"):
        plan_integer(graph, Runtime.TFLITE, pictures, 8)
    with pytest.raises(ConversionFailed, match=r"bad\.png.*not finite"):
        build(graph, Runtime.ONNX, DType.INT8, own_subject(resnet), pictures)


def test_formats_hold_zero_and_never_vanish() -> None:
    assert Format.of(Range(0.0, 1e-30), 8).scale > 0
    assert Format.of(Range(-1e-30, 0.0), 16).scale > 0
    stored = Format.of(Range(-2.0, 6.0), 8)
    values = np.array([0, -2, 6, 100, -100], np.float32)
    steps = stored.store(values).astype(int)
    assert (steps[0] - stored.zero_point) * stored.scale == 0
    assert list(steps[3:]) == [127, -128]
    assert Format.of(Range(-2.0, 6.0), 16).zero_point == 0
