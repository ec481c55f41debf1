"""Recipes: everything that makes a training run, in a TOML file that is checked key by key."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from coronet_deploy.coronet.checkpoint import LARGEST_EMBEDDING, LARGEST_THRESHOLD, LONGEST_ID
from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.data import Direction
from coronet_deploy.coronet.hypernetwork import EMBEDDING, Form
from coronet_deploy.coronet.latents import MIN_CHANNELS, THRESHOLD
from coronet_deploy.coronet.losses import GANLoss
from coronet_deploy.coronet.overriding import override, set_by
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.cost import Measure
from coronet_deploy.networks.generator import full_plan, size_multiple
from coronet_deploy.storage import existing_file
from coronet_deploy.vocabulary import Architecture, ChannelPlan, Norm

Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=1, le=8192)]  # of a side; more fills any memory
Steps = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]

LEAST_CROP = 24
"""The least side of a picture that the PatchGAN has a logit for."""

REVERSE = "-reverse"
"""What the id of CycleGAN's other generator ends in."""


class Task(StrEnum):
    """The game a generator learns in: on pairs, or on two piles of pictures."""

    PIX2PIX = "pix2pix"
    CYCLEGAN = "cyclegan"


class Precision(StrEnum):
    """What networks compute in while they train.

    `bf16` is autocast: losses and weights stay float32. `fp64` is for comparing runs.
    """

    FP64 = "fp64"
    FP32 = "fp32"
    BF16 = "bf16"


def _parts(annotation: object) -> set[object]:
    """Return the types that "X | None" is made of."""
    return {get_args(part)[0] if get_args(part) else part for part in get_args(annotation)}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_toml_has_it(cls, value: object, info: ValidationInfo) -> object:
        """Refuse truth for a number, and text for either, which would be converted."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError(f"{str(value).lower()} is not a number or a name")
        if isinstance(value, str) and {bool, int, float}.intersection((wanted, *_parts(wanted))):
            what = "true or false" if wanted is bool else "a number"
            raise ValueError(f"{value!r} is text: {what} is meant, without quotes")
        return value


class ModelTable(_Table):
    """What is trained. `width` is the first layer's, unpruned; `id` names folder and files.

    `dropout` is the share of the activations that training drops where Isola et al. do: in the
    widest levels of a U-Net, in the blocks of a ResNet. CycleGAN drops none unless told to.
    """

    id: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=LONGEST_ID - len(REVERSE))
    ]
    title: str
    task: Task = Task.PIX2PIX
    architecture: Architecture
    norm: Norm
    width: Count = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DataTable(_Table):
    """Pictures are resized to `load` and cropped to `crop` at random.

    `batch` is that of each process; `pool` how many fakes CycleGAN's discriminators look back on.
    """

    direction: Direction = Direction.A_TO_B
    load: Pixels = 286
    crop: Count = 256
    batch: Count = 1
    pool: Annotated[int, Field(ge=0)] = 50

    @model_validator(mode="after")
    def _fits(self) -> DataTable:
        if self.crop > self.load:
            raise ValueError(f"crop {self.crop} is larger than load {self.load}")
        return self


class SearchTable(_Table):
    """Pruning while training.

    `target` is a ratio of MACs, or of parameters as `measure` says, or above 1 a number of them
    (MACs of a picture of 256x256); it is reached after `reach` of the steps. A ratio of 1 prunes
    nothing: the generator is a plain one from the first step.
    """

    steps: Steps
    target: Annotated[float, Field(gt=0)]
    measure: Measure = Measure.MACS
    reach: Share = 0.8
    form: Form = Form.PUBLISHED
    embedding: Annotated[int, Field(ge=1, le=LARGEST_EMBEDDING)] = EMBEDDING
    threshold: Annotated[float, Field(ge=1e-12, le=LARGEST_THRESHOLD)] = THRESHOLD
    min_channels: Count = MIN_CHANNELS
    channel_multiple: Count = 1
    latent_lr_factor: Annotated[float, Field(gt=0)] = 1.0
    slice_every: Count = 50

    @property
    def least_channels(self) -> int:
        """The least channels of a group, a whole multiple of what the cut will keep."""
        return -(-self.min_channels // self.channel_multiple) * self.channel_multiple


class FineTuneTable(_Table):
    """Ordinary training of the cut network, with a fresh optimiser.

    The learning rate falls linearly to zero from `decay_from` of the steps on. From
    `freeze_norm_from` on, BatchNorm uses its running statistics, as inference will.
    """

    steps: Steps
    decay_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    freeze_norm_from: Annotated[float, Field(ge=0, le=1)] = 1.0


class QatTable(_Table):
    """Quantisation-aware fine-tuning of a finished generator.

    Pictures are resized to `load` and cropped to `crop`, without these as in training; best is the
    size that artifacts are to have. The learning rate, 2e-4 or with BatchNorm 1e-5, falls linearly
    to zero. `tails` weighs how far the channels before an InstanceNorm reach; ranges are measured
    anew every `settle_every` steps.
    """

    steps: Count = 3000
    lr: Annotated[float, Field(gt=0)] | None = None
    load: Pixels | None = None
    crop: Count | None = None
    tails: Annotated[float, Field(ge=0)] = 1e-4
    settle_every: Count = 250


class LossTable(_Table):
    """The adversarial loss, by default `lsgan` in CycleGAN, and the weights beside it.

    `l1` weighs Pix2Pix's distance to the truth; `cycle` CycleGAN's there and back, and `identity`
    times `cycle` what a generator does to pictures of its output's domain.
    """

    gan: GANLoss = GANLoss.VANILLA
    l1: Annotated[float, Field(ge=0)] = 100.0
    cycle: Annotated[float, Field(ge=0)] = 10.0
    identity: Annotated[float, Field(ge=0)] = 0.5


class OptimiserTable(_Table):
    """Adam, for generator and discriminator alike."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8


