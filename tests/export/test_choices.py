"""Numbers compared and chosen: masks, where, signs, clamps by tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.errors import ConversionFailed
from coronet_deploy.export.build import emit
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.passes import lower
from coronet_deploy.export.passes.plain_choices import PlainChoices
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
    "of one channel": lambda _, x: (
        x + torch.where(x.mean(1, keepdim=True) > 0, 1.0, torch.zeros_like(x))
    ),
    "shrunk": lambda _, x: F.softshrink(x, 0.2) + F.threshold(x, 0.1, 0.1) - F.softshrink(x, 0),
    "cut off": lambda _, x: F.hardshrink(x, 0.3) + F.threshold(x, -0.1, 0.7) + F.hardshrink(3 * x),
    "rectified": lambda _, x: x * (x > 0) + (x != 0).float() * (x == 0),
}


@pytest.mark.parametrize("name", _WHAT)
def test_the_graph_draws_what_the_network_draws(name: str) -> None:
    network, picture = _Own(_WHAT[name]).eval(), smooth_picture(24, 28)
    graph = capture(network, 24, 28)
    assert np.abs(interpret(graph, picture) - run_torch(network, picture)).max() < 3e-6
    for runtime in Runtime:
        assert difference(graph, lower(graph, runtime)[0]) < 3e-6


_NATIVE = {
    "exponential": {"Greater", "Where"},
    "within": {"GreaterOrEqual", "Greater", "And", "Or", "Not", "Where"},
    "of two": {"Greater", "Where"},
    "signs": {"Sign", "Abs"},
    "in steps": {"Floor", "Ceil"},
    "rectified": {"Greater", "Equal", "Not"},
    "cut off": {"Greater", "Abs", "Where"},
}


def _kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize("name", _NATIVE)
def test_an_onnx_file_compares_and_chooses_itself(name: str) -> None:
    network, picture = _Own(_WHAT[name]).eval(), smooth_picture(24, 28)
    graph, _ = lower(capture(network, 24, 28), Runtime.ONNX)
    data = emit(graph, Runtime.ONNX, DType.FP32, {})
    kinds = set(_kinds(data))
    assert kinds >= _NATIVE[name]
    assert "in steps" in name or not {"Ceil", "Min", "Max"} & kinds
    assert np.abs(run_onnx(data, picture) - run_torch(network, picture)).max() < 3e-6


def test_an_onnx_file_multiplies_by_learnt_masks() -> None:
    graph, _ = lower(capture(_Own(_WHAT["by a mask"]), 24, 28), Runtime.ONNX)
    assert not {"Where", "Cast"}.intersection(_kinds(emit(graph, Runtime.ONNX, DType.FP32, {})))


def test_what_is_no_number_compares_as_in_torch() -> None:
    def told(x: Tensor) -> Tensor:
        y = x / x
        truths = y > 0, y >= 0, y < 0, y <= 0, y == y, y != y, ~(y > 0)  # noqa: PLR0124 - no number
        return torch.cat([truth.float() for truth in truths], 1)

    picture = np.array([0, 0.5, -0.5], np.float32).reshape(1, 1, 3, 1)
    network = Does(told)
    graph, _ = lower(capture(network, 1, 3, 1), Runtime.ONNX)
    drawn = run_onnx(emit(graph, Runtime.ONNX, DType.FP32, {}), picture)
    np.testing.assert_array_equal(drawn, run_torch(network, picture))


class _Attending(nn.Module):
    """Lets places attend to those alone that are like them."""

    def __init__(self, *, chosen: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 24, 1), nn.Conv2d(8, 3, 1)
        self.chosen = chosen

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.first(x).reshape(1, 3, 2, 4, -1).transpose(3, 4).unbind(1)
        scores = q @ k.transpose(2, 3)
        if self.chosen:
            unlike = (scores < 0.1) & ~(scores < -0.5)
            scores = scores.masked_fill(unlike, -1e4) + 0.1 * unlike
        values = (scores.softmax(3) @ v).transpose(2, 3)
        drawn: Tensor = self.last(values.reshape(1, 8, *x.shape[2:]))
        return drawn


def test_attention_chooses_where_its_shares_lie() -> None:
    picture, turned = smooth_picture(6, 8), []
    for chosen in (False, True):
        torch.manual_seed(0)
        network = _Attending(chosen=chosen).eval()
        graph, _ = lower(capture(network, 6, 8), Runtime.ONNX)
        data = emit(graph, Runtime.ONNX, DType.FP32, {})
        assert np.abs(run_onnx(data, picture) - run_torch(network, picture)).max() < 2e-6
        assert ("Where" in _kinds(data)) is chosen
        turned.append(_kinds(data).count("Transpose"))
    assert turned[1] == turned[0]


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

    kinds = PlainChoices().run(capture(Does(normed), 8, 8)).count()
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


@pytest.mark.parametrize(
    "name", ["exponential", "by a mask", "signs", "by tensors", "rectified", "shrunk"]
)
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
        (lambda _, x: x + torch.fft.rfft2(x).angle().mean(), "takes complex numbers"),
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
