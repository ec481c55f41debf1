"""Frozen networks that say what is in a picture; their weights are given by path.

A distance takes its name from the network: SqueezeNet's are SqueezeNet-FD and SqueezeNet-KID,
and only Inception's (see `inception`) are FID and KID. Figures of different weights do not
compare, so a network knows the hash of its file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from coronet_deploy.errors import BadInput, missing_package
from coronet_deploy.images import Pixels, at_size
from coronet_deploy.memory import memory_told
from coronet_deploy.storage import existing_file, sha256_of
from coronet_deploy.verify.distances import Features

_SHOWN = 3  # names that an error lists


class FeatureNetwork(Protocol):
    """What turns a picture into `dimensions` numbers.

    `names` are those of the Fréchet and of the kernel distance over them.
    """

    path: Path
    sha256: str
    names: tuple[str, str]
    dimensions: int

    def features(self, pixels: Pixels) -> Features:
        """Return the (D,) float64 features of a picture of (H, W, 3) pixels, RGB."""
        ...


class SqueezeNet:
    """SqueezeNet 1.0 (Iandola et al., 2016) without its classifier, weights as its authors gave.

    A picture is resized bicubically to 227x227 and enters as B, G, R of 0 to 255, less 104, 117
    and 123. Its features are the 512 channels of the last fire module, averaged over places and
    brought to the length √512. At that length x.y / 512 is the cosine between two pictures, which
    is where the kernel (x.y / 512 + 1)³ tells most apart: plain averages give it products of some
    200, and a few strong channels then drown the rest. On photographs of facades, pictures that
    were blurred stood 22 spreads from the sharp ones, and 11 without.
    """

    names = ("SqueezeNet-FD", "SqueezeNet-KID")
    dimensions = 512
    _SIDE = 227
    _MEANS_BGR = (104.0, 117.0, 123.0)

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], device: str = "cpu") -> None:
        self.path, self.sha256, self._device = path, sha256_of(path), device
        self._network = _squeezenet_layers()
        # The classifier may be there or not: no feature passes through it.
        kept = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
        load_frozen(path, "SqueezeNet 1.0", self._network, kept)
        self._network.to(device)

    def features(self, pixels: Pixels) -> Features:
        """Return the (512,) float64 features of (H, W, 3) pixels, RGB."""
        from PIL import Image

        resized = at_size(Image.fromarray(pixels), self._SIDE, self._SIDE)
        bgr = resized[:, :, ::-1].astype(np.float32) - np.asarray(self._MEANS_BGR, np.float32)
        x = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None]
        with torch.inference_mode():
            maps: Tensor = self._network(x.to(self._device))
        means = maps.cpu().double().mean(dim=(2, 3))[0].numpy()
        length = np.linalg.norm(means)
        return means * (np.sqrt(self.dimensions) / length) if length else means


class _Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side to many; ReLU after each."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2 expanded, H, W) of (N, channels, H, W)."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def _squeezenet_layers() -> nn.Module:
    """Return SqueezeNet 1.0 up to its last fire module, its layers named as torchvision does."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    layers = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(),
        pool(),
        _Fire(96, 16, 64),
        _Fire(128, 16, 64),
        _Fire(128, 32, 128),
        pool(),
        _Fire(256, 32, 128),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        pool(),
        _Fire(512, 64, 256),
    )
    return nn.Sequential(OrderedDict(features=layers))


def read_squeezenet(path: Path, device: str = "cpu") -> SqueezeNet:
    """Return the SqueezeNet 1.0 whose weights stand in a safetensors file, on a torch device.

    Raises:
        BadInput: the file is missing, is not whole, or lacks or has other layers; names some.

    """
    return SqueezeNet(path, read_tensors(path), device)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of feature weights.

    Raises:
        BadInput: the file is missing or not whole.
        EnvironmentProblem: the package that reads it is not installed.

    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "safetensors", "torch") from error
    existing_file(path, "feature network")
    try:
        with memory_told(f"read {path}"):
            return load_file(path)
    except (OSError, RuntimeError) as error:  # the system's, by the reader's libraries
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error


def load_frozen(path: Path, what: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load `tensors` into `module` as float32, and set it to eval without gradients.

    Raises:
        BadInput: a name is missing or left over, a shape is another, a number is not finite.

    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        raise BadInput(
            f"{path} is not a {what}: missing {_some(missing)}, left over {_some(extra)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise BadInput(
                f"{path} is not a {what}: tensor {name!r} is {list(tensor.shape)}, "
                f"not {list(expected[name].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: tensor {name!r} holds numbers that are not finite")
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    module.eval().requires_grad_(requires_grad=False)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing"
