"""Random channel plans of both architectures and any size, in both runtimes, beside torch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coronet_deploy.export.build import emit
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Architecture, ChannelPlan, DType, Norm, Runtime
from lowering import run_onnx, run_tflite, run_torch, smooth_picture, trained


def _plan(architecture: Architecture, norm: Norm, seed: int, widest: int) -> ChannelPlan:
    """Return a plan of independent widths: every group differs from its neighbours."""
    full, random = full_plan(architecture, norm), np.random.default_rng(seed)
    groups = {name: int(random.integers(1, widest + 1)) for name in full.groups}
    return ChannelPlan(architecture, norm, groups)


def _drawn(network: nn.Module, picture: Array, runtime: Runtime) -> Array:
    _, height, width, channels = picture.shape
    lowered, _ = lower(capture(network, height, width, channels), runtime)
    run = run_tflite if runtime is Runtime.TFLITE else run_onnx
    return run(emit(lowered, runtime, DType.FP32, {}), picture)


@given(
    seed=st.integers(0, 2**16),
    norm=st.sampled_from(Norm),
    size=st.tuples(st.integers(2, 10), st.integers(2, 10)).map(lambda s: (4 * s[0], 4 * s[1])),
)
@settings(max_examples=5, deadline=None, derandomize=True)
def test_resnets(seed: int, norm: Norm, size: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    network = trained(build_generator(_plan(Architecture.RESNET_6, norm, seed, 60)))
    picture = smooth_picture(*size, seed=seed)
    expected = run_torch(network, picture)
    for runtime in Runtime:
        assert psnr_db(expected, _drawn(network, picture, runtime)) > 90, runtime


@given(
    seed=st.integers(0, 2**16),
    norm=st.sampled_from(Norm),
    size=st.sampled_from([(128, 128), (128, 256), (256, 128)]),
)
@settings(max_examples=4, deadline=None, derandomize=True)
def test_unets(seed: int, norm: Norm, size: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    network = trained(build_generator(_plan(Architecture.UNET_128, norm, seed, 24)))
    picture = smooth_picture(*size, seed=seed)
    expected = run_torch(network, picture)
    for runtime in Runtime:
        # A norm over the few pixels of the innermost levels magnifies rounding.
        assert psnr_db(expected, _drawn(network, picture, runtime)) > 80, runtime


@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    growth=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_transposed_convolutions_as_torch_allows_them(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    growth: tuple[int, int],
    channels: tuple[int, int],
    size: tuple[int, int],
    *,
    bias: bool,
) -> None:
    growth = min(growth[0], stride[0] - 1), min(growth[1], stride[1] - 1)
    padding = min(padding[0], kernel[0] - 1), min(padding[1], kernel[1] - 1)
    layer = nn.ConvTranspose2d(*channels, kernel, stride, padding, growth, bias=bias).eval()
    shape = [
        (n - 1) * s - 2 * p + k + g
        for n, s, p, k, g in zip(size, stride, padding, kernel, growth, strict=True)
    ]
    if min(shape) < 1:
        return
    picture = smooth_picture(*size, channels[0])
    expected = run_torch(layer, picture)
    for runtime in Runtime:
        drawn = _drawn(layer, picture, runtime)
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).max() < 1e-5, runtime
