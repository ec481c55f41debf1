"""Pictures in other sizes: enlarged with their corners in place, made smaller, picked apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.onnx import emit_onnx
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    Does,
    Share,
    difference,
    run_onnx,
    run_torch,
    smooth_picture,
)

pytestmark = pytest.mark.usefixtures("one_thread")

_LEAST_DB = {
    DType.FP32: 110,
    DType.FP16: 65,
    DType.INT8: 40,
    DType.INT8_FULL: 38,
    DType.INT16X8: 45,
    DType.A16W8: 45,
}
_INTEGER = {DType.INT8_FULL, DType.INT16X8, DType.A16W8}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Return real pictures of a size that is no power of two."""
    return read_pictures(bundled_pictures()[:3], 60, 88)


def _resized(**how: object) -> Does:
    return Does(lambda x: F.interpolate(x, **how))  # type: ignore[arg-type]


_LAYERS: dict[str, nn.Module] = {
    "corners": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "corners apart": _resized(size=(31, 15), mode="bilinear", align_corners=True),
    "corners, smaller": _resized(size=(5, 7), mode="bilinear", align_corners=True),
    "corners of a pixel": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(4, 6), mode="bilinear", align_corners=True)
    ),
    "to a pixel": _resized(size=(1, 1), mode="bilinear", align_corners=True),
    "any size": _resized(size=(18, 35), mode="bilinear"),
    "half": _resized(scale_factor=0.5, mode="bilinear"),
    "unlike": _resized(scale_factor=(2, 1), mode="bilinear"),
    "as it is": _resized(size=(12, 14), mode="bilinear", align_corners=True),
    "nearest, half": _resized(scale_factor=0.5),
    "nearest, third": _resized(size=(4, 7)),
    "exact, third": _resized(size=(4, 14), mode="nearest-exact"),
    "exact, quarter": _resized(size=(3, 2), mode="nearest-exact"),
    "nearest, larger": nn.Upsample(scale_factor=1.5),
    "nearest, unlike": nn.Upsample(scale_factor=(2, 3)),
    "nearest, smaller": _resized(scale_factor=0.3),
    "nearest, any size": _resized(size=(5, 19)),
    "exact, any size": _resized(size=(7, 5), mode="nearest-exact"),
    "parts of pixels": _resized(scale_factor=1.3, mode="bilinear"),
    "parts, by size": _resized(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
    "cubic": _resized(scale_factor=2, mode="bicubic"),
    "cubic, fourfold": _resized(size=(48, 56), mode="bicubic"),
    "cubic, half": _resized(scale_factor=0.5, mode="bicubic"),
    "cubic, unlike": _resized(size=(3, 7), mode="bicubic"),
    "cubic, third": _resized(size=(4, 14), mode="bicubic"),
    "cubic, any size": _resized(size=(13, 9), mode="bicubic"),
    "cubic, parts": _resized(scale_factor=1.3, mode="bicubic"),
    "corners by name": nn.UpsamplingBilinear2d(scale_factor=2),
    "cubic corners": _resized(scale_factor=2, mode="bicubic", align_corners=True),
    "smoothed, half": _resized(scale_factor=0.5, mode="bilinear", antialias=True),
    "smoothed, cubic": _resized(size=(5, 20), mode="bicubic", antialias=True),
    "unlike windows": nn.AdaptiveAvgPool2d((5, 3)),
    "few windows": nn.AdaptiveAvgPool2d((None, 3)),
    "unshuffled": nn.PixelUnshuffle(2),
    "every second": Does(lambda x: x[:, :, ::2, 1::2]),
    "every fifth": Does(lambda x: x[:, :, 3:11:5]),
}


@pytest.mark.parametrize("name", _LAYERS)
@pytest.mark.parametrize("runtime", Runtime)
def test_the_graph_draws_what_the_layer_draws(runtime: Runtime, name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), _LAYERS[name], nn.ReLU()).eval()
    picture = smooth_picture(12, 14)
    graph = capture(network, 12, 14)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 2e-6
    lowered, _ = lower(graph, runtime)
    assert difference(graph, lowered) < 3e-6


