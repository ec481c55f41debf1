"""What a value's error does to the picture, told by gradients, beside the error followed there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_checkpoint
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import OUTPUT, Graph
from coronet_deploy.export.influence import mean_squares_shown
from coronet_deploy.export.int8_weights import with_int8_weights
from coronet_deploy.export.interpret import Walk, interpret, interpret_values
from coronet_deploy.export.operators import Conv2d
from coronet_deploy.export.passes import lower
from coronet_deploy.export.sensitivity import Trial, simulate
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture, Runtime
from lowering import smooth_picture, trained

_ERROR = 1e-3  # of a value's own size


def _graph(network: nn.Module, size: int = 96) -> Graph:
    return capture(network.eval(), size, size)


def _convolutions(graph: Graph) -> list[str]:
    return [node.output for node in graph.nodes if isinstance(node.op, Conv2d)]


def _noise(value: Tensor, name: str) -> Tensor:
    random = torch.Generator().manual_seed(len(name) + value.numel())
    return _ERROR * value.std() * torch.randn(value.shape, generator=random)


def _followed(graph: Graph, name: str) -> float:
    picture = smooth_picture(*graph.input_shape[1:])

    def alter(made: str, value: Tensor) -> Tensor:
        return value + _noise(value, name) if made == name else value

    drawn = interpret_values(graph, picture, [OUTPUT], alter=alter)
    (off,) = drawn.values()
    return float(np.mean(np.square(off - interpret(graph, picture))))


def _told(graph: Graph, held: int | None = None) -> dict[str, float]:
    def error(walk: Walk, made: Tensor) -> Tensor:
        return _noise(made, graph.nodes[walk.place].output)

    picture = smooth_picture(*graph.input_shape[1:])
    options = {} if held is None else {"held": held}
    return mean_squares_shown(graph, picture, _convolutions(graph), error, **options)


def _decibels(one: float, other: float) -> float:
    return 10 * math.log10(one / other)


@pytest.mark.parametrize("architecture", [Architecture.RESNET_6, Architecture.UNET_128])
def test_noise_shows_as_much_as_it_does_when_it_is_followed(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network = trained(build_generator(full_plan(architecture, width=8)))
    graph = _graph(network, 128)
    told = _told(graph)
    assert set(told) == set(_convolutions(graph))
    for name in told:
        if math.prod(graph.shapes[name][1:3]) >= 16:  # parts, of which one or four say little
            assert abs(_decibels(told[name], _followed(graph, name))) < 2.5, name


def test_places_to_begin_anew_from_change_nothing() -> None:
    torch.manual_seed(1)
    for architecture in (Architecture.RESNET_6, Architecture.UNET_128):
        graph = _graph(trained(build_generator(full_plan(architecture, width=8))), 128)
        whole = _told(graph, held=1 << 40)
        for held in (1, 1 << 20):
            told = _told(graph, held)
            assert told.keys() == whole.keys()
            for name, error in whole.items():
                assert told[name] == pytest.approx(error, rel=1e-3)


def test_a_caller_without_gradients_gets_the_same() -> None:
    torch.manual_seed(3)
    graph = _graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)))
    told = _told(graph, held=1)
    assert all(told.values())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert _told(graph, held=1) == told


class _Rooted(nn.Module):
    """Draws the root of what is often nothing, whose gradient is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.enter(x))
        drawn: Tensor = self.leave(y + torch.sqrt(torch.relu(y - 1)))
        return drawn


def test_a_gradient_that_is_no_number_counts_for_nothing() -> None:
    torch.manual_seed(2)
    told = _told(_graph(_Rooted()))
    assert len(told) == 2
    assert all(math.isfinite(error) and error > 0 for error in told.values())


def test_layers_of_the_bundled_generator_alone_are_as_each_is_when_simulated() -> None:
    generator = load_checkpoint(bundled_checkpoint("horse2zebra-resnet9")).generator()
    graph = capture(generator, 128, 128)
    pictures = Pictures(("one", "two"), tuple(smooth_picture(128, 128, seed=n) for n in (0, 1)))
    trial = Trial(lower(graph, Runtime.ONNX, integer=True)[0], pictures, None)
    alone, simulated = trial.alone, {}
    drawn = interpret(trial.graph, pictures.values[0])
    for layer in trial.layers:
        rounded = with_int8_weights(trial.graph, {layer.name})
        off = simulate(rounded, {layer.name}, None, pictures.values[0]) - drawn
        simulated[layer.name] = float(np.mean(np.square(off)))
    assert alone.keys() == simulated.keys()
    assert abs(_decibels(sum(alone.values()), sum(simulated.values()))) < 1
    wide = [
        layer for layer in trial.layers if math.prod(trial.graph.shapes[layer.name][1:3]) >= 256
    ]
    for layer in wide:
        assert abs(_decibels(alone[layer.name], simulated[layer.name])) < 4, layer.name
