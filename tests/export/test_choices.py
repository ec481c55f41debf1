"""Numbers compared and chosen: masks, where, signs, clamps by tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import emit
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.vocabulary import DType, Runtime
from lowering import (
    INTEGER,
    LEAST_DB,
    Does,
    Share,
    artifacts,
    difference,
    run_onnx,
    run_tflite,
    run_torch,
    smooth_picture,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class _Own(nn.Module):
    """Does `what` to eight channels of half the picture's size."""

    mask: Tensor

    def __init__(self, what: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        self.low = nn.Parameter(-torch.rand(1, 8, 1, 1))
        self.high = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("mask", torch.rand(1, 8, 1, 1) > 0.5)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.last(self.what(self, self.first(x)))
        return drawn.tanh()


def _exponential(_: _Own, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.expm1(x) / 2)


def _masked(_: _Own, x: Tensor) -> Tensor:
    known = (x.mean(1, keepdim=True) > 0.05).to(x.dtype)
    return x * known + (1 - known) * x.flip(3)


def _within(_: _Own, x: Tensor) -> Tensor:
    inside = (x >= -0.3) & (x <= 0.4) | ~(x < 0.8)
    return x.masked_fill(inside, 0.25) + x * inside


def _rectified(x: Tensor) -> Tensor:
    return x * (x > 0)


_WHAT: dict[str, Callable[[_Own, Tensor], Tensor]] = {
    "exponential": _exponential,
    "masked": _masked,
    "within": _within,
    "by a mask": lambda n, x: torch.where(n.mask, x, 0.5) + x.masked_fill(n.mask, 0),
    "of two": lambda _, x: torch.where(x > x.mean(1, keepdim=True), x, x.new_zeros(1)),
    "signs": lambda _, x: torch.sign(x) * (x.abs() + 1e-3).sqrt(),
    "by tensors": lambda n, x: x.clamp(n.low, n.high) + torch.clamp(x, min=x.mean(1, keepdim=True)),
    "channels last": lambda _, x: _rectified(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "in steps": lambda _, x: (x * 8).floor() / 8 + (x - 0.25).ceil() / 9,
    "remainders": lambda _, x: torch.remainder(x * 5, 1) + (x * 6) % -0.7 + torch.frac(x * 4),
    "rounded": lambda _, x: torch.round(x * 8) / 8 + torch.trunc(x * 4) + (x * 3 // 0.5) / 9,
    "rectified": lambda _, x: x * (x > 0) + (x != 0).float() * (x == 0),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network, picture = _Own(_WHAT[name]).eval(), smooth_picture(24, 28)
    graph = capture(network, 24, 28)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
    for runtime in Runtime:
        assert difference(graph, lower(graph, runtime)[0]) < 3e-6


class _Bits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0) * 1.0 + 2 * (x >= 0) + 4 * (x < 0) + 8 * (x <= 0)


@pytest.mark.parametrize("number", [1e-42, 1e-30, 1e-9, 2.0, 3e38])
def test_the_smallest_number_above_another_is_above_it(number: float) -> None:
    picture = np.array([-number, 0, number], np.float32).reshape(1, 1, 3, 1).repeat(3, 3)
    assert interpret(capture(_Bits(), 1, 3), picture)[0, 0, :, 0].tolist() == [12, 10, 3]


def _channels(x: Tensor) -> Tensor:
    return x.relu().amax(1, keepdim=True)


_INFINITE: dict[str, Callable[[Tensor], Tensor]] = {
    "logarithm": lambda x: torch.where(x > 0.1, x.log(), x - 2),
    "root": lambda x: torch.where(x >= 0, x.sqrt(), x.abs().add(1).rsqrt()),
    "power": lambda x: torch.where(x <= 0.003, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055),
    "quotient": lambda x: torch.where(_channels(x) > 0, x / _channels(x), torch.zeros_like(x)),
    "of a quotient": lambda x: torch.where(1 / x > 4, 4.0, 1 / x - 1),
    "exponential": lambda x: torch.where(x * 300 > 20, x * 300, (x * 300).exp().log1p()),
    "normed": lambda x: torch.where(x > 0, x * (x * x).mean(1, keepdim=True).rsqrt(), -x),
    "filled": lambda x: (2 / x).masked_fill(x == 0, 0.5),
    "by a mask": lambda x: torch.where(torch.arange(x.shape[3]) > 7, x, 1 / x.clamp(0.5)),
}


@pytest.mark.parametrize("name", _INFINITE)
def test_what_is_not_chosen_may_be_infinite(name: str) -> None:
    network, picture = Does(_INFINITE[name]), smooth_picture(16, 24)
    picture[:, :4, :4], picture[:, 4:8, :4] = 0, -0.5
    graph, wanted = capture(network, 16, 24), run_torch(network, picture)
    assert np.isfinite(wanted).all()
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        np.testing.assert_allclose(run(data, picture), wanted, rtol=2e-5, atol=2e-6)


def test_an_epsilon_under_a_norm_is_guard_enough() -> None:
    def normed(x: Tensor) -> Tensor:
        y = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6)
        return torch.where(x > 0, y, y / 2)

    kinds = capture(Does(normed), 8, 8).count()
    assert kinds["rsqrt"] == 1
    assert kinds["mul"] == 5


@pytest.mark.parametrize("by", [7, 41, -3, 0.25])
def test_whole_multiples_leave_nothing(by: float) -> None:
    picture = np.arange(-128, 128, dtype=np.float32).reshape(1, 8, 32, 1)
    network = Does(lambda x: torch.remainder(x, by) + x // by)
    graph, wanted = capture(network, 8, 32, 1), run_torch(network, picture)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        np.testing.assert_array_equal(run(data, picture), wanted)


def test_halves_are_rounded_to_what_is_even() -> None:
    picture = (np.arange(-64, 64) / 2).astype(np.float32).reshape(1, 8, 16, 1)
    network = Does(torch.round)
    graph, wanted = capture(network, 8, 16, 1), run_torch(network, picture)
    for runtime, run in ((Runtime.TFLITE, run_tflite), (Runtime.ONNX, run_onnx)):
        data = emit(lower(graph, runtime)[0], runtime, DType.FP32, {})
        np.testing.assert_array_equal(run(data, picture), wanted)


@pytest.mark.parametrize("name", ["exponential", "by a mask", "signs", "by tensors", "rectified"])
@pytest.mark.parametrize(("runtime", "dtype"), artifacts(LEAST_DB))
def test_choices_are_one_part_in_every_number_type_or_refused(
    runtime: Runtime, dtype: DType, name: str, shared: Share, odd_pictures: Pictures, tmp_path: Path
) -> None:
    network = shared(name, lambda: _Own(_WHAT[name]), odd_pictures)
    if dtype in INTEGER and name not in {"by a mask", "by tensors"}:
        with pytest.raises(ConversionFailed, match=r"computes in no integers.*int8"):
            network.draw(runtime, dtype, tmp_path)
        return
    least, whole = network.draw(runtime, dtype, tmp_path)
    assert least >= LEAST_DB[dtype]
    assert whole or dtype in INTEGER


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda _, x: x.masked_fill(x > 0, float("-inf")), "-1e4 is as good as -inf"),
        (lambda _, x: x[:, x.mean((0, 2, 3)) > 0], "takes places from a picture"),
        (lambda _, x: x + x.argmax(1, keepdim=True), "x == x.amax(dim, keepdim=True) marks"),
        (lambda _, x: x.round(decimals=2), "scale by 100 before"),
        (lambda _, x: x // 0, "divides by zero"),
        (lambda _, x: x + torch.fft.rfft2(x).real.mean(), "has a Fourier transform"),
        (
            lambda _, x: nn.functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1)),
            "samples at computed places",
        ),
    ],
)
def test_what_cannot_be_chosen_says_why(
    what: Callable[[_Own, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ConversionFailed) as caught:
        capture(_Own(what), 16, 24)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
