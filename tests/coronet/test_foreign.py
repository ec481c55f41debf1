"""Generators of pytorch-CycleGAN-and-pix2pix are read by their own names and compute the same.

The reference networks below follow that project's structure, position by position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Kind, Norm
from foreign_networks import Wrapped, resnet, unet


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize(
    "name", ["resnet_6blocks", "resnet_9blocks", "resnet_9blocks dropout", "unet_128", "unet_256"]
)
def test_a_foreign_generator_computes_the_same(name: str, norm: Norm, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs: nn.Module
    if name.startswith("resnet"):
        theirs = resnet(int(name[7]), norm, 4, dropout="dropout" in name)
    else:
        theirs = unet({"unet_128": 7, "unet_256": 8}[name], norm, 4)
    for _ in range(3):  # so that BatchNorm's statistics are not their initial ones
        with torch.no_grad():
            theirs(torch.rand(2, 3, 256, 256) * 2 - 1)
    path = tmp_path / "latest_net_G.pth"
    torch.save(theirs.state_dict(), path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.kind is Kind.DENSE
    assert checkpoint.plan.architecture == name.split(maxsplit=1)[0]
    assert checkpoint.plan.norm is norm
    x = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(x), checkpoint.generator()(x), atol=1e-5)


def _compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network)  # type: ignore[return-value] # a Module, of a Module


def _compiled_inside(network: nn.Module) -> nn.Module:
    assert isinstance(network.model, nn.Module)
    return Wrapped(_compiled(network.model))


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        _compiled,
        lambda network: nn.DataParallel(_compiled(network)),
        lambda network: _compiled(nn.DataParallel(network)),
        _compiled_inside,
    ],
    ids=["parallel", "compiled", "both", "both turned", "inside"],
)
def test_names_of_what_was_wrapped_for_training_are_read(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    theirs = resnet(6, Norm.INSTANCE, 4, dropout=False)
    plain, wrapped = theirs.state_dict(), wrap(theirs).state_dict()
    assert not plain.keys() & wrapped.keys()
    found = []
    for tensors in (plain, wrapped):
        torch.save(tensors, tmp_path / "latest_net_G.pth")
        found.append(load_checkpoint(tmp_path / "latest_net_G.pth").generator().state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_two_tensors_of_one_name_are_not_one(tmp_path: Path) -> None:
    tensors = resnet(6, Norm.INSTANCE, 4, dropout=False).state_dict()
    torch.save(tensors | {"module.model.1.bias": torch.zeros(4)}, tmp_path / "net.pth")
    with pytest.raises(BadInput, match=r"'module\.model\.1\.bias' is not one of the generator's"):
        load_checkpoint(tmp_path / "net.pth")


def test_what_is_missing_and_left_over_is_listed(tmp_path: Path) -> None:
    tensors = resnet(6, Norm.BATCH, 4, dropout=False).state_dict()
    tensors["model.19.bias"] = torch.zeros(8)
    del tensors["model.5.running_mean"], tensors["model.5.running_var"]
    path = tmp_path / "net.pth"
    torch.save(tensors, path)
    with pytest.raises(BadInput, match=r"missing down_norm\.running_mean"):
        load_checkpoint(path)


@pytest.mark.parametrize("make", [partial(resnet, 6, dropout=False), partial(unet, 7)])
def test_a_generator_without_norms_is_named(make: Callable[..., nn.Module], tmp_path: Path) -> None:
    # What `--norm none` leaves: convolutions as with BatchNorm, without those layers.
    tensors = make(norm=Norm.BATCH, width=4).state_dict()
    norms = {key.rpartition(".")[0] for key in tensors if key.endswith(".running_mean")}
    path = tmp_path / "net.pth"
    torch.save({k: v for k, v in tensors.items() if k.rpartition(".")[0] not in norms}, path)
    with pytest.raises(BadInput, match="was trained without normalisation") as caught:
        load_checkpoint(path)
    assert "missing" not in str(caught.value)


def test_a_resnet_of_five_blocks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(resnet(5, Norm.INSTANCE, 4, dropout=False).state_dict(), path)
    with pytest.raises(BadInput, match="5 blocks, not of 6 or 9"):
        load_checkpoint(path)
