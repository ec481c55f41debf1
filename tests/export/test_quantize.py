"""INT8: ranges, equalisation, the choice of layers, and what the runtimes make of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.zoo import bundled_calibration
from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.equalize import equalize, equalized
from coronet_deploy.export.graph import INPUT, Graph
from coronet_deploy.export.int8_weights import with_int8_weights
from coronet_deploy.export.interpret import interpret, interpret_values
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.packing import packed_layers
from coronet_deploy.export.passes import lower
from coronet_deploy.export.pixels import BRIGHTER, PIXELS, moved_from, with_exact_pixels
from coronet_deploy.export.quantize import Int8Plan, plan_int8, write_int8
from coronet_deploy.export.quantize_onnx import insert_qdq
from coronet_deploy.export.ranges import (
    channel_deviations,
    channel_extremes,
    channel_reach,
    measure,
)
from coronet_deploy.export.sensitivity import Trial, int8_layers, search, simulate
from coronet_deploy.export.study import Study
from coronet_deploy.export.tflite import emit_tflite
from coronet_deploy.export.tflite_file import forget_inner_names, pack, read_model
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import Architecture, DType, Runtime
from lowering import run_onnx

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 32, 48


def _unlike_channels(network: nn.Module, spread: float) -> None:
    """Give the channels of convolutions weights of very different size, as training does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            factor = torch.exp(spread * torch.randn(layer.out_channels, 1, 1, 1))
            with torch.no_grad():
                layer.weight.mul_(factor)


@pytest.fixture(scope="module")
def resnet() -> Graph:
    torch.manual_seed(2)
    network = build_generator(full_plan(Architecture.RESNET_6, width=4)).eval()
    _unlike_channels(network.get_submodule("blocks"), 0.7)
    return capture(network, HEIGHT, WIDTH)


def test_equalising_keeps_the_picture_and_helps_int8(resnet: Graph, pictures: Pictures) -> None:
    even = equalize(resnet, pictures)
    picture = pictures.values[0]
    reference = interpret(resnet, picture)
    # The norm's epsilon is the only thing that a channel's scale does not cancel in.
    assert psnr_db(reference, interpret(even, picture)) > 60
    results = []
    for graph in (resnet, even):
        lowered, _ = lower(graph, Runtime.ONNX)
        layers = int8_layers(lowered)
        values = [name for layer in layers for name in (layer.source, layer.name)]
        ranges = measure(lowered, values, pictures)
        chosen = {layer.name for layer in layers if "blocks" in layer.name}
        results.append(psnr_db(reference, simulate(lowered, chosen, ranges, picture)))
    assert results[1] > results[0] + 1


def test_channels_before_a_norm_come_to_reach_equally_far(pictures: Pictures) -> None:
    torch.manual_seed(4)
    first = nn.Conv2d(3, 8, 3, 1, 1)
    with torch.no_grad():
        # A channel of long tails, as trained ones have, and one far from zero.
        first.weight[0] = 0
        first.weight[0, :, 1, 1] = torch.tensor([40.0, -80.0, 40.0])
        first.weight[1] = 1.0
    network = nn.Sequential(first, nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 3, 1, 1), nn.Tanh())
    graph = capture(network, HEIGHT, WIDTH)
    deviating, _ = equalized(graph, pictures, reach=False)
    even, _ = equalized(graph, pictures)
    errors = []
    for equal in (deviating, even):
        value = equal.nodes[0].output
        low, high = channel_extremes(equal, [value], pictures)[value]
        for picture in pictures.values:
            assert psnr_db(interpret(graph, picture), interpret(equal, picture)) > 60
        if equal is even:
            assert low + high == pytest.approx(0, abs=1e-4 * (high - low).max())
        # What one range for all rounds, beside the deviation that the norm divides by.
        step = (max(high.max(), 0) - min(low.min(), 0)) / 255
        deviation = channel_deviations(equal, [value], pictures)[value]
        errors.append(float(np.mean(np.square(step / deviation))))
    assert errors[1] < 0.75 * errors[0]


def test_channels_measured_at_once_are_what_they_are_measured_apart(
    resnet: Graph, pictures: Pictures
) -> None:
    values = [node.output for node in resnet.nodes if isinstance(node.op, Conv2d)]
    second = Pictures(pictures.names[::2], pictures.values[::2])
    deviations, extremes = channel_reach(resnet, values, pictures, every=2)
    apart = channel_deviations(resnet, values, second)
    for value in values:
        np.testing.assert_array_equal(deviations[value], apart[value])
        drawn = [interpret_values(resnet, one, [value])[value] for one in pictures.values]
        low, high = extremes[value]
        np.testing.assert_array_equal(low, np.min(drawn, axis=(0, 1, 2, 3)))
        np.testing.assert_array_equal(high, np.max(drawn, axis=(0, 1, 2, 3)))


