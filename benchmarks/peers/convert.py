"""Prepare one network for the peers: run in the environment that holds litert-torch.

    python convert.py PLAN.json FOLDER [--litert-torch]

PLAN.json is a channel plan. Into FOLDER go `plain.onnx`, torch's own export; `traced.pt`, for
pnnx; and with the flag `least.tflite`, by litert-torch with the least change that it converts:
transposed convolutions with an output padding make a larger picture, which is cropped. The
weights are those that `weights.pt` in FOLDER holds.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.networks.generator import build_generator
from coronet_deploy.vocabulary import ChannelPlan

_SIZE = 256


class Cropped(nn.Module):
    """A transposed convolution with padding as one without, cropped."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.y, self.x = int(layer.padding[0]), int(layer.padding[1])
        self.grow_y, self.grow_x = layer.output_padding
        self.layer = layer
        self.layer.padding = self.layer.output_padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture of the layer as it was."""
        whole = self.layer(x)
        bottom, right = self.y - self.grow_y, self.x - self.grow_x
        whole = F.pad(whole, (0, max(-right, 0), 0, max(-bottom, 0)))
        height, width = whole.shape[2] - max(bottom, 0), whole.shape[3] - max(right, 0)
        return whole[:, :, self.y : height, self.x : width]


def crop_transposed(module: nn.Module) -> None:
    """Replace, inside `module`, the transposed convolutions that litert-torch cannot convert."""
    for name, child in module.named_children():
        if isinstance(child, nn.ConvTranspose2d) and any(child.output_padding):
            setattr(module, name, Cropped(child))
        else:
            crop_transposed(child)


def main() -> None:
    """Parse the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--litert-torch", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    generator = build_generator(ChannelPlan.from_json(json.loads(args.plan.read_text()))).eval()
    generator.load_state_dict(torch.load(args.folder / "weights.pt", weights_only=True))
    picture = torch.zeros(1, 3, _SIZE, _SIZE)
    if args.litert_torch:
        import litert_torch

        crop_transposed(generator)
        nhwc = litert_torch.to_channel_last_io(generator, args=[0], outputs=[0]).eval()
        least = litert_torch.convert(nhwc, (picture.permute(0, 2, 3, 1).contiguous(),))
        least.export(str(args.folder / "least.tflite"))
        return
    traced = torch.jit.trace(generator, picture)  # type: ignore[no-untyped-call] # torch's own gap
    traced.save(str(args.folder / "traced.pt"))
    plain = args.folder / "plain.onnx"
    torch.onnx.export(
        generator,
        (picture,),
        str(plain),
        input_names=["input"],
        output_names=["output"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    main()
