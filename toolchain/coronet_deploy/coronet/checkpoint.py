"""Checkpoints: safetensors files with their channel plan inside; foreign ones read strictly.

A file of ours holds the tensors of a generator and, under one metadata key, JSON that says what
they are (`Header`). Its stages: `search` (latents and hypernetworks, dead channels masked),
`finetuned` (the cut network as it was trained on, with the latents that chose its channels) and
`dense` (a plain generator). Every tensor must be there, have the plan's shape and be finite;
nothing in a file is ever executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from coronet_deploy.coronet.foreign import is_torch_file, read_foreign, refuse_pointer
from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import EMBEDDING, Form
from coronet_deploy.coronet.latents import MIN_CHANNELS, THRESHOLD, LatentVectors
from coronet_deploy.coronet.lineage import Origin, Past
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.errors import BadInput, GateFailed, refuse_newer
from coronet_deploy.images import Array
from coronet_deploy.memory import memory_told
from coronet_deploy.networks.generator import build_generator
from coronet_deploy.storage import existing_file, json_value, sha256_of, write_bytes
from coronet_deploy.vocabulary import MOST_CHANNELS, ChannelPlan, Kind

METADATA_KEY = "coronet_deploy"
FORMAT_VERSION = 1
MATERIALIZE_BOUND = 1e-4
_LATENTS = "latents.vectors."
_SHOWN = 4  # names that an error lists
LONGEST_ID = 200
LARGEST_EMBEDDING = 1024
LARGEST_THRESHOLD = 1e6
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class Stage(StrEnum):
    """Where in its life a checkpoint was written (module docstring)."""

    SEARCH = "search"
    FINETUNED = "finetuned"
    DENSE = "dense"


def _printable(text: str) -> str:
    """Return `text` on one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _one_name(value: str) -> str:
    """Return an id, which goes into file names, if it leads to no other folder."""
    if not value.isprintable() or set(value) & set("/\\"):
        raise ValueError("holds a path separator or a control character")
    return value


class Header(BaseModel):
    """What a checkpoint's metadata say.

    `plan` gives the channels whose tensors the file holds, `total` those of the unpruned
    generator; `target` is the ratio, of MACs or of parameters, that was asked for; `history` the
    trainings behind it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format_version: int
    stage: Stage
    id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID), AfterValidator(_one_name)]
    title: Annotated[str, AfterValidator(_printable)]
    task: str
    direction: str | None = None
    plan: dict[str, Any]
    total: dict[str, Annotated[int, Field(ge=1, le=MOST_CHANNELS)]]
    target: float | None = None
    form: Form = Form.PUBLISHED
    embedding: Annotated[int, Field(ge=1, le=LARGEST_EMBEDDING)] = EMBEDDING
    threshold: Annotated[float, Field(gt=0, le=LARGEST_THRESHOLD)] = THRESHOLD
    min_channels: Annotated[int, Field(ge=1)] = MIN_CHANNELS
    history: Past = ()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    `plan` holds the living channels, `full` those of the unpruned generator; `latents` is what
    chose them, of full length, if the file is of a network that was cut.
    """

    path: Path
    sha256: str
    kind: Kind
    header: Header
    plan: ChannelPlan
    full: ChannelPlan
    network: nn.Module
    latents: LatentVectors | None = None

    @property
    def id(self) -> str:
        """The model's name, as it goes into file names."""
        return self.header.id

    @property
    def origin(self) -> Origin:
        """What a training says that it went on from, if it did from this."""
        name = self.path.name.encode(errors="replace").decode()  # a name need not be UTF-8
        return Origin(file=name, sha256=self.sha256)

    def generator(self) -> nn.Module:
        """Return the dense generator, in eval: (N, 3, H, W) in [-1, 1] to the same."""
        if isinstance(self.network, CoroNetGenerator):
            return materialize(self.network)
        return self.network