class DiscriminatorTable(_Table):
    """The 70x70 PatchGAN: its first layer's width."""

    width: Count = 64


class MachineTable(_Table):
    """How a step is computed; bf16 and channels_last pay on GPUs and CPUs with matrix units."""

    precision: Precision = Precision.FP32
    channels_last: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What weights and losses are held in."""
        return torch.float64 if self.precision is Precision.FP64 else torch.float32


class Recipe(_Table):
    """A training run of generators that are pruned while they train."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: ModelTable
    data: DataTable = DataTable()
    search: SearchTable
    finetune: FineTuneTable
    qat: QatTable | None = None
    loss: LossTable = LossTable()
    optimiser: OptimiserTable = OptimiserTable()
    discriminator: DiscriminatorTable = DiscriminatorTable()
    machine: MachineTable = MachineTable()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_its_task(cls, tables: object) -> object:
        """Fill in what a task's papers do, where nothing is said of it."""
        if not isinstance(tables, dict) or not isinstance(tables.get("model"), dict):
            return tables
        cycle = tables["model"].get("task") == Task.CYCLEGAN
        defaults: dict[str, dict[str, Any]] = {
            "model": {"dropout": 0.0 if cycle else 0.5},
            "loss": {"gan": GANLoss.LSGAN if cycle else GANLoss.VANILLA},
        }
        filled = dict(tables)
        for name, values in defaults.items():
            given = filled.get(name, {})
            if isinstance(given, dict):
                filled[name] = values | given
        return filled

    @model_validator(mode="after")
    def _can_be_trained(self) -> Recipe:
        if not self.steps:
            raise ValueError("search.steps and finetune.steps are both 0: nothing to train")
        try:
            full_plan(self.model.architecture, self.model.norm, self.model.width)
        except BadInput as error:
            raise ValueError(f"model.width {self.model.width}: {error.what}") from error
        crop, architecture = self.data.crop, self.model.architecture
        multiple = size_multiple(architecture)
        if crop % multiple or crop < LEAST_CROP:
            least = -(-LEAST_CROP // multiple) * multiple
            raise ValueError(
                f"data.crop {crop}: pictures of {architecture} are multiples of {multiple}, "
                f"at least {least}"
            )
        if self.qat is not None:
            load, crop = self.qat.load or self.data.load, self.qat.crop or crop
            if crop > load:
                raise ValueError(f"qat.crop {crop} is larger than qat.load {load}")
            if crop < LEAST_CROP:
                raise ValueError(f"qat.crop {crop}: at least {LEAST_CROP}")
        try:
            self.controller()
        except BadInput as error:
            s = self.search
            given = f"search.target {s.target:.10g}"
            if s.target > 1:
                given += f", a number of {s.measure.label}, is {self.target_ratio:.4g} of all"
            raise ValueError(f"{given}: {error.what}") from error
        return self

    def controller(self) -> Controller:
        """Return what steers each generator's latents to the target.

        Raises:
            BadInput: the target cannot be reached.

        """
        s = self.search
        return Controller(
            self.full,
            self.target_ratio,
            int(s.steps * s.reach),
            s.min_channels,
            s.channel_multiple,
            s.measure,
        )

    @property
    def names(self) -> list[str]:
        """The ids of the generators that are trained, that of `data.direction` first."""
        first = self.model.id
        return [first, f"{first}{REVERSE}"] if self.model.task is Task.CYCLEGAN else [first]

    @property
    def tuning(self) -> QatTable:
        """How a checkpoint is tuned, by default if nothing is said of it."""
        return self.qat or QatTable()

    @property
    def steps(self) -> int:
        """Training steps of both phases together."""
        return self.search.steps + self.finetune.steps

    @property
    def prunes(self) -> bool:
        """Whether anything is to be pruned."""
        return self.search.target != 1

    @property
    def target_ratio(self) -> float:
        """What `search.target` asks for as a ratio."""
        target = self.search.target
        return target if target <= 1 else target / self.search.measure.of(self.full)

    @property
    def full(self) -> ChannelPlan:
        """The plan of the unpruned generator."""
        return full_plan(self.model.architecture, self.model.norm, self.model.width)


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Return the recipe in `path`, with `overrides` like "search.target=0.25" on top.

    Raises:
        BadInput: it is no TOML, or a key is missing, misspelt or out of range; names file and key,
            and the override that is to blame.

    """
    try:
        # In UTF-8 whatever the locale, as TOML is, and behind the mark that Windows' editors put.
        table = tomllib.loads(existing_file(path, "recipe").read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"recipe {path}: {error}") from error
    for line in overrides or []:
        override(table, line, Recipe)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        told = _complaint(error)
        raise BadInput(f"recipe {path}: {told}", hint=set_by(told, overrides or [])) from error
    for name, key, why in _idle(recipe):
        if key in table.get(name, {}):
            told = f"{name}.{key} has no effect: {why}"
            hint = set_by(told, overrides or []) or "leave it out"
            raise BadInput(f"recipe {path}: {told}", hint=hint)
    return recipe


def _complaint(error: ValidationError) -> str:
    """Return the most telling complaint: a misspelt key explains a missing one."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    said = {"extra_forbidden": "there is no such key", "missing": "is missing"}
    told = said.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{key}: {told}" if key else told


def _idle(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return the tables' keys that nothing of this recipe's run looks at, and why."""
    if recipe.model.task is Task.CYCLEGAN:
        idle = [("loss", "l1", "CycleGAN has no truth to be near to")]
    else:
        why = "it is CycleGAN's, and model.task is pix2pix"
        idle = [("loss", "cycle", why), ("loss", "identity", why), ("data", "pool", why)]
    if recipe.model.norm is Norm.INSTANCE:
        why = "InstanceNorm has no running statistics"
        idle.append(("finetune", "freeze_norm_from", why))
    else:
        idle.append(("qat", "tails", "it is for InstanceNorm, and model.norm is batch"))
    if recipe.search.form is Form.COLLAPSED:
        why = "it is of the form published, and search.form is collapsed"
        idle.append(("search", "embedding", why))
    return idle