def test_a_tighter_budget_leaves_the_costliest_layers_in_float(
    resnet: Graph, pictures: Pictures
) -> None:
    lowered, _ = lower(equalize(resnet, pictures), Runtime.ONNX)
    layers = int8_layers(lowered)
    ranges = measure(lowered, [v for x in layers for v in (x.source, x.name)], pictures)
    picture, counts = pictures.values[0], []
    reference = interpret(lowered, picture)
    for budget_db in (20.0, 38.0, 46.0):
        chosen = search(Trial(lowered, pictures, ranges), budget_db)
        counts.append(len(chosen))
        assert psnr_db(reference, simulate(lowered, chosen, ranges, picture)) >= budget_db
    assert counts[0] == len(layers)
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.fixture(scope="module", params=list(Runtime))
def plan(request: pytest.FixtureRequest, resnet: Graph, pictures: Pictures) -> Int8Plan:
    return plan_int8(Study(resnet, pictures), request.param, budget_db=36.0)


def test_the_runtime_computes_what_was_simulated(
    plan: Int8Plan, pictures: Pictures, tmp_path: Path
) -> None:
    # The ONNX lowering keeps instance norms whole; the TFLite one takes them apart.
    kinds = plan.graph.count()
    runtime = Runtime.ONNX if "instance_norm" in kinds else Runtime.TFLITE
    data = write_int8(plan, runtime, {"key": "value"})
    assert data == write_int8(plan, runtime, {"key": "value"})
    path = tmp_path / "int8"
    path.write_bytes(data)
    with open_session(path, runtime, threads=1) as session:
        assert session.partitions.fully_accelerated
        assert session.input.dtype == session.output.dtype == "float32"
        real, simulated = [], []
        more = read_pictures(bundled_calibration(), HEIGHT, WIDTH)
        for picture in (*pictures.values, *more.values):
            reference = interpret(plan.graph, picture)
            real.append(psnr_db(reference, session.run(picture)))
            drawn = simulate(plan.graph, plan.chosen, plan.ranges, picture)
            simulated.append(psnr_db(reference, drawn))
        assert min(real[: len(pictures)]) >= 36
        # LiteRT rounds halves otherwise, by chance now better and now worse.
        assert np.mean(real) == pytest.approx(np.mean(simulated), abs=0.3)


def test_int8_weights_are_a_quarter(plan: Int8Plan) -> None:
    runtime = Runtime.ONNX if "instance_norm" in plan.graph.count() else Runtime.TFLITE
    weights = {
        node.output: plan.graph.constants[node.inputs[1]].size
        for node in plan.graph.nodes
        if isinstance(node.op, Conv2d)
    }
    assert plan.chosen
    assert set(plan.summary.int8_layers) == plan.chosen
    assert set(plan.summary.int8_layers) | set(plan.summary.float_layers) == set(weights)
    emit = emit_onnx if runtime is Runtime.ONNX else emit_tflite
    plain = emit(plan.graph, DType.FP32, {})
    if runtime is Runtime.TFLITE:  # names, which an int8 file has fewer of, are no weights
        model = read_model(plain)
        forget_inner_names(model.subgraphs[0])
        plain = pack(model)
    saved = len(plain) - len(write_int8(plan, runtime, {}))
    # Layers that compute in float have their weights in int8 all the same, if these are many.
    assert not plan.packed & plan.chosen
    stored = plan.chosen | plan.packed
    moved = sum(weights[name] for name in stored)
    assert moved >= 0.95 * sum(weights.values())
    # Scales, zero points and new nodes take a part of it back in a network this small.
    # What stays in float takes half in a TFLite file.
    halved = sum(size for name, size in weights.items() if name not in stored and size >= 100)
    most = 3 * moved + (2 * halved if runtime is Runtime.TFLITE else 0)
    assert 3 * moved - 1500 * len(stored) < saved <= most