def _copied(height: int, width: int, **how: object) -> list[str]:
    """Return what an ONNX file of nearest pixels is of, having seen that all are torch's own."""
    network, random = _resized(**how), np.random.default_rng(height * width)
    picture = random.uniform(-1, 1, (1, height, width, 2)).astype(np.float32)
    wanted = run_torch(network, picture)
    graph = capture(network, height, width, 2)
    data = emit_onnx(lower(graph, Runtime.ONNX)[0], DType.FP32, {})
    np.testing.assert_array_equal(run_onnx(data, picture), wanted)
    assert difference(graph, lower(graph, Runtime.TFLITE)[0]) == 0
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def _unlike(count: int, made: int) -> bool:
    """Return whether neither of two numbers of lines is a multiple of the other."""
    return bool(count % made and made % count)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 250)), min_size=2, max_size=2),
    mode=st.sampled_from(["nearest", "nearest-exact"]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
@example(sizes=[(60, 94), (88, 104)], mode="nearest")  # where torch rounds a whole line down
@example(sizes=[(64, 164), (64, 80)], mode="nearest")
def test_nearest_pixels_of_every_size_are_torchs_in_onnx_runtime(
    sizes: list[tuple[int, int]], mode: str
) -> None:
    (height, high), (width, wide) = sizes
    assume(_unlike(height, high) or _unlike(width, wide))
    kinds = _copied(height, width, size=(high, wide), mode=mode)
    assert set(kinds) <= {"Resize", "Gather"}


@given(
    size=st.tuples(st.integers(3, 150), st.integers(3, 150)),
    scale=st.tuples(st.integers(35, 260), st.integers(35, 260)),
    mode=st.sampled_from(["nearest", "nearest-exact"]),
)
@example(size=(3, 89), scale=(101, 142), mode="nearest")  # which leaves three lines, not the same
@example(size=(129, 7), scale=(100, 107), mode="nearest")
@settings(max_examples=40, deadline=None, derandomize=True)
def test_nearest_pixels_of_every_scale_are_torchs_in_onnx_runtime(
    size: tuple[int, int], scale: tuple[int, int], mode: str
) -> None:
    assume(any(percent % 50 for percent in scale))
    scales = scale[0] / 100, scale[1] / 100
    kinds = _copied(*size, scale_factor=scales, mode=mode)
    assert set(kinds) <= {"Resize", "Gather"}


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 1.5},
        {"scale_factor": 1.3},
        {"scale_factor": (2, 3)},
        {"scale_factor": 0.3},
        {"size": (97, 33)},
        {"size": (100, 81), "mode": "nearest-exact"},
    ],
    ids=str,
)
def test_usual_ones_are_one_resize(how: dict[str, object]) -> None:
    assert _copied(64, 48, **how) == ["Resize"]


def _weights(graph: Graph) -> int:
    return sum(array.size for array in graph.constants.values())


@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_whole_factors_are_convolved_with_few_weights(factor: float) -> None:
    layer = _resized(scale_factor=factor, mode="bicubic")
    graphs = [capture(nn.Sequential(nn.Conv2d(3, 4, 1), layer), n, n) for n in (12, 24)]
    assert "permute" not in graphs[0].count()
    assert _weights(graphs[0]) == _weights(graphs[1])


class _Joining(nn.Module):
    """Joins a picture with itself made small and large again, as U-Nets and pyramids do."""

    def __init__(self, smaller: nn.Module, larger: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.smaller, self.larger = nn.Conv2d(3, 8, 3, padding=1), smaller, larger
        self.inner, self.leave = nn.LazyConv2d(8, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.eval()(torch.zeros(1, 3, 60, 88))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        inner = self.larger(torch.relu(self.inner(self.smaller(x))), x)
        return torch.tanh(self.leave(torch.cat([x, inner], 1)))


def _to_size_of(**how: object) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda small, x: F.interpolate(small, x.shape[2:], **how)  # type: ignore[arg-type]


_JOINED = {
    "corners": (nn.MaxPool2d(2), _to_size_of(mode="bilinear", align_corners=True)),
    "pyramid": (nn.AdaptiveAvgPool2d((5, 4)), _to_size_of(mode="bilinear")),
    "unshuffled": (nn.PixelUnshuffle(2), _to_size_of(mode="nearest")),
    "cubic": (_resized(scale_factor=0.5, mode="bicubic"), _to_size_of(mode="bicubic")),
    "unlike windows": (nn.AdaptiveAvgPool2d(7), _to_size_of(mode="bicubic", align_corners=True)),
    "nearest, any size": (_resized(size=(17, 31)), _to_size_of(mode="nearest")),
    "nearest": (_resized(scale_factor=0.25), _to_size_of(mode="bilinear", align_corners=True)),
}


@pytest.mark.parametrize("name", _JOINED)
@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [
        pair
        for pair in product(Runtime, _LEAST_DB)
        if pair not in {(Runtime.TFLITE, DType.A16W8), (Runtime.ONNX, DType.INT16X8)}
    ],
)
def test_resized_pictures_are_one_part_in_every_number_type(
    runtime: Runtime, dtype: DType, name: str, shared: Share, pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Joining(*_JOINED[name]), pictures)
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert dtype in _INTEGER or whole
    assert least >= _LEAST_DB[dtype]
