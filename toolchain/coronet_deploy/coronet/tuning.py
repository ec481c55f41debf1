"""Quantisation-aware fine-tuning: a finished generator learns to draw the same in eight bits.

What it drew in float when it came is the truth, on pictures of the task; the loss is the mean
square distance to that of what eight bits draw (`rounding`), and how far channels reach. No
discriminator is needed, and no teacher but itself.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.checkpoint import (
    LONGEST_ID,
    Checkpoint,
    Stage,
    finetuned_tensors,
    save_checkpoint,
)
from coronet_deploy.coronet.course import STATE, Course, require_finite
from coronet_deploy.coronet.data import (
    Ahead,
    Direction,
    Told,
    open_training,
    some,
    untold,
)
from coronet_deploy.coronet.lineage import Act
from coronet_deploy.coronet.recipe import QatTable, Recipe, Task
from coronet_deploy.coronet.rounding import Rounded
from coronet_deploy.coronet.samples import save_samples
from coronet_deploy.coronet.state import StepReport, finished
from coronet_deploy.errors import BadInput, CoronetError, GateFailed
from coronet_deploy.networks.generator import size_multiple
from coronet_deploy.ranges import FULL_RESNET_MARGIN, FULL_UNET_MARGIN
from coronet_deploy.vocabulary import Norm

SUFFIX = "-qat"
"""What the id of a tuned generator ends in."""

_SETTLED_ON = 12  # pictures, as many as an export calibrates on
_SHOWN = 6  # where none are held out
_PEAK = 2.0  # pictures lie in [-1, 1]
_MOST_DB = 120.0
_LR, _LR_BATCH_NORM = 2e-4, 1e-5
_RGB = 3


class Gains(NamedTuple):
    """PSNRs in dB, each a mean of a few pictures that were held out.

    Of eight bits to float before tuning and after; and of float after to float before: how far
    the generator has moved.
    """

    before: float
    after: float
    moved: float


class Tuner(Course):
    """The fine-tuning of one checkpoint's generator (see `Course`).

    Its result is `<id>-qat.safetensors`: with the latents that chose its channels, if the
    checkpoint has them, else dense. `recipe` says how pictures are read,
    and in its table `qat` how long and how fast it learns. `told` hears of each picture as it is
    looked at.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        data: Path,
        output: Path,
        device: str = "cpu",
        told: Told = untold,
    ) -> None:
        self.table = recipe.tuning
        super().__init__(recipe, output, self.table.steps, ("psnr_db", "tails"))
        self.checkpoint, self.device = checkpoint, torch.device(device)
        self.crop = _fitting(recipe, self.table, checkpoint)
        self.pictures, self.held_out = open_training(
            data,
            _direction(recipe, checkpoint),
            self.table.load or recipe.data.load,
            self.crop,
            paired=recipe.model.task is Task.PIX2PIX,
            told=told,
        )
        self._ahead = Ahead(self.pictures, pinned=self.device.type == "cuda")
        plan = checkpoint.plan
        resnet = plan.architecture.is_resnet
        margin = FULL_RESNET_MARGIN if resnet else FULL_UNET_MARGIN
        between = not resnet and plan.norm is Norm.BATCH
        self.exact = (
            checkpoint.generator().to(self.device).eval().requires_grad_(requires_grad=False)
        )
        self.rounded = Rounded(copy.deepcopy(self.exact), margin, between=between)
        self.network.requires_grad_(requires_grad=True)
        self.lr = self.table.lr or (_LR_BATCH_NORM if plan.norm is Norm.BATCH else _LR)
        self.optimizer = torch.optim.Adam(self.network.parameters(), self.lr, fused=True)
        self.name = tuned_name(checkpoint)
        self.results = [tuned_place(checkpoint, output)]
        self._gains: Gains | None = None

    @property
    def network(self) -> nn.Module:
        """The generator that learns: (N, 3, H, W) in [-1, 1] to the same."""
        return self.rounded.network

    def _ones(self, count: int, seed: int) -> list[Tensor]:
        """Return training pictures, (1, 3, H, W) each, other ones for each seed."""
        ones = (self.pictures.batch(i, 1, self.crop, seed)[0] for i in range(count))
        return [one.to(self.device) for one in ones]

    def _settle(self, rounded: Rounded) -> None:
        rounded.settle(self._ones(_SETTLED_ON, self.recipe.seed + 1))

    def _take_step(self) -> StepReport:
        started = time.perf_counter()
        table, d = self.table, self.recipe.data
        try:
            x, _ = self._ahead.batch(self.step, d.batch, self.crop, self.recipe.seed)
            if self.step % table.settle_every == 0:
                self._settle(self.rounded)
        except CoronetError:
            self._save_state()
            raise
        x = x.to(self.device, non_blocking=True)
        lr = self.lr * (1 - self.step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            wanted = self.exact(x)
        apart = F.mse_loss(self.rounded(x), wanted)
        tails = self.rounded.tails
        loss = apart + table.tails * tails
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        found = {"psnr_db": _psnr_db(float(apart.detach())), "tails": float(tails.detach())}
        if not all(map(math.isfinite, found.values())):
            raise GateFailed(
                f"tuning step {self.step}: losses {found} are not all finite",
                hint="tune anew with a lower qat.lr",
            )
        ratio = self.recipe.search.measure.of(self.checkpoint.plan)
        return StepReport(
            self.step,
            self.steps,
            "qat",
            ratio / self.recipe.search.measure.of(self.checkpoint.full),
            0.0,
            lr,
            found,
            d.batch,
            time.perf_counter() - started,
        )

    def _finish(self) -> None:
        self._require_finite()
        checkpoint, latents = self.checkpoint, self.checkpoint.latents
        header = checkpoint.header.model_copy(
            update={
                "id": self.name,
                "title": f"{checkpoint.header.title}, tuned for eight bits",
                "stage": Stage.DENSE if latents is None else Stage.FINETUNED,
                "plan": checkpoint.plan.as_json(),
                "total": dict(checkpoint.full.groups),
            }
        )
        past = checkpoint.header.history
        header = self._with_history(header, Act.TUNED, checkpoint.origin, past)
        vectors = {} if latents is None else dict(latents.vectors.items())
        tensors = finetuned_tensors(self.network, vectors)
        save_checkpoint(self.results[0], header, tensors)
        self._save_state()
        self._gains = self._gain()
        self._samples()
        self._save_state()

    @property
    def gains(self) -> Gains:
        """What the steps so far have brought."""
        return self._gains or self._gain()

    @torch.no_grad()
    def _gain(self) -> Gains:
        """Return the PSNRs of a few pictures: of the training set where none are held out."""
        pictures = self._some()
        found = []
        before = Rounded(self.exact, self.rounded.margin, between=self.rounded.between)
        for network, rounded in ((self.exact, before), (self.network, self.rounded)):
            self._settle(rounded)
            found.append(_mean_db([(rounded(x), network(x)) for x in pictures]))
        moved = _mean_db([(self.network(x), self.exact(x)) for x in pictures])
        return Gains(found[0], found[1], moved)

    def _some(self) -> list[Tensor]:
        if self.held_out is None:
            return self._ones(_SHOWN, self.recipe.seed + 2)
        return [one[None].to(self.device) for one in some(self.held_out)[0]]

    def _samples(self) -> None:
        """Write what came in, and the generator of before, now, and now in eight bits."""
        with torch.no_grad():
            rows = [(x, self.exact(x), self.network(x), self.rounded(x)) for x in self._some()]
        columns = [torch.cat([one.float().cpu() for one in c]) for c in zip(*rows, strict=True)]
        save_samples(self.output / "samples" / f"{self.step:06d}.png", columns)

    def _require_finite(self) -> None:
        require_finite(self.network, f"tuning step {self.step}", self.name)

    def _kept(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint.sha256,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rounding": self.rounded.kept(),
            "gains": self._gains and tuple(self._gains),
        }

    def _restore(self, kept: dict[str, Any]) -> None:
        if kept["checkpoint"] != self.checkpoint.sha256:
            raise BadInput(
                f"{self.output}'s state is of another checkpoint than {self.checkpoint.path}",
                hint="tune anew with another --output",
            )
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.rounded.load(kept["rounding"], self._some()[0])


def tuned_name(checkpoint: Checkpoint) -> str:
    """Return the id of what a checkpoint's generator is tuned to."""
    return checkpoint.id[: LONGEST_ID - len(SUFFIX)] + SUFFIX


def tuned_place(checkpoint: Checkpoint, output: Path) -> Path:
    """Return where a tuning in `output` writes its result."""
    return output / f"{tuned_name(checkpoint)}.safetensors"


def finished_gains(recipe: Recipe, checkpoint: Checkpoint, output: Path) -> Gains | None:
    """Return what came of a tuning in `output` that is at its end (see `finished`), or None."""
    result = tuned_place(checkpoint, output)
    kept = finished(output / STATE, recipe, recipe.tuning.steps, [result])
    if kept is None or kept.get("checkpoint") != checkpoint.sha256 or not kept.get("gains"):
        return None
    return Gains(*kept["gains"])


def require_tunable(recipe: Recipe) -> None:
    """Let a recipe through that can tune the generator it trains, before it is trained.

    Raises:
        BadInput: that does not take the pictures to tune on; names the key.

    """
    if recipe.qat is None:
        return
    crop, architecture = recipe.qat.crop or recipe.data.crop, recipe.model.architecture
    if crop % (multiple := size_multiple(architecture)):
        raise BadInput(f"qat.crop {crop}: pictures of {architecture} are multiples of {multiple}")


def _fitting(recipe: Recipe, table: QatTable, checkpoint: Checkpoint) -> int:
    """Return the side of the pictures to tune on, if the generator takes them."""
    plan, crop = checkpoint.plan, table.crop or recipe.data.crop
    channels = plan.input_channels, plan.output_channels
    if channels != (_RGB, _RGB):
        raise BadInput(
            f"{checkpoint.path} makes {channels[1]} channels of {channels[0]}; tuning is for RGB"
        )
    if crop % (multiple := size_multiple(plan.architecture)):
        raise BadInput(
            f"pictures of {crop} pixels: {checkpoint.path} takes multiples of {multiple}",
            hint="say another by --set qat.crop",
        )
    return crop


def _direction(recipe: Recipe, checkpoint: Checkpoint) -> Direction:
    """Return which way the generator translates: as its checkpoint says, else the recipe's."""
    told = checkpoint.header.direction
    return next((one for one in Direction if one == told), recipe.data.direction)


def _psnr_db(mean_square: float) -> float:
    if not math.isfinite(mean_square):
        return math.nan
    return min(10 * math.log10(_PEAK**2 / max(mean_square, 1e-30)), _MOST_DB)


def _mean_db(pairs: list[tuple[Tensor, Tensor]]) -> float:
    return sum(_psnr_db(float(F.mse_loss(a, b))) for a, b in pairs) / len(pairs)