def test_the_onnx_file_has_one_pair_around_each_layer(resnet: Graph, pictures: Pictures) -> None:
    import onnx

    lowered, _ = lower(resnet, Runtime.ONNX)
    layers = int8_layers(lowered)
    ranges = measure(lowered, [v for x in layers for v in (x.source, x.name)], pictures)
    chosen = {layer.name for layer in layers[3:5]}
    model = onnx.load_from_string(insert_qdq(emit_onnx(lowered, DType.FP32, {}), chosen, ranges))
    onnx.checker.check_model(model)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["QuantizeLinear"] == 4  # each layer's input and output
    int8 = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
    weights = [t for t in int8 if len(t.dims) == 4]
    assert len(weights) == 2
    with pytest.raises(ConversionFailed, match="nowhere is no convolution"):
        insert_qdq(emit_onnx(lowered, DType.FP32, {}), {"nowhere"}, ranges)


def test_onnx_runtime_restores_packed_weights_at_load(
    resnet: Graph, pictures: Pictures, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    lowered, _ = lower(resnet, Runtime.ONNX)
    packed = {layer.name for layer in int8_layers(lowered)[3:5]}
    rounded = with_int8_weights(lowered, packed)
    data = insert_qdq(emit_onnx(rounded, DType.FP32, {}), (), {}, packed)
    stored = onnx.load_from_string(data)
    assert [t.data_type for t in stored.graph.initializer].count(onnx.TensorProto.INT8) == 2
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "loaded.onnx").graph
    assert {node.op_type for node in graph.node}.isdisjoint({"Cast", "Mul", "DequantizeLinear"})
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in {"Conv", "FusedConv"}]
    assert convolutions
    assert all(node.input[1] in constants for node in convolutions)
    picture = pictures.values[0]
    expected = run_onnx(emit_onnx(rounded, DType.FP32, {}), picture)
    np.testing.assert_allclose(run_onnx(data, picture), expected, rtol=0, atol=1e-5)


def test_what_one_lowering_taught_serves_the_other_and_no_other_graph(
    resnet: Graph, pictures: Pictures
) -> None:
    study = Study(resnet, pictures)
    plain, fine = (lower(study.even, runtime, integer=True)[0] for runtime in Runtime)
    found = study.survey(plain, 36.0)
    carried = found.carried_to(fine)
    assert carried is not None
    assert carried.layers == int8_layers(fine)
    for lowered in (plain, fine):
        exact = with_exact_pixels(lowered)
        first = int8_layers(exact)[0]
        assert first.source in moved_from(exact, BRIGHTER)
        ranges = study.survey(lowered, 36.0).ranges
        assert ranges is not None
        assert ranges[first.source] == PIXELS
    assert len(carried.chosen) == len(found.chosen)
    assert found.ranges is not None
    assert carried.ranges is not None
    for one, other in zip(found.layers, carried.layers, strict=True):
        assert carried.ranges[other.name] == found.ranges[one.name]
        assert carried.ranges[other.source] == found.ranges[one.source]
    open_ranges = study.survey(fine, 36.0, margin=None)
    assert open_ranges.ranges is None
    assert len(open_ranges.chosen) >= len(found.chosen)
    another = build_generator(full_plan(Architecture.UNET_128, width=2))
    assert found.carried_to(lower(capture(another, 128, 128), Runtime.ONNX)[0]) is None


@pytest.mark.parametrize("runtime", list(Runtime))
def test_the_first_layer_reads_every_pixel_exactly(
    resnet: Graph, pictures: Pictures, runtime: Runtime
) -> None:
    lowered, _ = lower(resnet, runtime, integer=True)
    exact = with_exact_pixels(lowered)
    picture = pictures.values[0]
    assert psnr_db(interpret(lowered, picture), interpret(exact, picture)) > 100

    # All 256 pixels come out of the sum on steps of the format, each on its own.
    pixels = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    shape = (1, HEIGHT, WIDTH, 3)
    spread = np.resize(pixels, shape).astype(np.float32)
    steps = interpret_values(exact, spread, [BRIGHTER])[BRIGHTER].astype(np.float64)
    steps = steps / float(PIXELS.scale) + PIXELS.zero_point
    assert np.abs(steps - np.resize(np.arange(256) - 128, shape)).max() < 1e-3

    first = int8_layers(exact)[0]
    assert first.source in moved_from(exact, BRIGHTER)
    ranges = measure(exact, [first.source, first.name], pictures)
    lost = []
    for own in (ranges, {**ranges, first.source: PIXELS}):
        drawn = simulate(exact, {first.name}, own, picture)
        lost.append(psnr_db(interpret(exact, picture), drawn))
    # What is left is what rounding its weights and its result loses.
    assert lost[1] > lost[0] + 0.4


