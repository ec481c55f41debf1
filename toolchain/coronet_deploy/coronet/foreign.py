"""Generators of pytorch-CycleGAN-and-pix2pix (`latest_net_G*.pth`), renamed to ours.

That project nests its layers by position: a ResNet is one `nn.Sequential`, a U-Net a block inside
a block. The names below follow its `models/networks.py`. Files are read as tensors only.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import MOST_CHANNELS, Architecture, ChannelPlan, Norm

PARALLEL = "module."
"""What DataParallel puts before the names of its network's tensors."""

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of what it compiles: of a network, or of a part."""

_RESNET_FIXED = {1: "stem", 2: "stem_norm", 4: "down", 5: "down_norm", 7: "enter", 8: "enter_norm"}
_FIRST_BLOCK = 10
_OF_THE_LAST = {"tail.bias", "ups.0.bias"}  # which a generator without norms has alone
_OF_A_STATE = {"recipe", "step", "rows", "game"}
_ALONE = "save the generator's state_dict() alone"
_POINTER = b"version https://git-lfs"
_BARE = b"\x80"
_PICKLED = (b"PK", _BARE)  # how a torch file begins: a zip archive, or a bare pickle
# A zip archive, or torch's old magic number; the length that safetensors begin with is never that.
_TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\n")
_MOST_PACKED = 10  # parts by the bytes of their archive
_CHUNK = 1 << 20
_PICKLES = 5  # of an old torch file: what it is, three times, the objects, and where they are
# What torch's readers let through when bytes are cut off or changed, beside their own errors.
_BROKEN = (
    RuntimeError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    EOFError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


def is_torch_file(path: Path) -> bool:
    """Return whether a file is one that torch saved, whatever its name: `.ckpt`, `.pth.tar`."""
    if path.suffix in {".pt", ".pth"}:
        return True
    with path.open("rb") as file:
        return file.read(4).startswith(_TORCH)


def read_foreign(path: Path) -> tuple[ChannelPlan, dict[str, Tensor]]:
    """Return the plan and the tensors, by our names, of the generator in a torch file.

    Raises:
        BadInput: it holds anything but tensors, or not those of such a generator.

    """
    tensors = without_parallel(without_compiled(read_tensors(path)))
    for name, tensor in tensors.items():
        # One number may stand for all of a tensor of any size, which would become as many.
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise BadInput(f"{path}: tensor {name!r} has more elements than the file has numbers")
    names = set(tensors)
    if "model.model.0.weight" in names:
        architecture, renamed = _unet(path, tensors)
    elif "model.1.weight" in names:
        architecture, renamed = _resnet(path, tensors)
    else:
        raise BadInput(f"{path} is not a ResNet or U-Net generator of pytorch-CycleGAN-and-pix2pix")
    norms = {name.rpartition(".")[0] for name in renamed if name.endswith(".running_mean")}
    affine = any(f"{layer}.weight" in renamed for layer in norms)
    norm = Norm.BATCH if affine else Norm.INSTANCE
    if norm is Norm.INSTANCE:
        # Old versions of that project saved statistics of InstanceNorm that are never used.
        renamed = {k: v for k, v in renamed.items() if k.rpartition(".")[0] not in norms}
        if {name for name in renamed if name.endswith(".bias")} <= _OF_THE_LAST:
            raise BadInput(
                f"{path} was trained without normalisation (--norm none): only generators with "
                "instance or batch norm are read"
            )
    return _plan(path, architecture, norm, renamed), renamed


def _ends_early(path: Path) -> bool:
    """Return whether one of a file's pickles is cut; they are read, and not executed."""
    with path.open("rb") as file:
        for _ in range(_PICKLES):
            start = file.tell()
            if not file.read(1):
                return False
            file.seek(start)
            try:
                for _ in pickletools.genops(file):
                    pass
            except ValueError:
                return True
    return False


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict in a torch file, by their names.

    Raises:
        BadInput: it is not a whole torch file, or holds anything but plain tensors by name.

    """
    refuse_pointer(path)
    with path.open("rb") as file:
        head = file.read(2)
    if not head:
        raise BadInput(f"{path} is not a torch file: it is empty")
    if zipfile.is_zipfile(path):
        _require_undamaged(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of kinds of tensors refused below
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not head.startswith(_PICKLED):
            raise BadInput(f"{path} is not a torch file") from error
        # The rest of a name, cut, is that of no class.
        cut = _ends_early(path) if head.startswith(_BARE) else not zipfile.is_zipfile(path)
        if cut:
            raise BadInput(f"{path} is not a whole torch file: it ends early") from error
        raise BadInput(
            f"{path} holds more than tensors, and is not opened: it could run code",
            hint=_ALONE,
        ) from error
    except _BROKEN as error:
        # Of a byte that it does not know, the unpickler tells the number alone.
        unknown = isinstance(error, KeyError)
        reason = "its bytes make no pickle" if unknown else str(error) or type(error).__name__
        raise BadInput(f"{path} is not a whole torch file: {reason}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        _refuse_state(path, tensors)
        raise BadInput(f"{path} is not a state_dict of tensors", hint=_ALONE)
    for name, tensor in tensors.items():
        if fault := _not_plain(tensor):
            raise BadInput(f"{path}: tensor {name!r} {fault}")
    return tensors


def _require_undamaged(path: Path) -> None:
    """Let an archive through whose parts are those that were saved: torch asks no checksum.

    Raises:
        BadInput: one is not; or the parts, which torch does not compress, are far larger than it.

    """
    broken, part = f"{path} is not a whole torch file", "directory"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if sum(one.file_size for one in parts) > _MOST_PACKED * path.stat().st_size:
                raise BadInput(f"{broken}: its parts say to be {_MOST_PACKED} times as large as it")
            for one in parts:
                part = one.filename
                if one.CRC:  # `set_crc32_options(False)` saves files without
                    with archive.open(one) as file:
                        while file.read(_CHUNK):
                            pass
    except (zipfile.BadZipFile, zlib.error, *_BROKEN) as error:
        raise BadInput(f"{broken}: its {part} is damaged") from error


def _refuse_state(path: Path, held: object) -> None:
    """Raise `BadInput` if a file held what `train` goes on from; says where its generators are."""
    if isinstance(held, dict) and held.keys() >= _OF_A_STATE:
        beside = ", ".join(sorted(one.name for one in path.parent.glob("*.safetensors")))
        raise BadInput(
            f"{path} is what a training goes on from, and no checkpoint",
            hint=f"its checkpoints are beside it: {beside}"
            if beside
            else "train --resume goes on, and writes a checkpoint beside it at its end",
        )


def without_parallel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that they have without DataParallel around their network."""
    return _renamed(tensors, lambda name: name.removeprefix(PARALLEL))


