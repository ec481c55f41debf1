"""Weights in int8, whose errors cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.cancelling import OF_FEATURES, correlation
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import FloatArray, Graph
from coronet_deploy.export.int8_weights import (
    int8_weights,
    round_weight,
    weight_scales,
    with_int8_weights,
)
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.export.sensitivity import int8_layers
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Runtime


def _of_features(kernel: FloatArray) -> FloatArray:
    """Return what a convolution that reads no picture has of OHWI weights."""
    outputs, rows, columns, width = kernel.shape
    layer = nn.Conv2d(width, outputs, (rows, columns))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel.transpose(0, 3, 1, 2)))
    graph = capture(nn.Sequential(nn.ReLU(), layer).eval(), 16, 16, width)
    (found,) = int8_weights(graph, _layers(graph)).values()
    return found


def _layers(graph: Graph) -> set[str]:
    return {layer.name for layer in int8_layers(graph)}


@pytest.mark.parametrize("shape", [(6, 3, 3, 8), (4, 1, 1, 20), (5, 2, 1, 7), (1, 4, 4, 1)])
def test_each_weight_is_a_neighbour_and_the_errors_of_a_window_cancel(
    shape: tuple[int, int, int, int],
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, rng.uniform(0.01, 1, (shape[0], 1, 1, 1)), shape).astype(np.float32)
    kernel[:, 0, 0, 0] = 0
    found, scales = _of_features(kernel), weight_scales(kernel)[:, None, None, None]
    steps = found / scales
    assert np.allclose(steps, np.rint(steps), atol=1e-4)
    assert (np.abs(found - kernel) < 1.001 * scales).all()
    assert (found[:, 0, 0, 0] == 0).all()
    assert np.abs(np.rint(steps)).max(axis=(1, 2, 3)).tolist() == [127] * shape[0]
    # Whoever rounds them once more finds the same numbers, with the same scales.
    assert np.allclose(weight_scales(found), weight_scales(kernel), rtol=1e-6)
    assert np.allclose(round_weight(found), found, rtol=1e-6)
    alike = correlation(*shape[1:], *OF_FEATURES)
    before, after = (_energies(w - kernel, alike) for w in (round_weight(kernel), found))
    assert (after <= before * (1 + 1e-5)).all()
    if np.prod(shape[1:]) > 30:
        assert after.sum() < 0.5 * before.sum()


def _energies(errors: FloatArray, alike: FloatArray) -> FloatArray:
    flat = errors.reshape(len(errors), -1)
    energies: FloatArray = np.einsum("on,nm,om->o", flat, alike, flat)
    return energies


def test_large_windows_have_the_nearest_numbers() -> None:
    kernel = np.random.default_rng(0).normal(0, 1, (2, 3, 3, 70)).astype(np.float32)
    assert (_of_features(kernel) == round_weight(kernel)).all()


def test_weights_that_the_picture_meets_round_for_pictures() -> None:
    pictures = read_pictures(bundled_pictures(), 128, 128)
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 16, 7)
    # As trained ones: what is broadly light or dark cancels.
    with torch.no_grad():
        layer.weight -= layer.weight.mean((1, 2, 3), keepdim=True)
    before = capture(nn.Sequential(nn.ReflectionPad2d(3), layer).eval(), 128, 128)
    names = _layers(before)
    nearest = {
        node.inputs[1]: round_weight(before.constants[node.inputs[1]])
        for node in before.nodes
        if node.output in names
    }
    after, plain = with_int8_weights(before, names), with_int8_weights(before, names, nearest)
    for picture in pictures.values:
        exact = interpret(before, picture)
        better, worse = (psnr_db(exact, interpret(g, picture)) for g in (after, plain))
        assert better > worse + 2


def test_layers_that_are_not_named_keep_their_weights() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    graph = capture(network, 16, 16)
    first, second = (node.inputs[1] for node in graph.nodes if node.inputs[1:])
    name = next(node.output for node in graph.nodes if first in node.inputs)
    after = with_int8_weights(graph, {name})
    assert (after.constants[first] != graph.constants[first]).any()
    assert (after.constants[second] == graph.constants[second]).all()


def test_between_instance_norms_only_those_that_meet_the_picture_cancel() -> None:
    norms = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    for runtime in Runtime:
        graph, _ = lower(capture(norms.eval(), 16, 16), runtime, integer=True)
        (first, *_, last) = (layer.name for layer in int8_layers(graph))
        for name, cancels in ((first, True), (last, False)):
            ((constant, found),) = int8_weights(graph, {name}).items()
            assert (found != round_weight(graph.constants[constant])).any() is np.bool_(cancels)