def save_checkpoint(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, whole or not at all; equal input gives equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    unknown = set() if header.history else {"history"}
    # One metadata key only: the library keeps no order among several.
    write_bytes(path, save(plain, {METADATA_KEY: header.model_dump_json(exclude=unknown)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in `path`: ours, or a pytorch-CycleGAN-and-pix2pix generator.

    Raises:
        BadInput: it is missing, truncated, holds code, lacks or has extra tensors, has others'
            shapes, or numbers that are not finite or no float32; one line says which.

    """
    existing_file(path, "checkpoint")
    if is_torch_file(path):
        return _foreign_checkpoint(path)
    header, tensors = _read_safetensors(path)
    try:
        held = ChannelPlan.from_json(header.plan)
        full = replace(held, groups=header.total)
        with torch.device("meta"):  # for the names of its groups alone
            build_generator(held)
            if list(full.groups) != list(held.groups):
                build_generator(full)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    for group, channels in held.groups.items():
        if channels > full.groups[group]:
            raise BadInput(
                f"{path}: channel plan: group {group!r} keeps {channels} of {full.groups[group]}"
            )
    cut = header.stage is Stage.FINETUNED
    latents = _taken_latents(path, header, held, tensors) if cut else None
    network = _network(path, header, held, tensors)
    plan = network.latents.living_plan() if isinstance(network, CoroNetGenerator) else held
    kind = Kind.DENSE if header.stage is Stage.DENSE else Kind.CORONET
    return Checkpoint(path, sha256_of(path), kind, header, plan, full, network, latents)


def save_dense(checkpoint: Checkpoint, output: Path, pictures: Sequence[Array]) -> float:
    """Write the checkpoint's dense generator to `output`; return how far apart the two are.

    That is the largest absolute difference of their outputs on `pictures`, each (H, W, 3) in
    [-1, 1], in float32.

    Raises:
        GateFailed: it is more than `MATERIALIZE_BOUND`; nothing is written.

    """
    dense = checkpoint.generator()
    apart = [torch.zeros(())]
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy(picture).permute(2, 0, 1)[None]
            apart.append((checkpoint.network(x) - dense(x)).abs().max())
    worst = float(torch.stack(apart).max())  # NaN, if there is one
    if not worst <= MATERIALIZE_BOUND:
        raise GateFailed(
            f"{output}: max |difference| to the checkpoint's generator is {worst:.2e}, "
            f"the bound is {MATERIALIZE_BOUND:.0e}"
        )
    header = checkpoint.header.model_copy(
        update={
            "stage": Stage.DENSE,
            "plan": checkpoint.plan.as_json(),
            "total": dict(checkpoint.full.groups),
        }
    )
    tensors = {f"network.{name}": tensor for name, tensor in dense.state_dict().items()}
    save_checkpoint(output, header, tensors)
    return worst


def save_unpruned_twin(checkpoint: Checkpoint, output: Path) -> None:
    """Write a dense checkpoint of the unpruned plan with random weights: it is for timing only.

    What a convolution takes does not depend on its weights' values, so the twin tells how long
    the generator would take had nothing been pruned. The weights are seeded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = build_generator(checkpoint.full)
    header = checkpoint.header.model_copy(
        update={
            "stage": Stage.DENSE,
            "id": f"{checkpoint.id}-unpruned",
            "title": f"Unpruned twin of {checkpoint.id}, random weights, for timing only",
            "plan": checkpoint.full.as_json(),
            "total": dict(checkpoint.full.groups),
            "target": None,
            "history": (),
        }
    )
    tensors = {f"network.{name}": tensor for name, tensor in twin.state_dict().items()}
    save_checkpoint(output, header, tensors)


def finetuned_tensors(dense: nn.Module, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a fine-tuned checkpoint: the network and its full-length latents."""
    network = {f"network.{name}": tensor for name, tensor in dense.state_dict().items()}
    return network | {f"{_LATENTS}{group}": latents[group] for group in latents}


def _network(
    path: Path, header: Header, held: ChannelPlan, tensors: dict[str, Tensor]
) -> nn.Module:
    """Return the generator of the file's tensors, in eval."""
    if header.stage is Stage.SEARCH:
        make = partial(
            CoroNetGenerator,
            held,
            header.total,
            form=header.form,
            embedding=header.embedding,
            threshold=header.threshold,
            min_channels=header.min_channels,
        )
        return _filled(path, make, tensors)
    prefix = "network."
    dense = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return _filled(path, partial(build_generator, held), dense)


def _filled(path: Path, make: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the network that `make` makes with the file's tensors, in eval.

    It takes memory only once a file is known to hold all of its numbers: what a few bytes of
    metadata say may be any size.
    """
    with torch.device("meta"):
        _check_shapes(path, make().state_dict(), tensors)
    network = make()
    load_strictly(path, network, tensors)
    return network.eval()


def _taken_latents(
    path: Path, header: Header, held: ChannelPlan, tensors: dict[str, Tensor]
) -> LatentVectors:
    """Take full-length latents out of a file's tensors; they keep as many as the plan says."""
    total = replace(held, groups=header.total)
    latents = LatentVectors(total, threshold=header.threshold, min_channels=header.min_channels)
    names = [name for name in tensors if name.startswith(_LATENTS)]
    load_strictly(path, latents, {k.removeprefix("latents."): tensors.pop(k) for k in names})
    living = latents.living_plan()
    for group, channels in held.groups.items():
        if living.groups[group] != channels:
            raise BadInput(
                f"{path}: channel plan: group {group!r} has {channels} channels, "
                f"its latent vector {living.groups[group]}"
            )
    return latents


def load_strictly(path: Path, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load `tensors` into `module` if names, shapes and numbers are right.

    Raises:
        BadInput: they are not; names `path` and the first tensor that is wrong.

    """
    expected = module.state_dict()
    _check_shapes(path, expected, tensors)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: tensor {name!r} holds numbers that are not finite")
        held = expected[name].dtype
        if not bool(torch.isfinite(tensor.to(held)).all()):
            raise BadInput(
                f"{path}: tensor {name!r} holds a weight that does not fit "
                f"{str(held).removeprefix('torch.')}: {_largest(tensor):.3g}"
            )
    module.load_state_dict(dict(tensors))


def _largest(tensor: Tensor) -> float:
    """Return the number that is farthest from 0."""
    return float(tensor.flatten()[tensor.abs().argmax()])


def _check_shapes(
    path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Check that `tensors` have the names, shapes and kinds of number that are expected."""
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        raise BadInput(
            f"{path} is not the generator that it says: missing {_some(missing)}, "
            f"left over {_some(extra)}"
        )
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise BadInput(
                f"{path}: tensor {name!r} is {list(tensor.shape)}, "
                f"the network needs {list(wanted.shape)}"
            )
        if _number(tensor) != _number(wanted):
            raise BadInput(f"{path}: tensor {name!r} is {tensor.dtype}, not {wanted.dtype}")


def _number(tensor: Tensor) -> str:
    """Return what kind of number a tensor holds; one float of a size can stand for another."""
    if tensor.dtype in _FLOATS:
        return "float"
    return str(tensor.dtype) if tensor.is_floating_point() or tensor.is_complex() else "integer"


def _some(names: list[str]) -> str:
    """Return a few of `names` for an error message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(_printable, names[:_SHOWN]))}{more}" if names else "nothing"


def _read_safetensors(path: Path) -> tuple[Header, dict[str, Tensor]]:
    refuse_pointer(path)
    try:
        with memory_told(f"read {path}"), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, RuntimeError) as error:  # the system's, by the reader's libraries
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        raise BadInput(f"{path} is a safetensors file, but not a checkpoint of coronet-deploy")
    held, key = metadata[METADATA_KEY], "format_version"
    refuse_newer(str(path), key, json_value(held, key), FORMAT_VERSION)
    try:
        header = Header.model_validate_json(held)
    except ValidationError as error:
        first = error.errors()[0]
        key = _printable(".".join(str(part) for part in first["loc"]))
        raise BadInput(f"{path}: metadata: {key}: {first['msg']}") from error
    if header.format_version != FORMAT_VERSION:
        raise BadInput(
            f"{path} has format version {header.format_version}, this is for {FORMAT_VERSION}",
            hint="install the version of coronet-deploy that wrote it",
        )
    return header, tensors


def _foreign_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a torch file of pytorch-CycleGAN-and-pix2pix."""
    plan, tensors = read_foreign(path)
    dense = _filled(path, partial(build_generator, plan), tensors)
    name = path.stem.lower().replace(" ", "-").replace("\\", "-")
    header = Header(
        format_version=FORMAT_VERSION,
        stage=Stage.DENSE,
        id="".join(filter(str.isprintable, name))[:LONGEST_ID] or "generator",
        title=_printable(path.stem),
        task="unknown",
        plan=plan.as_json(),
        total=dict(plan.groups),
    )
    return Checkpoint(path, sha256_of(path), Kind.DENSE, header, plan, plan, dense)
