"""Generators of pytorch-CycleGAN-and-pix2pix are read by their own names and compute the same.

The reference networks below follow that project's structure, position by position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Kind, Norm


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm is Norm.BATCH else nn.InstanceNorm2d(channels)


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return] # a Tensor


class Block(nn.Module):
    def __init__(self, channels: int, norm: Norm, *, dropout: bool) -> None:
        super().__init__()
        bias = norm is Norm.INSTANCE
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if dropout else []),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=bias),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)  # type: ignore[no-any-return] # a Tensor


def resnet(blocks: int, norm: Norm, width: int, *, dropout: bool) -> nn.Module:
    bias, w = norm is Norm.INSTANCE, width
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7, bias=bias), norm_layer(norm, w), nn.ReLU(),
    ]  # fmt: skip
    for a, b in ((w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=bias), norm_layer(norm, b), nn.ReLU()]
    layers += [Block(4 * w, norm, dropout=dropout) for _ in range(blocks)]
    for a, b in ((4 * w, 2 * w), (2 * w, w)):
        layers += [
            nn.ConvTranspose2d(a, b, 3, 2, 1, 1, bias=bias), norm_layer(norm, b), nn.ReLU(),
        ]  # fmt: skip
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
    return Wrapped(nn.Sequential(*layers))


class Skip(nn.Module):
    def __init__(
        self, outer: int, inner: int, norm: Norm, sub: nn.Module | None, *, outermost: bool = False
    ) -> None:
        super().__init__()
        self.outermost = outermost
        bias = norm is Norm.INSTANCE
        down = nn.Conv2d(3 if outermost else outer, inner, 4, 2, 1, bias=bias)
        joined = inner if sub is None else 2 * inner
        up = nn.ConvTranspose2d(joined, outer, 4, 2, 1, bias=bias or outermost)
        if outermost:
            layers = [down, sub, nn.ReLU(), up, nn.Tanh()]
        elif sub is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(norm, outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2), down, norm_layer(norm, inner), sub, nn.ReLU(), up,
                norm_layer(norm, outer),
            ]  # fmt: skip
        self.model = nn.Sequential(*layers)  # type: ignore[arg-type] # sub is given when outermost

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


def unet(downs: int, norm: Norm, width: int) -> nn.Module:
    block: nn.Module = Skip(8 * width, 8 * width, norm, None)
    for _ in range(downs - 5):
        block = Skip(8 * width, 8 * width, norm, block)
    for k in (4, 2, 1):
        block = Skip(k * width, 2 * k * width, norm, block)
    return Wrapped(Skip(3, width, norm, block, outermost=True))


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
