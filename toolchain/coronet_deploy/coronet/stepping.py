"""Steps of Adam on hypernetworks that hold one gradient a weight, and no longer than needed.

A weight is made of two numbers or more (`making`). Their gradients follow from the weight's, and
through Z from one another, even where a weight served several passes: Z and the numbers stay the
same from the forward passes to the step. So autograd, and a team that averages, see the weights'
gradients only; the others are computed where they are used, a few rows at a time, and go straight
into Adam's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import HyperConv
from coronet_deploy.coronet.making import chunks, gradients


def step_from_weights(
    generator: CoroNetGenerator, optimizer: torch.optim.Adam, *, early: bool
) -> None:
    """Let `optimizer.step` move all of `generator` although autograd sees its weights alone.

    With `early`, a layer takes its step as soon as its gradient is whole, in the backward pass,
    and drops it: by then, all that needed the old values has been computed. The latents move at
    `optimizer.step`, when every layer has given them its part.
    """
    for parameter in generator.parameters():
        # Moments made between a backward pass's gradients would leave holes in memory.
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    layers = [module for module in generator.modules() if isinstance(module, HyperConv)]
    derived = [*generator.latents.parameters()]
    for layer in layers:
        *others, carrier = layer.numbers()
        derived += layer.get_parameter("b0"), *others
        if early:
            _when_whole(carrier, partial(_step, layer, optimizer))

    for parameter in derived:
        parameter.requires_grad = False

    def move_what_is_left(*_: object) -> None:
        for layer in reversed(layers):  # as the backward pass comes by, so that sums are the same
            _step(layer, optimizer)

    optimizer.register_step_pre_hook(move_what_is_left)


def _when_whole(parameter: nn.Parameter, act: Callable[[], None]) -> None:
    """Act whenever the gradient of `parameter` is whole, in the backward pass."""
    parameter.register_post_accumulate_grad_hook(lambda _: act())  # type: ignore[no-untyped-call] # torch


@torch.no_grad()
def _step(layer: HyperConv, optimizer: torch.optim.Adam) -> None:
    """Move the numbers and B0 of `layer`, if it has a gradient, which is dropped."""
    numbers, b0, turned = layer.numbers(), layer.get_parameter("b0"), layer.geometry.turned
    carrier = numbers[-1]
    if carrier.grad is None:
        return
    grad, z = turned(carrier.grad), turned(layer.pairs())
    carrier.grad = None
    grad_z = torch.empty_like(z)
    for rows in chunks(grad):
        here = [turned(number)[rows] for number in numbers]
        grad_z[rows], *others = gradients(grad[rows], z[rows], here)
        _move(optimizer, numbers, [*others, grad[rows]], lambda t: turned(t)[rows])  # noqa: B023 - called at once
    grad_pairs = turned(grad_z)
    layer.pass_on(grad_pairs)  # while B0 and the latents are what Z was made of
    _move(optimizer, [b0], [grad_pairs], lambda tensor: tensor)
    for parameter in (*numbers, b0):
        optimizer.state[parameter]["step"] += 1


def _move(
    optimizer: torch.optim.Adam,
    parameters: Sequence[nn.Parameter],
    grads: list[Tensor],
    part: Callable[[Tensor], Tensor],
) -> None:
    """Take Adam's step on a part of `parameters`, the same of their moments; count no step."""
    settings = optimizer.param_groups[0]
    states = [optimizer.state[parameter] for parameter in parameters]
    beta1, beta2 = settings["betas"]
    adam(
        [part(parameter) for parameter in parameters],
        grads,
        [part(state["exp_avg"]) for state in states],
        [part(state["exp_avg_sq"]) for state in states],
        [],
        [state["step"].clone() for state in states],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        eps=settings["eps"],
        maximize=False,
    )
