"""Pix2Pix training that prunes: a search over hypernetworks, the cut, then fine-tuning.

While searching, every optimiser step is followed by a proximal step as strong as the controller
says, and dead channels are sliced out every so many steps, so that steps get cheaper. The cut
network is then trained on as an ordinary one with a fresh optimiser; the discriminator carries on.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.checkpoint import (
    FORMAT_VERSION,
    Header,
    Stage,
    finetuned_tensors,
    save_checkpoint,
)
from coronet_deploy.coronet.controller import Controller
from coronet_deploy.coronet.data import PairedPictures
from coronet_deploy.coronet.generator import CoroNetGenerator, kept_channels, slice_dead
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.samples import save_samples
from coronet_deploy.errors import BadInput, EnvironmentProblem, GateFailed
from coronet_deploy.networks.generator import build_generator
from coronet_deploy.networks.layers import INPUT, OUTPUT
from coronet_deploy.networks.patchgan import PatchGAN
from coronet_deploy.storage import atomic_path, write_text
from coronet_deploy.vocabulary import ChannelPlan

_RECALIBRATION_BATCHES = 200
_CSV_FIELDS = ("step", "phase", "ratio", "shrinkage", "lr", "d", "gan", "l1", "seconds")


@dataclass(frozen=True)
class StepReport:
    """What one training step did; losses are means, `ratio` the living share of the MACs."""

    step: int
    steps: int
    phase: str
    ratio: float
    shrinkage: float
    lr: float
    d: float
    gan: float
    l1: float
    seconds: float


class Trainer:
    """One training run, in memory; `run` takes it from where it is to its end.

    In `output` it keeps `state.pt` (to resume from), `metrics.csv`, `samples/`, and at the end of
    each phase `search.safetensors` and `<id>.safetensors`, the result.
    """

    def __init__(self, recipe: Recipe, data: Path, output: Path, device: str = "cpu") -> None:
        self.recipe, self.output, self.device = recipe, output, torch.device(device)
        self.train_pairs = PairedPictures(data / "train", recipe.data.direction, recipe.data.load)
        held_out = data / "val" if (data / "val").is_dir() else data / "test"
        self.held_out = (
            PairedPictures(held_out, recipe.data.direction, recipe.data.crop)
            if held_out.is_dir()
            else None
        )
        s = recipe.search
        self.controller = Controller(
            recipe.full, s.target, int(s.steps * s.reach), s.min_channels, s.channel_multiple
        )
        torch.manual_seed(recipe.seed)
        self.generator: nn.Module = CoroNetGenerator(
            recipe.full,
            form=s.form,
            embedding=s.embedding,
            threshold=s.threshold,
            min_channels=self.least_channels,
            dropout=recipe.model.dropout,
        )
        full = recipe.full
        self.discriminator = PatchGAN(
            full.input_channels + full.output_channels, full.norm, recipe.discriminator.width
        )
        self.generator.to(self.device)
        self.discriminator.to(self.device)
        self.optimizer_g = self._adam(self.generator)
        self.optimizer_d = self._adam(self.discriminator)
        self.step = 0
        self.rows: list[StepReport] = []
        # Full-length latents, dead entries zero, once the search is over.
        self.latents: dict[str, Tensor] = {}
        self.alive = {k: torch.arange(n) for k, n in recipe.full.groups.items()}

    @property
    def least_channels(self) -> int:
        """The least channels of a group, a whole multiple of what the cut will keep."""
        s = self.recipe.search
        return -(-s.min_channels // s.channel_multiple) * s.channel_multiple

    @property
    def steps(self) -> int:
        """Training steps of both phases together."""
        return self.recipe.search.steps + self.recipe.finetune.steps

    @property
    def searching(self) -> bool:
        """True while the generator is made of hypernetworks."""
        return isinstance(self.generator, CoroNetGenerator)

    def run(self, report: Callable[[StepReport], None], save_every: int = 500) -> Path:
        """Train to the end and return the checkpoint's path.

        Raises:
            GateFailed: a loss is no longer finite; the last state stays on disk.

        """
        result = self.output / f"{self.recipe.model.id}.safetensors"
        while self.step < self.steps:
            if self.step >= self.recipe.search.steps:
                self._end_search()
            row = self._train_step()
            self.step += 1
            self.rows.append(row)
            report(row)
            if self.step % save_every == 0 and self.step < self.steps:
                self._save_state()
                self._samples()
        self._end_search()
        if self._freeze_at() >= self.steps:
            self._recalibrate_norms()
        tensors = finetuned_tensors(self.generator, self.latents)
        save_checkpoint(result, self._header(Stage.FINETUNED, self._plan()), tensors)
        self._save_state()
        self._samples()
        return result

    # One step -----------------------------------------------------------------------------

    def _train_step(self) -> StepReport:
        started = time.perf_counter()
        recipe, step = self.recipe, self.step
        x, truth = self.train_pairs.batch(step, recipe.data.batch, recipe.data.crop, recipe.seed)
        x, truth = x.to(self.device), truth.to(self.device)
        lr = self._set_learning_rate()
        self._set_modes()
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout, as on a run never stopped
        fake = self.generator(x)

        self.discriminator.requires_grad_(requires_grad=True)
        gan = recipe.loss.gan
        judged_fake = gan(self.discriminator(torch.cat([x, fake.detach()], 1)), real=False)
        judged_real = gan(self.discriminator(torch.cat([x, truth], 1)), real=True)
        loss_d = (judged_fake + judged_real) / 2
        self.optimizer_d.zero_grad()
        torch.autograd.backward(loss_d)
        self.optimizer_d.step()

        self.discriminator.requires_grad_(requires_grad=False)
        fooled = gan(self.discriminator(torch.cat([x, fake], 1)), real=True)
        distance = F.l1_loss(fake, truth)
        self.optimizer_g.zero_grad()
        torch.autograd.backward(fooled + recipe.loss.l1 * distance)
        self.optimizer_g.step()

        shrinkage = self._prune()
        losses = [loss_d.item(), fooled.item(), distance.item()]
        if not all(map(math.isfinite, losses)):
            raise GateFailed(
                f"training step {step}: losses D {losses[0]}, GAN {losses[1]}, L1 {losses[2]} "
                "are not all finite",
                hint="lower optimiser.lr, and resume from the last state",
            )
        ratio = self.controller.ratio(self._plan())
        phase = "search" if self.searching else "finetune"
        seconds = time.perf_counter() - started
        return StepReport(
            step, self.steps, phase, ratio, shrinkage, lr, losses[0], losses[1], losses[2], seconds
        )

    def _prune(self) -> float:
        """Take the proximal step and, every so often, slice; return the shrinkage."""
        if not isinstance(self.generator, CoroNetGenerator):
            return 0.0
        latents = self.generator.latents
        shrinkage = self.controller.shrinkage(latents, self.step)
        latents.proximal_step(shrinkage)
        if (self.step + 1) % self.recipe.search.slice_every == 0:
            self._slice(self.generator)
        return shrinkage

    def _slice(self, generator: CoroNetGenerator) -> None:
        """Slice dead channels out, and remember which of the first ones live."""
        latents = generator.latents
        for group in self.alive:
            self.alive[group] = self.alive[group][kept_channels(latents, [group]).cpu()]
        slice_dead(generator, self.optimizer_g)

    def _set_modes(self) -> None:
        if not self.searching and self.step == self._freeze_at():
            self._recalibrate_norms()
        self.generator.train()
        if not self.searching and self.step >= self._freeze_at():
            for module in self.generator.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _freeze_at(self) -> int:
        r = self.recipe
        return r.search.steps + math.ceil(r.finetune.steps * r.finetune.freeze_norm_from)

    def _set_learning_rate(self) -> float:
        r = self.recipe
        done = (self.step - r.search.steps) / max(r.finetune.steps, 1)
        decayed = (1 - done) / max(1 - r.finetune.decay_from, 1e-9)
        lr = r.optimiser.lr * (1.0 if done < r.finetune.decay_from else decayed)
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
        return lr

    @torch.no_grad()
    def _recalibrate_norms(self) -> None:
        """Set BatchNorm's running statistics to their mean over training batches.

        The exponential average that training keeps remembers about ten batches: too few for
        batches of one picture.
        """
        norms = [m for m in self.generator.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            return
        self.generator.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        r = self.recipe
        for i in range(_RECALIBRATION_BATCHES):
            x, _ = self.train_pairs.batch(i, r.data.batch, r.data.crop, r.seed + 1)
            self.generator(x.to(self.device))
        for norm in norms:
            norm.momentum = 0.1

    # From search to fine-tuning -----------------------------------------------------------

    def _end_search(self) -> None:
        """Cut to the target, keep the search's checkpoint, go on with the dense network."""
        if not isinstance(self.generator, CoroNetGenerator):
            return
        latents = self.generator.latents
        self.controller.cut(latents)
        self._slice(self.generator)
        for group in (INPUT, OUTPUT, *self.alive):
            held = latents.vectors[group].detach().cpu()
            vector = torch.zeros(self.recipe.full.groups.get(group, held.numel()))
            vector[self.alive.get(group, torch.arange(held.numel()))] = held
            self.latents[group] = vector
        header = self._header(Stage.SEARCH, self._plan())
        save_checkpoint(self.output / "search.safetensors", header, self.generator.state_dict())
        dense = materialize(self.generator)
        self.generator = build_generator(self._plan(), dropout=self.recipe.model.dropout)
        self.generator.load_state_dict(dense.state_dict())
        self.generator.to(self.device)
        self.optimizer_g = self._adam(self.generator)

    def _plan(self) -> ChannelPlan:
        if isinstance(self.generator, CoroNetGenerator):
            return self.generator.latents.living_plan()
        return replace(self.recipe.full, groups={k: int(v.numel()) for k, v in self.alive.items()})

    def _header(self, stage: Stage, plan: ChannelPlan) -> Header:
        r = self.recipe
        return Header(
            format_version=FORMAT_VERSION,
            stage=stage,
            id=r.model.id,
            title=r.model.title,
            task="pix2pix",
            direction=r.data.direction.value,
            plan=plan.as_json(),
            total=dict(r.full.groups),
            target=r.search.target,
            form=r.search.form,
            embedding=r.search.embedding,
            threshold=r.search.threshold,
            min_channels=self.least_channels,
        )

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        o = self.recipe.optimiser
        latents = [p for n, p in module.named_parameters() if n.startswith("latents.")]
        others = [p for n, p in module.named_parameters() if not n.startswith("latents.")]
        groups: list[dict[str, Any]] = [{"params": others, "factor": 1.0}]
        if latents:
            groups.append({"params": latents, "factor": self.recipe.search.latent_lr_factor})
        return torch.optim.Adam(groups, o.lr, (o.beta1, o.beta2), fused=True)

    # What is kept -------------------------------------------------------------------------

    def _save_state(self) -> None:
        """Write `state.pt` and `metrics.csv`, each whole or not at all."""
        state = {
            "recipe": self.recipe.model_dump_json(),
            "step": self.step,
            "searching": self.searching,
            "plan": self._held_plan().as_json(),
            "alive": self.alive,
            "latents": self.latents,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "rows": [tuple(vars(row).values()) for row in self.rows],
        }
        path = self.output / "state.pt"
        with atomic_path(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # its writer hides the system's reason
                raise EnvironmentProblem(
                    f"cannot write {path}: {str(error).splitlines()[0]}",
                    hint="make room; the last state is still there",
                ) from error
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CSV_FIELDS)
        for row in self.rows:
            writer.writerow([getattr(row, field) for field in _CSV_FIELDS])
        write_text(self.output / "metrics.csv", text.getvalue())

    def _held_plan(self) -> ChannelPlan:
        if isinstance(self.generator, CoroNetGenerator):
            return self.generator.plan
        return self._plan()

    def resume(self) -> None:
        """Go on from `state.pt` in the output folder.

        Raises:
            BadInput: there is none, or it is of another recipe.

        """
        path = self.output / "state.pt"
        if not path.is_file():
            raise BadInput(f"{path} does not exist: there is nothing to resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.model_dump_json():
            raise BadInput(f"{path} was written with another recipe")
        plan = ChannelPlan.from_json(state["plan"])
        self.step, self.alive, self.latents = state["step"], state["alive"], state["latents"]
        self.rows = [StepReport(*row) for row in state["rows"]]
        s, r = self.recipe.search, self.recipe
        if state["searching"]:
            self.generator = CoroNetGenerator(
                plan,
                r.full.groups,
                form=s.form,
                embedding=s.embedding,
                threshold=s.threshold,
                min_channels=self.least_channels,
                dropout=r.model.dropout,
            )
        else:
            self.generator = build_generator(plan, dropout=r.model.dropout)
        self.generator.to(self.device).load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer_g, self.optimizer_d = (
            self._adam(self.generator),
            self._adam(self.discriminator),
        )
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])

    def _samples(self) -> None:
        """Write a grid of held-out pictures: input, output, truth."""
        if self.held_out is None:
            return
        chosen = list(range(0, len(self.held_out.pairs), max(len(self.held_out.pairs) // 6, 1)))
        x, truth = self.held_out.whole(chosen[:6])
        self.generator.eval()
        with torch.no_grad():
            y = torch.cat([self.generator(one.to(self.device)[None]).cpu() for one in x])
        save_samples(self.output / "samples" / f"{self.step:06d}.png", [x, y, truth])
