"""Each rewrite draws the same picture, and does what it is there for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.export import operators as ops
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.operators import Padding
from coronet_deploy.export.passes import lower, passes_for
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.dead_bias import DropDeadBiases
from coronet_deploy.export.passes.reflect_pad import UnrollReflectPad
from coronet_deploy.export.passes.relu import FuseRelu, HoistRelu
from coronet_deploy.export.passes.subexpressions import ShareSubexpressions
from coronet_deploy.export.passes.tiling import choose_tiling
from coronet_deploy.export.passes.trim_taps import TrimTaps
from coronet_deploy.export.passes.winograd import Winograd
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture, Norm, Runtime
from lowering import difference as _difference
from lowering import run_torch, smooth_picture, trained

# The interpreter computes in float64, so a rewrite may only differ by the rounding of the float32
# constants that it made, relative to values around 1.
_ROUNDING = 3e-6


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of tiny operators run faster on one thread than on several that wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _kinds(graph: Graph) -> set[str]:
    return set(graph.count())


_RESNET, _UNET = Architecture.RESNET_6, Architecture.UNET_128
_EDGES_OF_TFLITE = "unroll_reflect_pad quad_pixels {} split_zero_padding share_subexpressions"
_NARROW_EDGES = _EDGES_OF_TFLITE.format("pair_inputs")
_NORMS_LAST = "decompose_instance_norm split_zero_padding"
_NORMED_EDGES = _EDGES_OF_TFLITE.format("decompose_instance_norm")


@pytest.mark.parametrize(
    ("passes", "architecture", "norm", "width", "size", "fired"),
    [
        ("tflite", _RESNET, Norm.INSTANCE, 12, 24,
         f"drop_dead_biases subpixel_convolution winograd {_NORMED_EDGES}"),
        ("tflite", _RESNET, Norm.BATCH, 6, 36,
         f"fold_batch_norm fuse_relu subpixel_convolution winograd {_NARROW_EDGES}"),
        ("tflite", _UNET, Norm.INSTANCE, 5, 128,
         f"drop_dead_biases hoist_relu fuse_relu subpixel_convolution trim_taps {_NORMS_LAST}"),
        ("tflite", _UNET, Norm.BATCH, 5, 128,
         "fold_batch_norm hoist_relu fuse_relu subpixel_convolution trim_taps split_zero_padding"),
        # Wide ones, for ONNX Runtime's own kernels are the quicker where channels are few.
        ("onnx", _RESNET, Norm.INSTANCE, 38, 80,
         "drop_dead_biases subpixel_convolution winograd sum_columns"),
        ("onnx", _RESNET, Norm.BATCH, 6, 36, "fold_batch_norm quad_pixels"),
        ("onnx", _UNET, Norm.INSTANCE, 38, 128, "drop_dead_biases subpixel_convolution trim_taps"),
        ("onnx", _UNET, Norm.BATCH, 5, 128, "fold_batch_norm subpixel_convolution trim_taps"),
        ("integer onnx", _RESNET, Norm.BATCH, 6, 36,
         "fold_batch_norm fuse_relu subpixel_convolution quad_pixels"),
        ("integer onnx", _UNET, Norm.INSTANCE, 5, 128,
         "hoist_relu fuse_relu subpixel_convolution trim_taps"),
    ],
)  # fmt: skip
def test_every_pass_on_a_whole_generator_is_exact(
    passes: str, architecture: Architecture, norm: Norm, width: int, size: int, fired: str
) -> None:
    network = trained(build_generator(full_plan(architecture, norm, width=width)))
    runtime = Runtime(passes.removeprefix("integer "))
    graph = original = capture(network, size, size)
    changed = []
    for step in passes_for(runtime, integer=passes.startswith("integer")):
        after = step.run(graph)
        if after.nodes != graph.nodes:
            changed.append(step.name)
            assert _difference(original, after) < 1e-5, step.name
        graph = after
    assert changed == fired.split()
    if runtime is Runtime.TFLITE:
        assert _kinds(graph).isdisjoint(
            {"batch_norm", "instance_norm", "reflect_pad", "conv_transpose2d"}
        )


def test_reports_tell_what_each_pass_did() -> None:
    network = build_generator(full_plan(Architecture.UNET_128, width=1))
    graph, reports = lower(capture(network, 128, 128), Runtime.ONNX)
    assert [(r.name, r.changed) for r in reports] == [
        ("skip_zeros", False),
        ("stride_convolutions", False),
        ("merge_upsampling", False),
        ("fold_batch_norm", True),
        ("plain_choices", False),
        ("drop_dead_biases", False),
        ("subpixel_convolution", False),
        ("trim_taps", True),  # around the single pixel at the bottom
        ("winograd", False),
        ("sum_columns", False),
        ("quad_pixels", False),
    ]
    assert reports[3].nodes_before - reports[3].nodes_after == 11
    assert {"conv_transpose2d", "leaky_relu", "tanh"} < _kinds(graph)


def test_the_onnx_lowering_keeps_what_onnx_runtime_has_kernels_for() -> None:
    network = build_generator(full_plan(Architecture.RESNET_6, width=5))
    graph, _ = lower(capture(network, 16, 16), Runtime.ONNX)
    # Of the squares of the last convolution.
    assert graph.count() == {**capture(network, 16, 16).count(), "depth_to_space": 1}


def test_preferring_size_stores_no_weight_twice() -> None:
    network = build_generator(full_plan(Architecture.RESNET_6, width=12))
    graph = capture(network, 32, 32)
    small, fast = (lower(graph, Runtime.TFLITE, prefer=p)[0] for p in ("size", "speed"))

    def numbers(g: Graph) -> int:
        return sum(array.size for array in g.constants.values())

    assert "depthwise_conv2d" not in _kinds(small)
    assert numbers(small) < 1.05 * numbers(graph) < numbers(fast)


def test_batch_norm_without_a_convolution_of_its_own_becomes_arithmetic() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.first = (
                nn.Conv2d(3, 3, 1),
                nn.BatchNorm2d(3),
                nn.BatchNorm2d(3),
            )

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(self.first(x))
            normalised: Tensor = self.norm(y)
            return y + normalised

    before = capture(trained(Shared()), 8, 8)
    after = FoldBatchNorm().run(before)
    assert after.count() == {"add": 3, "conv2d": 1, "mul": 2}
    assert _difference(before, after) < _ROUNDING


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_batch_norm_folds_into_the_convolution_before_it(kind: type[nn.Conv2d]) -> None:
    network = nn.Sequential(kind(3, 5, 3, bias=False), nn.BatchNorm2d(5), kind(5, 4, 2))
    before = capture(trained(network), 8, 8)
    after = FoldBatchNorm().run(before)
    assert "batch_norm" not in _kinds(after)
    assert len(after.nodes) == 2
    assert _difference(before, after) < _ROUNDING


def test_only_biases_that_a_norm_undoes_are_dropped() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 4, 3), nn.ReLU()
    )
    before = capture(network, 8, 8)
    after = DropDeadBiases().run(before)
    assert [len(n.inputs) for n in after.nodes if isinstance(n.op, ops.Conv2d)] == [2, 3]
    assert _difference(before, after) < 1e-12


def test_a_bias_that_something_else_reads_too_stays() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            normalised: Tensor = self.norm(y)
            return y + normalised

    before = capture(Read(), 8, 8)
    assert _difference(before, DropDeadBiases().run(before)) == 0


@given(
    pads=st.tuples(*[st.integers(0, 5)] * 4).filter(any),
    height=st.integers(6, 9),
    width=st.integers(6, 9),
)
@settings(max_examples=25, deadline=None)
def test_reflection_padding_of_any_width(
    pads: tuple[int, int, int, int], height: int, width: int
) -> None:
    before = capture(nn.ReflectionPad2d(pads), height, width)
    after = UnrollReflectPad().run(before)
    assert _difference(before, after) == 0
    assert max(len(node.inputs) for node in after.nodes) <= 5


def test_relus_move_before_a_concatenation_and_into_convolutions() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            skip = F.leaky_relu(self.a(x), 0.2)
            return F.relu(torch.cat([skip, self.b(skip)], 1))

    before = capture(Skip(), 8, 8)
    after = FuseRelu().run(HoistRelu().run(before))
    assert after.count() == {"concat": 1, "conv2d": 2, "leaky_relu": 1, "relu": 1}
    assert _difference(before, after) == 0


@given(
    inputs=st.sampled_from([24, 40, 64]),
    outputs=st.sampled_from([20, 50]),
    size=st.tuples(st.integers(5, 26), st.integers(5, 26)),
    padding=st.integers(0, 1),
    bias=st.booleans(),
    depth_to_space=st.booleans(),
)
# In two dimensions, with spare rows and columns.
@example(inputs=64, outputs=50, size=(21, 23), padding=1, bias=True, depth_to_space=True)
@example(inputs=64, outputs=50, size=(21, 23), padding=1, bias=True, depth_to_space=False)
@settings(max_examples=25, deadline=None)
def test_winograd_of_any_height_and_width(
    inputs: int, outputs: int, size: tuple[int, int], padding: int, bias: bool, depth_to_space: bool
) -> None:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=bias)
    before = FuseRelu().run(capture(nn.Sequential(convolution, nn.ReLU()), *size, inputs))
    after = Winograd(depth_to_space=depth_to_space).run(before)
    assert _difference(before, after) < _ROUNDING


@pytest.mark.parametrize(
    ("size", "taken_in"),
    [((24, 16), True), ((48, 8), True), ((96, 4), False), ((21, 24), False), ((24, 22), False)],
)
def test_winograd_reads_mirrored_lines_only_at_the_edges(
    size: tuple[int, int], taken_in: bool
) -> None:
    layers = nn.ReflectionPad2d(1), nn.Conv2d(64, 61, 3), nn.ReLU()
    before = FuseRelu().run(capture(nn.Sequential(*layers), *size, 64))
    after = Winograd().run(before)
    assert _difference(before, after) < _ROUNDING
    assert after.count()["depthwise_conv2d"] > 36
    assert ("reflect_pad" not in _kinds(after)) == taken_in
    assert "zero_pad" not in _kinds(after)


@pytest.mark.parametrize(
    ("size", "around"),
    [
        ((24, 9), ops.Padding(left=1, right=1)),
        ((8, 8), ops.Padding(left=1, right=1)),
        ((23, 9), ops.Padding(1, 1, 1, 1)),
        ((8, 3), ops.Padding(1, 1, 1, 1)),
    ],
)
def test_winograd_down_the_height_keeps_mirrored_columns_alone(
    size: tuple[int, int], around: ops.Padding
) -> None:
    before = capture(nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(24, 20, 3)), *size, 24)
    after = Winograd().run(before)
    assert _difference(before, after) < _ROUNDING
    assert after.count()["depthwise_conv2d"] >= 6
    assert [n.op for n in after.nodes if isinstance(n.op, ops.ReflectPad)] == [
        ops.ReflectPad(around)
    ]


def test_winograd_copies_no_line_where_zeros_are_around() -> None:
    before = capture(nn.Conv2d(64, 64, 3, padding=1), 24, 24, 64)
    after = Winograd().run(before)
    assert _kinds(after).isdisjoint({"zero_pad", "slice"})


@given(
    size=st.tuples(st.integers(50, 60), st.integers(25, 30)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    outputs=st.sampled_from([60, 71]),
    bias=st.booleans(),
)
@example(size=(54, 27), padding=(1, 1), outputs=60, bias=True)
@settings(max_examples=25, deadline=None)
def test_winograd_of_stride_2_by_its_phases(
    size: tuple[int, int], padding: tuple[int, int], outputs: int, bias: bool
) -> None:
    convolution = nn.Conv2d(97, outputs, 4, 2, padding, bias=bias)
    height, width = size[0], 2 * size[1]
    before = FuseRelu().run(capture(nn.Sequential(convolution, nn.ReLU()), height, width, 97))
    after = Winograd().run(before)
    assert "depthwise_conv2d" in _kinds(after)
    assert _difference(before, after) < _ROUNDING


def test_winograd_leaves_narrow_small_and_odd_layers_of_stride_2() -> None:
    for inputs, height, width in ((32, 64, 64), (256, 16, 16), (97, 54, 55)):
        before = capture(nn.Conv2d(inputs, 128, 4, 2, 1), height, width, inputs)
        assert Winograd().run(before).nodes == before.nodes


def test_winograd_is_chosen_by_width_and_only_where_it_pays() -> None:
    assert choose_tiling(3, 16, 16, 64, 64) is None
    assert (choice := choose_tiling(3, 32, 32, 64, 64)) is not None
    assert not choice.square
    assert (choice := choose_tiling(3, 256, 256, 62, 64)) is not None
    assert (choice.square, choice.rows, choice.columns) == (True, 64, 64)
    # One output pixel a side would be computed as sixteen, five as sixty-four.
    assert choose_tiling(3, 256, 256, 1, 1) is None
    assert choose_tiling(3, 32, 32, 5, 64) is None
    assert choose_tiling(3, 32, 32, 64, 5) is not None  # it is cut down the height alone


def test_taps_that_only_meet_padding_are_cut_off() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 8, 4, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
    )
    before = capture(network, 4, 4)
    after = TrimTaps().run(before)
    kernels = [after.shapes[n.inputs[1]][1:3] for n in after.nodes if isinstance(n.op, ops.Conv2d)]
    assert kernels == [(4, 4), (2, 2), (1, 1)]
    assert _difference(before, after) < 1e-12


def test_equal_computations_are_done_once() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) * 2 + F.relu(x)

    before = capture(Twice(), 8, 8)
    after = ShareSubexpressions().run(before)
    assert after.count() == {"add": 1, "mul": 1, "relu": 1}
    assert _difference(before, after) == 0


def test_a_graph_that_reads_what_is_not_there_is_refused() -> None:
    graph = capture(nn.Sequential(nn.ReLU(), nn.Tanh()), 4, 4)
    with pytest.raises(ValueError, match="before it is made"):
        Graph(graph.nodes[1:], graph.constants, graph.shapes)
    with pytest.raises(ValueError, match="does not fit"):
        ops.ReflectPad(Padding(4)).infer((1, 4, 4, 3))


def test_lowering_does_not_depend_on_how_often_it_is_done() -> None:
    network = build_generator(full_plan(Architecture.RESNET_6, width=6)).eval()
    picture = smooth_picture(20, 28)
    graph, _ = lower(capture(network, 20, 28), Runtime.TFLITE)
    again, _ = lower(graph, Runtime.TFLITE)
    for g in (graph, again):
        assert np.abs(interpret(g, picture) - run_torch(network, picture)).max() < 1e-4
