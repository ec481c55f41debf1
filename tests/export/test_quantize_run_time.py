"""INT8 in TFLite: ranges found at run time, as they are simulated, and what that spares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import FloatArray
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.quantize import Int8Plan, plan_int8, write_int8
from coronet_deploy.export.sensitivity import int8_layers, simulate
from coronet_deploy.export.study import Study
from coronet_deploy.export.tflite_file import read_model
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import Runtime

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 24, 32
CHANNELS = 4  # of pictures


def _pictures(seed: int, size: float = 1.0, count: int = 3) -> Pictures:
    rng = np.random.default_rng(seed)
    shape = (1, HEIGHT, WIDTH, CHANNELS)
    values = tuple(rng.uniform(-size, 0.8 * size, shape).astype(np.float32) for _ in range(count))
    return Pictures(tuple(f"{i}.png" for i in range(count)), values)


def _plan(network: nn.Module, runtime: Runtime = Runtime.TFLITE, size: float = 1.0) -> Int8Plan:
    graph = capture(network.eval(), HEIGHT, WIDTH, CHANNELS)
    return plan_int8(Study(graph, _pictures(0, size)), runtime, budget_db=25.0)


def _run(plan: Int8Plan, runtime: Runtime, folder: Path, *pictures: FloatArray) -> list[FloatArray]:
    path = folder / f"int8{runtime.suffix}"
    path.write_bytes(write_int8(plan, runtime, {}))
    with open_session(path, runtime, threads=1) as session:
        assert session.partitions.fully_accelerated
        return [session.run(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("layer", "pointwise"),
    [
        (nn.Conv2d(CHANNELS, 8, 1), True),
        (nn.Conv2d(CHANNELS, 8, 1, bias=False), True),
        (nn.Conv2d(CHANNELS, 8, 1, stride=2), False),
        (nn.Conv2d(CHANNELS, 8, 1, padding=1), True),  # zeros are put around it before
        (nn.Conv2d(CHANNELS, 3, 3), False),
        (nn.Conv2d(CHANNELS, 3, (1, 2)), False),
        (nn.Conv2d(CHANNELS, 6, 4, stride=2, padding=1), False),
    ],
)
def test_one_layer_rounds_in_the_runtime_as_it_does_in_the_simulation(
    layer: nn.Conv2d, pointwise: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    # The first layer would read pixels half a step brighter.
    plan = _plan(nn.Sequential(nn.LeakyReLU(0.7), layer))
    (found,) = int8_layers(plan.graph)
    assert plan.chosen == {found.name}
    assert plan.ranges is None
    assert found.pointwise == pointwise
    picture = _pictures(1).values[0]
    (drawn,) = _run(plan, Runtime.TFLITE, tmp_path, picture)
    simulated = simulate(plan.graph, plan.chosen, None, picture)
    reference = interpret(plan.graph, picture)
    lost = float(np.abs(drawn - reference).max())
    assert 1e-4 < lost < 0.05
    # Where a value lies between two steps by float32's last digit, either may be taken.
    far = np.abs(drawn - simulated) > 1e-5
    assert far.mean() < 0.01


def _two_layers() -> nn.Module:
    torch.manual_seed(5)
    first, second = nn.Conv2d(CHANNELS, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second)


def test_what_a_layer_makes_leaves_as_float_and_no_range_is_stored() -> None:
    plan = _plan(_two_layers())
    assert len(plan.chosen) == 2
    model = read_model(write_int8(plan, Runtime.TFLITE, {}))
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    codes = [model.operatorCodes[o.opcodeIndex].builtinCode for o in graph.operators]
    assert codes.count(kinds.CONV_2D) == 2
    assert kinds.QUANTIZE not in codes
    for operator, code in zip(graph.operators, codes, strict=True):
        types = [graph.tensors[place].type for place in (*operator.inputs, *operator.outputs)]
        if code == kinds.CONV_2D:
            floats = schema.TensorType.FLOAT32
            assert types[0] == types[-1] == floats
            assert types[1] == schema.TensorType.INT8


def test_a_picture_that_reaches_further_than_those_calibrated_on_is_not_clipped(
    tmp_path: Path,
) -> None:
    """In TFLite; in ONNX, whose ranges are fixed beforehand, it is, which is why they are not."""
    network, losses = _two_layers(), dict[Runtime, list[float]]()
    far = _pictures(1).values[0]
    sizes = 0.2, 1.0
    near = (far * 0.2).astype(np.float32)
    for runtime in Runtime:
        plan = _plan(network, runtime, size=0.2)
        assert len(plan.chosen) == 2
        drawn = _run(plan, runtime, tmp_path, near, far)
        psnr = [
            psnr_db(interpret(plan.graph, picture), result) + 20 * np.log10(size)
            for picture, result, size in zip((near, far), drawn, sizes, strict=True)
        ]
        losses[runtime] = psnr
    near_db, far_db = losses[Runtime.TFLITE]
    assert far_db > near_db - 1
    assert losses[Runtime.ONNX][1] < near_db - 10


@pytest.mark.parametrize("level", [-1.0, 0.0, 0.5])
def test_a_picture_of_one_colour_is_drawn(level: float, tmp_path: Path) -> None:
    plan = _plan(_two_layers())
    flat = np.full((1, HEIGHT, WIDTH, CHANNELS), level, np.float32)
    (drawn,) = _run(plan, Runtime.TFLITE, tmp_path, flat)
    reference = interpret(plan.graph, flat)
    assert psnr_db(reference, drawn) > 40
    assert psnr_db(reference, simulate(plan.graph, plan.chosen, None, flat)) > 40


def test_more_computes_in_integers_than_with_fixed_ranges() -> None:
    torch.manual_seed(6)
    blocks = [nn.Conv2d(CHANNELS, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.ReLU()]
    for _ in range(4):
        blocks += [nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.ReLU()]
    network = nn.Sequential(*blocks, nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()).eval()
    study = Study(capture(network, HEIGHT, WIDTH, CHANNELS), _pictures(0))
    plans = {runtime: plan_int8(study, runtime, 46.0) for runtime in Runtime}
    shares = {runtime: plan.summary.int8_macs_share for runtime, plan in plans.items()}
    assert shares[Runtime.TFLITE] > shares[Runtime.ONNX]


def test_a_network_that_draws_no_numbers_is_refused_with_the_picture_named() -> None:
    network = _two_layers()
    with torch.no_grad():
        network.get_parameter("2.bias").fill_(float("nan"))
    with pytest.raises(ConversionFailed, match=r"picture 0\.png gives values that are not finite"):
        _plan(network)
