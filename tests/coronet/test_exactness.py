"""The searched network is the shipped one: masking, slicing and materializing change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coronet_deploy.coronet.generator import CoroNetGenerator, slice_dead
from coronet_deploy.coronet.hypernetwork import Form, HyperConv
from coronet_deploy.coronet.latents import LatentVectors
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture, Norm

SIZES = {Architecture.RESNET_6: 64, Architecture.UNET_128: 128}


def trained(
    architecture: Architecture, norm: Norm, form: Form, width: int, seed: int
) -> CoroNetGenerator:
    """Return a generator after two steps, so that statistics and biases are not their initial."""
    torch.manual_seed(seed)
    plan = full_plan(architecture, norm, width)
    generator = CoroNetGenerator(plan, form=form, min_channels=1)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    size = SIZES.get(architecture, 256)
    for _ in range(2):
        x = torch.rand(1, 3, size, size) * 2 - 1
        optimizer.zero_grad()
        (generator(x) - x.flip(3)).abs().mean().backward()
        optimizer.step()
    return generator.eval()


def kill(generator: CoroNetGenerator, shares: dict[str, float], seed: int) -> None:
    """Kill a share of every group's channels at random, down to one left."""
    rng = np.random.default_rng(seed)
    for group, share in shares.items():
        count = generator.latents.vectors[group].numel()
        dead = rng.permutation(count)[: min(int(share * count), count - 1)]
        generator.latents.kill(group, torch.from_numpy(dead))


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("architecture", [Architecture.RESNET_9, Architecture.UNET_256])
def test_dense_and_masked_agree_on_real_pictures(
    architecture: Architecture, form: Form, pictures: Callable[[int], Array]
) -> None:
    generator = trained(architecture, full_plan(architecture).norm, form, 8, seed=1)
    kill(generator, dict.fromkeys(generator.plan.groups, 0.6), seed=2)
    x = torch.from_numpy(pictures(256))
    with torch.no_grad():
        dense = materialize(generator)
        assert float((generator(x) - dense(x)).abs().max()) <= 1e-4
        exact = generator.double()
        difference = (exact(x.double()) - materialize(exact)(x.double())).abs().max()
    assert float(difference) <= 1e-9
    assert sum(p.numel() for p in dense.parameters()) < 0.3 * sum(
        p.numel()
        for p in materialize(
            trained(architecture, full_plan(architecture).norm, form, 8, 1)
        ).parameters()
    )


@settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_masks_down_to_one_channel_materialize_exactly(data: st.DataObject) -> None:
    architecture = data.draw(st.sampled_from(list(SIZES)))
    norm = data.draw(st.sampled_from(list(Norm)))
    form = data.draw(st.sampled_from(list(Form)))
    seed = data.draw(st.integers(0, 1000))
    generator = trained(architecture, norm, form, 4, seed).double()
    shares = {
        group: data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])) for group in generator.plan.groups
    }
    kill(generator, shares, seed)
    x = torch.rand(1, 3, SIZES[architecture], SIZES[architecture], dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        masked = generator(x)
        dense = materialize(generator)
        assert float((masked - dense(x)).abs().max()) <= 1e-9
        living = generator.latents.living_plan()
        assert slice_dead(generator) == living == generator.plan
        assert float((masked - generator(x)).abs().max()) <= 1e-9
        assert float((masked - materialize(generator)(x)).abs().max()) <= 1e-9


@pytest.mark.parametrize("architecture", list(SIZES))
def test_training_goes_on_after_slicing_as_if_nothing_had_happened(
    architecture: Architecture,
) -> None:
    """Masked and sliced take the same optimiser steps: gradients and moments are the living's."""
    runs = []
    for cut in (False, True):
        torch.manual_seed(3)
        plan = full_plan(architecture, width=4)
        generator = CoroNetGenerator(plan, form=Form.COLLAPSED, min_channels=1, dropout=0.0)
        generator.double()
        optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
        x = torch.rand(1, 3, SIZES[architecture], SIZES[architecture]).double() * 2 - 1
        for step in range(6):
            optimizer.zero_grad()
            (generator(x) - x.flip(3)).square().mean().backward()
            optimizer.step()
            if step == 2:
                kill(generator, dict.fromkeys(plan.groups, 0.5), seed=4)
                if cut:
                    slice_dead(generator, optimizer)
            elif step > 2 and not cut:
                # Masked channels get no gradient, but their old moments still move them.
                kill(generator, dict.fromkeys(plan.groups, 0.5), seed=4)
        generator.eval()
        with torch.no_grad():
            runs.append((generator(x), sum(p.numel() for p in generator.parameters())))
    (masked, held), (sliced, left) = runs
    assert float((masked - sliced).abs().max()) <= 1e-9
    assert left < 0.5 * held


def test_a_pass_looks_once_at_each_group_and_the_next_one_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = trained(Architecture.UNET_128, Norm.BATCH, Form.COLLAPSED, 4, seed=5)
    latents, looked = generator.latents, list[str]()
    real = LatentVectors._living

    def counted(self: LatentVectors, group: str) -> torch.Tensor:
        looked.append(group)
        return real(self, group)

    monkeypatch.setattr(LatentVectors, "_living", counted)
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        before = generator(x)
        assert sorted(looked) == sorted(latents.vectors)
        latents.kill("down2", torch.arange(4))  # as proximal steps do between two passes
        after = generator(x)
        assert not latents.keep("down2")[:4].any()
        assert not torch.equal(after, before)
        assert float((after - materialize(generator)(x)).abs().max()) <= 1e-6
        with pytest.raises(RuntimeError):
            generator(x[:, :2])
        latents.kill("down3", torch.arange(4))
        assert not latents.keep("down3")[:4].any()


def test_hypernetwork_forms_are_algebraically_equal() -> None:
    torch.manual_seed(5)
    plan = full_plan(Architecture.UNET_128, width=4)
    published = CoroNetGenerator(plan, form=Form.PUBLISHED).double()
    collapsed = CoroNetGenerator(plan, form=Form.COLLAPSED).double()
    collapsed.load_state_dict(published.state_dict(), strict=False)
    twins = dict(published.network.named_modules())
    layers = collapsed.network.named_modules()
    hypernetworks = {name: layer for name, layer in layers if isinstance(layer, HyperConv)}
    # U-Net 128 halves seven times, each time with a convolution down and one up.
    assert len(hypernetworks) == 2 * 7
    with torch.no_grad():
        for name, layer in hypernetworks.items():
            twin = twins[name]
            assert isinstance(twin, HyperConv)
            w1, w2, b0, b1, b2 = map(twin.get_parameter, ("w1", "w2", "b0", "b1", "b2"))
            b1.normal_(), b2.normal_(), b0.normal_()
            layer.get_parameter("b0").copy_(b0)
            layer.get_parameter("a").copy_(torch.einsum("ncam,ncm->nca", w2, w1))
            layer.get_parameter("c").copy_(torch.einsum("ncam,ncm->nca", w2, b1) + b2)
            assert float(layer.masked_weight().abs().max()) > 1e-3
            difference = (layer.masked_weight() - twin.masked_weight()).abs().max()
            assert float(difference) <= 1e-12


def test_weights_start_with_the_variance_of_fan_in() -> None:
    torch.manual_seed(6)
    generator = CoroNetGenerator(full_plan(Architecture.RESNET_6, width=32))
    layer = generator.network.get_submodule("blocks.0.conv1")
    latents = generator.latents.vectors
    with torch.no_grad():
        weight = layer.masked_weight()  # type: ignore[operator] # a HyperConv
        # N(0, 1) latents have unit power on average; these few have theirs.
        power = latents["stream"].square().mean() * latents["block1"].square().mean()
    fan_in = weight.shape[1] * 9
    assert float(weight.var() / power) * fan_in == pytest.approx(1.0, rel=0.03)
