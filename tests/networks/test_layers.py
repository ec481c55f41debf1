"""What layers do to memory and number types where a training's machine table asks for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coronet_deploy.networks.layers import InstanceNorm, mirrored

LAST = torch.channels_last


@pytest.mark.parametrize("behind", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("before", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("pictures", [1, 3])
def test_a_norm_learns_alike_in_every_layout(
    pictures: int, before: torch.memory_format, behind: torch.memory_format
) -> None:
    torch.manual_seed(1)
    x = torch.randn(pictures, 5, 9, 7, dtype=torch.float64).to(memory_format=before)
    weights = torch.randn(pictures, 5, 9, 7, dtype=torch.float64).to(memory_format=behind)
    x.requires_grad_()
    drawn = InstanceNorm(5)(x)
    assert drawn.is_contiguous(memory_format=before)
    centred = x - x.mean((2, 3), keepdim=True)
    expected = centred / torch.sqrt(centred.square().mean((2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-12)
    learned = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (drawn, expected)]
    torch.testing.assert_close(*learned, rtol=0, atol=1e-12)


def test_a_picture_alone_is_normed_as_torch_does() -> None:
    x = torch.randn(1, 5, 9, 7)
    assert torch.equal(InstanceNorm(5)(x), nn.InstanceNorm2d(5)(x))


def test_a_norm_that_does_not_learn_is_torchs_own() -> None:
    x = torch.randn(1, 5, 9, 7).to(memory_format=LAST)
    drawn = InstanceNorm(5).eval()(x)
    assert torch.equal(drawn, nn.InstanceNorm2d(5)(x))
    program = torch.export.export(InstanceNorm(5).eval(), (x,))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.instance_norm.default
    ]


def test_a_mirrored_border_keeps_the_number_type() -> None:
    x = torch.randn(1, 5, 9, 7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = mirrored(x, 2)
    assert drawn.dtype is torch.bfloat16
    assert torch.equal(drawn, F.pad(x, (2, 2, 2, 2), "reflect"))
