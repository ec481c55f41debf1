"""Generators from a `ChannelPlan`, and the plan of an unpruned one."""

from __future__ import annotations

from torch import nn

from coronet_deploy.errors import BadInput
from coronet_deploy.networks.layers import DenseLayers, Layers
from coronet_deploy.networks.resnet import ResNetGenerator, resnet_groups
from coronet_deploy.networks.unet import UNetGenerator, unet_groups
from coronet_deploy.vocabulary import Architecture, ChannelPlan, Norm


def full_plan(architecture: Architecture, norm: Norm | None = None, width: int = 64) -> ChannelPlan:
    """Return the plan of the unpruned generator whose first layer has `width` channels.

    Without `norm` it is the one its papers use: instance for ResNet, batch for U-Net.
    """
    if architecture.is_resnet:
        groups = resnet_groups(architecture.blocks, width)
        return ChannelPlan(architecture, norm or Norm.INSTANCE, groups)
    return ChannelPlan(architecture, norm or Norm.BATCH, unet_groups(architecture.downs, width))


def build_generator(
    plan: ChannelPlan, layers: Layers | None = None, dropout: float = 0.5
) -> nn.Module:
    """Return the generator of `plan`, of plain layers unless `layers` makes others.

    It maps (N, 3, H, W) in [-1, 1] to the same. `dropout` acts while training.

    Raises:
        BadInput: the plan's groups are not those of its architecture.

    """
    expected = full_plan(plan.architecture, plan.norm).groups
    if list(plan.groups) != list(expected):
        missing = [name for name in expected if name not in plan.groups]
        extra = [name for name in plan.groups if name not in expected]
        raise BadInput(
            f"channel plan of {plan.architecture}: groups missing {missing}, left over {extra}"
            if missing or extra
            else f"channel plan of {plan.architecture}: groups are out of order"
        )
    layers = layers or DenseLayers(plan)
    if plan.architecture.is_resnet:
        return ResNetGenerator(plan, layers, dropout)
    return UNetGenerator(plan, layers, dropout)


def size_multiple(architecture: Architecture) -> int:
    """Return what the height and width of this generator's pictures must be a multiple of."""
    return 4 if architecture.is_resnet else 2**architecture.downs


def least_side(architecture: Architecture) -> int:
    """Return the least height and width of this generator's pictures.

    A ResNet's blocks mirror the borders of a quarter of the picture, which takes two pixels.
    """
    return (2 if architecture.is_resnet else 1) * size_multiple(architecture)
