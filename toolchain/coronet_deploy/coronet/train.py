"""Training that prunes: a search over hypernetworks, the cut, then fine-tuning.

The loop, its schedule and what it keeps; what a step does is the game's (`games`), what happens to
a generator's channels its pupil's (`pupil`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.beginning import Beginning
from coronet_deploy.coronet.checkpoint import Header, save_checkpoint
from coronet_deploy.coronet.course import CALMER, STATE, Course, require_finite
from coronet_deploy.coronet.data import Ahead, Told, open_training, some, untold
from coronet_deploy.coronet.games import GAMES
from coronet_deploy.coronet.lineage import Act
from coronet_deploy.coronet.pupil import Pupil
from coronet_deploy.coronet.recipe import Recipe, Task
from coronet_deploy.coronet.samples import save_samples
from coronet_deploy.coronet.state import StepReport, finished
from coronet_deploy.coronet.team import SOLO, Team
from coronet_deploy.errors import CoronetError, GateFailed

_RECALIBRATION_BATCHES = 200


class Trainer(Course):
    """One training run (see `Course`).

    Its results are `<name>.safetensors`, one for each generator; at the end of the search it writes
    `<name>.search.safetensors`. It begins with what `beginning` holds, or by chance. `told` hears
    of each picture as it is looked at, and of each batch that BatchNorm's statistics are made of.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        output: Path,
        device: str = "cpu",
        team: Team = SOLO,
        told: Told = untold,
        beginning: Beginning | None = None,
    ) -> None:
        game = GAMES[recipe.model.task]
        super().__init__(recipe, output, recipe.steps, game.losses, team)
        self.device = torch.device(device)
        if beginning is not None:
            beginning.teach(game.make_discriminators(recipe))  # what is wrong is told at once
        d = recipe.data
        self.pictures, self.held_out = open_training(
            data,
            d.direction,
            d.load,
            d.crop,
            paired=recipe.model.task is Task.PIX2PIX,
            told=told,
        )
        self._told = told
        self._ahead = Ahead(self.pictures, pinned=self.device.type == "cuda")
        torch.manual_seed(recipe.seed)
        self.game = game(recipe, self.device, team)
        if beginning is not None:
            self.game.begin(beginning)
        self.pupils = self.game.pupils
        self.results = results_of(recipe, output)

    @property
    def searching(self) -> bool:
        """True while the generators are made of hypernetworks."""
        return any(pupil.searching for pupil in self.pupils)

    def _finish(self) -> None:
        self._end_search()
        if self._freeze_at() >= self.recipe.steps:
            self._recalibrate_norms()
        self._require_finite()
        with self.team.together():
            if self.team.leader:
                for pupil, path in zip(self.pupils, self.results, strict=True):
                    self._save_checkpoint(path, pupil, *pupil.result())
        self._save_state()
        self._samples()

    # One step -----------------------------------------------------------------------------

    def _take_step(self) -> StepReport:
        if self.step >= self.recipe.search.steps:
            self._end_search()
        started = time.perf_counter()
        recipe, step, team = self.recipe, self.step, self.team
        d = recipe.data
        # Each process takes its share of one batch of the whole team.
        place = step * team.size + team.rank
        with self._saved_without_pictures():
            batch = self._ahead.batch(place, d.batch, d.crop, recipe.seed, stride=team.size)
        dtype = recipe.machine.dtype
        x, y = (pictures.to(self.device, dtype, non_blocking=True) for pictures in batch)
        if recipe.machine.channels_last:
            x, y = (p.contiguous(memory_format=torch.channels_last) for p in (x, y))
        lr = self._set_learning_rate()
        self._set_modes()
        # Dropout as on a run that was never stopped, and of each process its own.
        torch.manual_seed((recipe.seed * 1_000_003 + step) * team.size + team.rank)
        losses = team.mean(list(self.game.play(x, y, step)))
        named = dict(zip(self.game.losses, losses, strict=True))
        if not all(map(math.isfinite, losses)):
            shown = ", ".join(f"{name} {value}" for name, value in named.items())
            raise GateFailed(
                f"training step {step}: losses {shown} are not all finite", hint=CALMER
            )
        phase = "search" if self.searching else "finetune"
        shrinkage = sum(pupil.prune(step) for pupil in self.pupils) / len(self.pupils)
        if self.searching and (step + 1) % recipe.search.slice_every == 0:
            self._agree()
            for pupil in self.pupils:
                pupil.slice()
        ratio = sum(pupil.ratio for pupil in self.pupils) / len(self.pupils)
        return StepReport(
            step,
            recipe.steps,
            phase,
            ratio,
            shrinkage,
            lr,
            named,
            d.batch * team.size,
            time.perf_counter() - started,
        )

    @contextlib.contextmanager
    def _saved_without_pictures(self) -> Iterator[None]:
        """Save the state if a picture cannot be read, by this process or another of the team."""
        try:
            with self.team.together():
                yield
        except CoronetError:
            self._save_state()
            raise

    def _set_modes(self) -> None:
        frozen = not self.searching and self.step >= self._freeze_at()
        if frozen and self.step == self._freeze_at():
            self._recalibrate_norms()
        for pupil in self.pupils:
            pupil.network.train()
            if frozen:
                for norm in _batch_norms(pupil.network):
                    norm.eval()

    def _freeze_at(self) -> int:
        r = self.recipe
        return r.search.steps + math.ceil(r.finetune.steps * r.finetune.freeze_norm_from)

    def _set_learning_rate(self) -> float:
        r = self.recipe
        done = (self.step - r.search.steps) / max(r.finetune.steps, 1)
        decayed = (1 - done) / max(1 - r.finetune.decay_from, 1e-9)
        lr = r.optimiser.lr * (1.0 if done < r.finetune.decay_from else decayed)
        for optimizer in (self.game.optimizer_d, *(pupil.optimizer for pupil in self.pupils)):
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
        return lr

    @torch.no_grad()
    def _recalibrate_norms(self) -> None:
        """Set BatchNorm's running statistics to their mean over training batches.

        The exponential average that training keeps remembers about ten batches: too few for
        batches of one picture. A team takes the leader's.
        """
        d = self.recipe.data
        for place, pupil in enumerate(self.pupils):
            norms = _batch_norms(pupil.network)
            if not norms:
                return
            # Dropout as on a run that was never stopped, here too.
            torch.manual_seed(self.recipe.seed + place)
            pupil.network.train()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
            with self._saved_without_pictures():
                for i in range(_RECALIBRATION_BATCHES):
                    batch = self.pictures.batch(i, d.batch, d.crop, self.recipe.seed + 1)
                    pupil.network(batch[place].to(self.device, self.recipe.machine.dtype))
                    what = f"batches for the BatchNorm statistics of {pupil.name}"
                    self._told(what, i + 1, _RECALIBRATION_BATCHES)
            for norm in norms:
                norm.momentum = 0.1
                for buffer in norm.buffers():
                    self.team.same(buffer)

    def _end_search(self) -> None:
        """Cut to the target, keep the searches' checkpoints, go on with the plain networks."""
        if not self.searching:
            return
        self._require_finite()
        self._agree()
        searches = [pupil.cut() for pupil in self.pupils]
        self._require_finite()  # what finite hypernetworks make may not be
        with self.team.together():
            for pupil, searched in zip(self.pupils, searches, strict=True):
                if searched and self.team.leader:
                    path = self.output / f"{pupil.name}.search.safetensors"
                    self._save_checkpoint(path, pupil, *searched)

    def _save_checkpoint(
        self, path: Path, pupil: Pupil, header: Header, tensors: Mapping[str, Tensor]
    ) -> None:
        header = self._with_history(header, Act.TRAINED, pupil.origin, pupil.past)
        save_checkpoint(path, header, tensors)

    def _agree(self) -> None:
        """Have the leader's latents everywhere: what is cut next must be the same channels."""
        self.game.regroup()
        for pupil in self.pupils:
            for vector in pupil.latents_now():
                self.team.same(vector)

    def _require_finite(self) -> None:
        for pupil in self.pupils:
            require_finite(pupil.network, f"training step {self.step}", pupil.name)

    # What is kept -------------------------------------------------------------------------

    def _kept(self) -> dict[str, Any]:
        return self.game.state()

    def _restore(self, kept: dict[str, Any]) -> None:
        self.game.load(kept)

    def _samples(self) -> None:
        if self.held_out is None or not self.team.leader:
            return
        x, y = some(self.held_out)
        for pupil in self.pupils:
            pupil.network.eval()

        def place(picture: Tensor) -> Tensor:
            return picture.to(self.device, self.recipe.machine.dtype)

        with torch.no_grad():
            rows = [
                [c.float().cpu() for c in self.game.translate(*(place(p[None]) for p in pair))]
                for pair in zip(x, y, strict=True)
            ]
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        save_samples(self.output / "samples" / f"{self.step:06d}.png", columns)


def results_of(recipe: Recipe, output: Path) -> list[Path]:
    """Return where a training in `output` writes its generators, that of its direction first."""
    return [output / f"{name}.safetensors" for name in recipe.names]


def is_finished(recipe: Recipe, output: Path) -> bool:
    """Return whether `output` holds a training that is at its end (see `finished`)."""
    kept = finished(output / STATE, recipe, recipe.steps, results_of(recipe, output))
    return kept is not None


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