class _Readers(nn.Module):
    """Reads the picture by two convolutions, one of them behind a slice; nothing forgets a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.whole = nn.Conv2d(channels, 8, 3, stride=2)
        self.part = nn.Conv2d(channels, 8, 1, bias=False)
        self.last = nn.Conv2d(8, 3, 1)
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.relu(self.whole(self.pad(x)))
        part = self.part(x[:, :, : HEIGHT // 2, : WIDTH // 2])
        return torch.tanh(self.last(whole + part))


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_biases_take_the_half_step_out_again(runtime: Runtime, channels: int) -> None:
    torch.manual_seed(3)
    network = _Readers(channels).eval()
    lowered, _ = lower(capture(network, HEIGHT, WIDTH, channels), runtime, integer=True)
    exact = with_exact_pixels(lowered)
    assert BRIGHTER in exact.shapes
    assert with_exact_pixels(exact) is exact
    picture = np.random.default_rng(4).uniform(-1, 1, lowered.input_shape).astype(np.float32)
    assert np.abs(interpret(lowered, picture) - interpret(exact, picture)).max() < 2e-6


def test_the_sum_stands_only_where_an_int8_layer_reads_it(
    resnet: Graph, pictures: Pictures
) -> None:
    layers = int8_layers(lower(resnet, Runtime.ONNX, integer=True)[0])
    for budget_db in (30.0, 50.0):
        plan = plan_int8(Study(resnet, pictures), Runtime.ONNX, budget_db)
        chosen = layers[0].name in plan.chosen
        assert chosen == (budget_db < 50)
        assert chosen == (BRIGHTER in plan.graph.shapes)
        assert chosen == ("exact_pixels" in [report.name for report in plan.passes])


class _Skip(nn.Module):
    """Adds the picture to what its convolution makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x) + x)


def test_a_picture_that_is_padded_with_zeros_or_read_elsewhere_stays_as_it_is() -> None:
    unet = build_generator(full_plan(Architecture.UNET_128, width=2))
    for network in (unet, _Skip(), nn.ReflectionPad2d(1)):
        for runtime in Runtime:
            lowered, _ = lower(capture(network.eval(), 128, 128), runtime, integer=True)
            assert INPUT in {name for node in lowered.nodes for name in node.inputs}
            assert with_exact_pixels(lowered) is lowered


def test_small_layers_are_packed_where_the_budget_allows_it(
    resnet: Graph, pictures: Pictures
) -> None:
    lowered, _ = lower(resnet, Runtime.ONNX, integer=True)
    layers = int8_layers(lowered)
    ranges = measure(lowered, [v for x in layers for v in (x.source, x.name)], pictures)
    weights = {n.output: n.inputs[1] for n in lowered.nodes if isinstance(n.op, Conv2d)}
    sizes = {name: lowered.constants[weight].size for name, weight in weights.items()}
    chosen = {layer.name for layer in layers if "blocks" in layer.name}
    trial = Trial(lowered, pictures, ranges)
    packed = packed_layers(trial, chosen, 20.0)
    assert packed == {n for n, size in sizes.items() if n not in chosen and size >= 200}
    # Nothing fits this budget; the heavy ones are packed all the same.
    heavy = packed_layers(trial, chosen, 90.0)
    assert heavy == {n for n in packed if sizes[n] >= 0.01 * sum(sizes.values())}
    assert 0 < len(heavy) < len(packed)
    rounded = with_int8_weights(lowered, packed)
    for name, weight in weights.items():
        same = np.array_equal(rounded.constants[weight], lowered.constants[weight])
        assert same == (name not in packed)


def test_no_layer_within_an_impossible_budget(resnet: Graph, pictures: Pictures) -> None:
    with pytest.raises(ConversionFailed, match="no layer can compute in int8"):
        plan_int8(Study(resnet, pictures), Runtime.ONNX, budget_db=150.0)


def test_less_is_asked_of_a_network_of_which_no_layer_keeps_what_is_asked_first(
    resnet: Graph, pictures: Pictures
) -> None:
    study, said = Study(resnet, pictures), list[str]()
    plan = plan_int8(study, Runtime.ONNX, 90.0, said.append, least_db=34.0)
    refused = [line for line in said if line.startswith("no layer keeps ")]
    assert refused[:2] == ["no layer keeps 90 dB in int8", "no layer keeps 86 dB in int8"]
    kept_db = 90.0 - 4 * len(refused)
    assert plan.chosen == plan_int8(study, Runtime.ONNX, kept_db).chosen
    picture = pictures.values[0]
    drawn = simulate(plan.graph, plan.chosen, plan.ranges, picture)
    assert psnr_db(interpret(plan.graph, picture), drawn) >= kept_db