def without_compiled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that they have where torch.compile compiled nothing."""
    return _renamed(tensors, lambda name: name.replace(_COMPILED, ""))


def _renamed(tensors: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return tensors by other names, unless two would have one name."""
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def refuse_pointer(path: Path) -> None:
    """Raise `BadInput` if the file is Git LFS's pointer to weights and not the weights."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise BadInput(f"{path} is a Git LFS pointer, not the file itself", hint="git lfs pull")


def _not_plain(tensor: Tensor) -> str | None:
    """Return why a tensor is not a plain array of numbers, if it is not."""
    if tensor.is_meta:
        return "is on the meta device: its numbers were not saved"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "is sparse or nested, not dense"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}), not real numbers"
    return None


def _rename(path: Path, tensors: dict[str, Tensor], layers: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if layer not in layers:
            raise BadInput(f"{path}: tensor {name!r} is not one of the generator's")
        renamed[f"{layers[layer]}.{leaf}"] = tensor
    return renamed


def _resnet(path: Path, tensors: dict[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    blocks = len({m[1] for name in tensors if (m := re.match(r"model\.(\d+)\.conv_block\.", name))})
    by_blocks = {a.blocks: a for a in Architecture if a.is_resnet}
    if blocks not in by_blocks:
        raise BadInput(f"{path} is a ResNet generator of {blocks} blocks, not of 6 or 9")
    layers = {f"model.{i}": name for i, name in _RESNET_FIXED.items()}
    for i in range(blocks):
        block = f"model.{_FIRST_BLOCK + i}.conv_block"
        # Without dropout the second convolution is the block's fifth layer, with it the sixth.
        shift = int(f"{block}.6.weight" in tensors and tensors[f"{block}.6.weight"].ndim > 1)
        for place, ours in ((1, "conv1"), (2, "norm1"), (5 + shift, "conv2"), (6 + shift, "norm2")):
            layers[f"{block}.{place}"] = f"blocks.{i}.{ours}"
    up = _FIRST_BLOCK + blocks
    for place, ours in ((0, "up1"), (1, "up1_norm"), (3, "up2"), (4, "up2_norm"), (7, "tail")):
        layers[f"model.{up + place}"] = ours
    return by_blocks[blocks], _rename(path, tensors, layers)


def _unet(path: Path, tensors: dict[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    by_downs = {a.downs: a for a in Architecture if not a.is_resnet}
    downs = _unet_downs(tensors)
    if downs not in by_downs:
        raise BadInput(f"{path} is a U-Net generator of {downs} levels, not of 7 or 8")
    # Level 0: [conv, level 1, relu, deconv, tanh]; inside: [relu, conv, norm, level, relu,
    # deconv, norm, (dropout)]; innermost: [relu, conv, relu, deconv, norm].
    layers = {"model.model.0": "downs.0", "model.model.3": "ups.0"}
    prefix = "model.model.1.model"
    for i in range(1, downs):
        places = {1: "downs", 2: "down_norms", 5: "ups", 6: "up_norms"}
        if i == downs - 1:
            places = {1: "downs", 3: "ups", 4: "up_norms"}
        layers |= {f"{prefix}.{place}": f"{ours}.{i}" for place, ours in places.items()}
        prefix += ".3.model"
    return by_downs[downs], _rename(path, tensors, layers)


def _unet_downs(tensors: dict[str, Tensor]) -> int:
    prefix, downs = "model.model.1.model", 1
    while f"{prefix}.1.weight" in tensors:
        prefix, downs = f"{prefix}.3.model", downs + 1
    return downs


def _plan(
    path: Path, architecture: Architecture, norm: Norm, tensors: dict[str, Tensor]
) -> ChannelPlan:
    """Return the plan that the tensors' shapes spell."""

    def size(name: str, axis: int) -> int:
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 4:  # noqa: PLR2004 - a kernel has four axes
            raise BadInput(f"{path}: tensor '{name}.weight' is missing or not a kernel")
        if not 1 <= weight.shape[axis] <= MOST_CHANNELS:
            raise BadInput(
                f"{path}: tensor '{name}.weight' has {weight.shape[axis]} channels, "
                f"not 1 to {MOST_CHANNELS}"
            )
        return weight.shape[axis]

    if architecture.is_resnet:
        groups = {"stem": size("stem", 0), "down": size("down", 0), "stream": size("enter", 0)}
        for i in range(architecture.blocks):
            groups[f"block{i + 1}"] = size(f"blocks.{i}.conv1", 0)
        groups |= {"up1": size("up1", 1), "up2": size("up2", 1)}
        return ChannelPlan(architecture, norm, groups, size("stem", 1), size("tail", 0))
    n = architecture.downs
    groups = {f"down{i + 1}": size(f"downs.{i}", 0) for i in range(n)}
    groups |= {f"up{i + 1}": size(f"ups.{i}", 1) for i in reversed(range(1, n))}
    return ChannelPlan(architecture, norm, groups, size("downs.0", 1), size("ups.0", 1))
