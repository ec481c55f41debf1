"""Weights made on the spot: the written-out gradients, steps during the backward pass, layout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coronet_deploy.coronet.generator import CoroNetGenerator, slice_dead
from coronet_deploy.coronet.hypernetwork import Form, HyperConv
from coronet_deploy.coronet.making import Dead, Geometry, MadeConvolution
from coronet_deploy.coronet.stepping import step_from_weights
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture


def numbers_of(form: Form, n: int, c: int, kernel: int) -> list[Tensor]:
    area, embedding = kernel * kernel, 2
    shapes = [(n, c, area)] * 2
    if form is Form.PUBLISHED:
        shapes = [(n, c, embedding)] * 2 + [(n, c, area, embedding), (n, c, area)]  # type: ignore[list-item] # of any length
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def plain(
    alive: list[Tensor], g: Geometry, x: Tensor, bias: Tensor, z: Tensor, *numbers: Tensor
) -> Tensor:
    """The same convolution as autograd would do it."""
    if len(numbers) == 2:
        weight = numbers[0] * z[..., None] + numbers[1]
    else:
        w1, b1, w2, b2 = numbers
        weight = torch.einsum("ncam,ncm->nca", w2, w1 * z[..., None] + b1) + b2
    weight = weight * alive[0][:, None, None] * alive[1][None, :, None]
    weight = weight.view(*z.shape, g.kernel, g.kernel)
    if g.transposed:
        return F.conv_transpose2d(x, weight, bias, g.stride, g.padding, g.output_padding)
    return F.conv2d(x, weight.transpose(0, 1), bias, g.stride, g.padding)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("masked", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_gradients_are_those_of_autograd(form: Form, transposed: bool, masked: bool) -> None:
    torch.manual_seed(1)
    n, c = 5, 4
    geometry = Geometry(3, 2, 1, transposed, int(transposed))
    alive = [torch.arange(n) != 3, torch.arange(c) != 0]
    rows, columns = alive if transposed else alive[::-1]
    dead = Dead.but(rows, columns)
    if masked:
        dead = Dead(alive=(rows[:, None] & columns)[:, :, None])
    tensors = [
        torch.randn(2, n, 6, 6, dtype=torch.float64),
        torch.randn(c, dtype=torch.float64),
        torch.randn(n, c, dtype=torch.float64),
    ]
    numbers = [geometry.laid_out(t) for t in numbers_of(form, n, c, 3)]
    results = []
    for made_by_hand in (True, False):
        leaves = [t.detach().clone().requires_grad_() for t in (*tensors, *numbers)]
        if made_by_hand:
            y = MadeConvolution.apply(*leaves[:3], dead, geometry, *leaves[3:])  # type: ignore[no-untyped-call] # torch's own
        else:
            y = plain(alive, geometry, *leaves)
        (y.sin() * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        results.append([y, *(leaf.grad for leaf in leaves)])
    for made, expected in zip(*results, strict=True):
        assert made is not None
        assert expected is not None
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
    for gradient, axis, living in (
        (results[0][-1], 0, alive[0]),
        (results[0][-1], 1, alive[1]),
    ):
        assert gradient is not None
        assert not gradient.index_select(axis, (~living).nonzero().flatten()).any()


@pytest.mark.parametrize("form", Form)
def test_steps_from_the_weights_gradients_are_the_ordinary_ones(form: Form) -> None:
    torch.manual_seed(2)
    plan = full_plan(Architecture.UNET_128, width=4)
    first = CoroNetGenerator(plan, form=form, dropout=0.0).double()
    x = torch.rand(2, 3, 128, 128, dtype=torch.float64) * 2 - 1
    results = []
    for early in (None, False, True):
        generator = copy.deepcopy(first)
        optimizer = torch.optim.Adam(generator.parameters(), 1e-3, fused=True)
        if early is not None:
            step_from_weights(generator, optimizer, early=early)
        layers = [m for m in generator.modules() if isinstance(m, HyperConv)]
        for i in range(4):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 1e-3 / (i + 1)
            # Twice through the same weights, as CycleGAN goes.
            y = generator(generator(x))
            (y - x.flip(3)).abs().mean().backward()
            kept = [layer.numbers()[-1].grad is not None for layer in layers]
            assert set(kept) == {not early}
            optimizer.step()
            if i == 1:  # what a resumed training does
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert {float(state["step"]) for state in optimizer.state.values()} == {4.0}
        results.append(generator.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=1e-9, msg=name)
        assert torch.equal(results[2][name], results[1][name]), name
    moved = results[0]["network.downs.0.b0"] - first.state_dict()["network.downs.0.b0"]
    assert float(moved.abs().max()) > 1e-3


def test_slicing_keeps_how_numbers_and_moments_lie_in_memory() -> None:
    torch.manual_seed(3)
    generator = CoroNetGenerator(full_plan(Architecture.RESNET_6, width=8), form=Form.COLLAPSED)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    generator(torch.rand(1, 3, 32, 32)).mean().backward()
    optimizer.step()
    for group in generator.plan.groups:
        generator.latents.kill(group, torch.tensor([0, 2]))
    slice_dead(generator, optimizer)
    for layer in generator.modules():
        if isinstance(layer, HyperConv):
            for name in ("b0", "a", "c"):
                number = layer.get_parameter(name)
                moments = optimizer.state[number]
                for tensor in (number, moments["exp_avg"], moments["exp_avg_sq"]):
                    assert layer.geometry.turned(tensor).is_contiguous()
