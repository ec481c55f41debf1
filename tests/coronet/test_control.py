"""The wanted compression is an input, and it is met."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.latents import LatentVectors
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.cost import Measure, macs, parameters
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture


@pytest.mark.parametrize("architecture", [Architecture.RESNET_9, Architecture.UNET_256])
@pytest.mark.parametrize("target", [0.5, 0.25, 0.1, 0.05])
@pytest.mark.parametrize("measure", Measure)
@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
def test_the_cut_lands_just_under_the_target(
    architecture: Architecture, target: float, measure: Measure, multiple: int
) -> None:
    torch.manual_seed(7)
    full = full_plan(architecture)
    latents = LatentVectors(full)
    before = {k: v.detach().abs().clone() for k, v in latents.vectors.items()}
    controller = Controller(full, target, 1, min_channels=4, multiple=multiple, measure=measure)
    plan = controller.cut(latents)
    cost = macs if measure is Measure.MACS else parameters
    assert target - 0.005 <= cost(plan) / cost(full) <= target
    assert all(n >= 4 and n % multiple == 0 for n in plan.groups.values())
    assert latents.living_plan() == plan
    for group, kept in plan.groups.items():
        alive = latents.keep(group)
        assert int(alive.sum()) == kept
        if kept < alive.numel():
            assert before[group][alive].min() >= before[group][~alive].max()


def test_the_proximal_step_is_the_soft_threshold() -> None:
    latents = LatentVectors(full_plan(Architecture.RESNET_6, width=8))
    with torch.no_grad():
        latents.vectors["stem"].copy_(torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.05, 0.1, 0.2, 0.9]))
        latents.vectors["output"].copy_(torch.tensor([0.01, 0.01, 0.01]))
    latents.proximal_step(0.1)
    expected = torch.tensor([-0.9, -0.2, 0.0, 0.0, 0.0, 0.0, 0.1, 0.8])
    assert torch.allclose(latents.vectors["stem"], expected, atol=1e-7)
    assert torch.equal(latents.vectors["output"], torch.full((3,), 0.01))
    # Four entries are left, the least that a group keeps: it is not shrunk further.
    latents.proximal_step(0.5)
    assert torch.allclose(latents.vectors["stem"], expected, atol=1e-7)
    assert latents.living_plan().groups["stem"] == 4


@pytest.mark.parametrize("multiple", [1, 8])
def test_the_search_follows_its_path_and_the_cut_lands(multiple: int) -> None:
    torch.manual_seed(8)
    full = full_plan(Architecture.UNET_256, width=64)
    latents = LatentVectors(full, min_channels=8)
    controller = Controller(full, 0.2, reach=40, min_channels=8, multiple=multiple)
    rng = torch.Generator().manual_seed(9)
    for step in range(50):
        with torch.no_grad():
            for vector in latents.vectors.values():
                vector.add_(torch.randn(vector.shape, generator=rng) * 0.003)
        latents.proximal_step(controller.shrinkage(latents, step))
        living = latents.living_plan()
        whole = {k: n // multiple * multiple for k, n in living.groups.items()}
        ratio = controller.ratio(replace(living, groups=whole))
        assert ratio <= controller.path(step)
        # At first there is little to gain by shrinking: noise alone unsettles whole multiples.
        if step > 5:
            assert ratio >= controller.path(step) - 0.02
    assert controller.path(40) == pytest.approx(0.21)
    assert controller.cut(latents) == latents.living_plan()
    assert 0.195 <= controller.ratio(latents.living_plan()) <= 0.2


def test_a_target_that_no_plan_can_reach_is_refused() -> None:
    full = full_plan(Architecture.RESNET_6, width=8)
    with pytest.raises(BadInput, match=r"target 0\.001 is not in"):
        Controller(full, 0.001, reach=1, min_channels=4)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [(Architecture.RESNET_9, 64), (Architecture.UNET_256, 64), (Architecture.RESNET_9, 32)],
)
@pytest.mark.parametrize("multiple", [1, 8, 16])
@pytest.mark.parametrize("target", [0.5, 0.25, 0.1])
def test_a_search_in_whole_multiples_is_cut_into_the_window(
    architecture: Architecture, width: int, multiple: int, target: float
) -> None:
    torch.manual_seed(10)
    full = full_plan(architecture, width=width)
    latents = LatentVectors(full, min_channels=max(multiple, 8))
    controller = Controller(full, target, reach=24, min_channels=8, multiple=multiple)
    rng = torch.Generator().manual_seed(11)
    for step in range(30):
        with torch.no_grad():
            for vector in latents.vectors.values():
                vector.add_(torch.randn(vector.shape, generator=rng) * 0.001)
        latents.proximal_step(controller.shrinkage(latents, step))
        controller.hold(latents)
    plan = controller.cut(latents)
    assert latents.living_plan() == plan
    assert controller.ratio(plan) <= target
    # A multiple of the cheapest groups is more than the window in the one narrow network.
    if width == 64 or multiple < 16:
        assert controller.ratio(plan) >= target - 0.005


def test_one_strong_step_leaves_the_least_channels_alive() -> None:
    full = full_plan(Architecture.RESNET_6, width=8)
    latents = LatentVectors(full)
    values = torch.tensor([0.9, -0.5, 0.02, -0.02, 0.02, 0.0, 0.0, 0.0])
    with torch.no_grad():
        latents.vectors["stem"].copy_(values)
    latents.proximal_step(0.1)
    assert latents.keep("stem").tolist() == [True] * 4 + [False] * 4
    after = latents.vectors["stem"].detach()
    assert torch.allclose(after[:2], torch.tensor([0.8, -0.4]))
    assert 0 < float(after[2]) < 0.02
    assert -0.02 < float(after[3]) < 0
    assert not after[4:].any()
    controller = Controller(full, 0.5, reach=0, min_channels=4)
    for group in full.groups:
        with torch.no_grad():
            latents.vectors[group][3:] *= 1e-3  # fewer than the least live
    plan = controller.cut(latents)
    assert latents.living_plan() == plan
    assert controller.ratio(plan) <= 0.5


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("target", [0.26, 0.3])
def test_few_wide_multiples_never_end_above_the_target(width: int, target: float) -> None:
    torch.manual_seed(12)
    full = full_plan(Architecture.RESNET_9, width=width)
    latents = LatentVectors(full, min_channels=width)
    # The stem's layers are of one multiple each, the others of two or four.
    controller = Controller(full, target, reach=0, min_channels=4, multiple=width)
    plan = controller.cut(latents)
    assert controller.ratio(plan) <= target
    assert latents.living_plan() == plan
