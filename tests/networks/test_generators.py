"""The dense networks are the published ones, and any plan makes one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from coronet_deploy.errors import BadInput
from coronet_deploy.networks.cost import macs, parameters
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.networks.patchgan import PatchGAN
from coronet_deploy.vocabulary import Architecture, ChannelPlan, Norm


@pytest.mark.parametrize(
    ("architecture", "millions", "giga", "giga_published"),
    [
        (Architecture.RESNET_9, 11.378, 49.55, 56.80),
        (Architecture.UNET_256, 54.41, 6.05, 18.14),
    ],
)
def test_full_width_costs_what_was_published(
    architecture: Architecture, millions: float, giga: float, giga_published: float
) -> None:
    plan = full_plan(architecture)
    assert parameters(plan) / 1e6 == pytest.approx(millions, abs=0.005)
    assert macs(plan) / 1e9 == pytest.approx(giga, abs=0.005)
    assert macs(plan, published=True) / 1e9 == pytest.approx(giga_published, abs=0.005)


@pytest.mark.parametrize("architecture", Architecture)
@pytest.mark.parametrize("norm", Norm)
def test_multiply_adds_are_what_the_layers_do(architecture: Architecture, norm: Norm) -> None:
    plan = full_plan(architecture, norm, width=4)
    plan = replace(plan, groups={k: n - i % 3 for i, (k, n) in enumerate(plan.groups.items())})
    generator, counted = build_generator(plan).eval(), 0

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal counted
        pixels = (inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output).shape[2:]
        counted += layer.get_parameter("weight").numel() * pixels.numel()

    for layer in generator.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        y = generator(torch.zeros(1, 3, 256, 256))
    assert y.shape == (1, 3, 256, 256)
    assert macs(plan) == counted


def test_what_a_plan_costs_is_known_without_torchs_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from coronet_deploy.networks.cost import macs, parameters\n"
        "from coronet_deploy.networks.generator import full_plan\n"
        "from coronet_deploy.vocabulary import Architecture, Norm\n"
        "drawn = torch.get_rng_state()\n"
        "for architecture in Architecture:\n"
        "    plan = full_plan(architecture, Norm.BATCH)\n"
        "    assert macs(plan) and parameters(plan)\n"
        "assert torch.equal(torch.get_rng_state(), drawn)\n"
        "print(sorted({'sympy', 'torch._dynamo'} & sys.modules.keys()))\n"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_pictures_of_other_sizes_keep_their_size() -> None:
    resnet = build_generator(full_plan(Architecture.RESNET_6, width=4)).eval()
    with torch.no_grad():
        assert resnet(torch.zeros(1, 3, 68, 100)).shape == (1, 3, 68, 100)


def test_each_patchgan_logit_sees_70_pixels() -> None:
    judge = PatchGAN(6, Norm.INSTANCE, width=8).double().eval()
    x = torch.randn(1, 6, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = judge.model[:-1](x)
    assert judge(x).shape == (1, 1, 30, 30)
    # Convolutions alone, without norms that look at the whole picture.
    convolutions = torch.nn.Sequential(
        *(m for m in judge.model if not isinstance(m, torch.nn.InstanceNorm2d))
    )
    convolutions(x)[0, 0, 15, 15].backward()
    assert logits.shape[2:] == (31, 31)
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_a_plan_of_other_groups_is_refused_by_name() -> None:
    plan = full_plan(Architecture.RESNET_6, width=4)
    groups = {k: n for k, n in plan.groups.items() if k != "block3"} | {"block12": 16}
    with pytest.raises(BadInput, match=r"missing \['block3'\], left over \['block12'\]"):
        build_generator(replace(plan, groups=groups))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": {"stem": 0}}, "'stem' has 0 channels"),
        ({"groups": {"stem": 2.5}}, "'stem' is not a whole number"),
        ({"architecture": "resnet_7blocks"}, "resnet_7blocks"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_plan_in_json_is_checked_key_by_key(change: dict[str, object], said: str) -> None:
    value = full_plan(Architecture.RESNET_6).as_json() | change
    with pytest.raises(BadInput, match=said):
        ChannelPlan.from_json(value)


def test_a_plan_survives_json() -> None:
    plan = full_plan(Architecture.UNET_128, Norm.INSTANCE, width=8)
    assert ChannelPlan.from_json(plan.as_json()) == plan
