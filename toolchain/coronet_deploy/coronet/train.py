"""Training that prunes: a search over hypernetworks, the cut, then fine-tuning.

The loop, its schedule and what it keeps; what a step does is the game's (`games`), what happens to
a generator's channels its pupil's (`pupil`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import save_checkpoint
from coronet_deploy.coronet.data import Ahead, Told, open_training, untold
from coronet_deploy.coronet.endings import stop_requests
from coronet_deploy.coronet.games import GAMES
from coronet_deploy.coronet.recipe import Recipe, Task
from coronet_deploy.coronet.samples import save_samples
from coronet_deploy.coronet.state import (
    Metrics,
    StepReport,
    broken,
    circumstances,
    read_state,
    write_state,
)
from coronet_deploy.coronet.team import SOLO, Team
from coronet_deploy.errors import BadInput, CoronetError, GateFailed

_RECALIBRATION_BATCHES = 200
_SAMPLES = 6
_CALMER = "train anew with a lower optimiser.lr"


class Trainer:
    """One training run, in memory; `run` takes it from where it is to its end.

    In `output` the team's leader keeps `state.pt` (to resume from), `metrics.csv`, `samples/`, and
    at the end of each phase `<name>.search.safetensors` and `<name>.safetensors`, the result, for
    each generator. `told` hears of each picture as it is looked at.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        output: Path,
        device: str = "cpu",
        team: Team = SOLO,
        told: Told = untold,
    ) -> None:
        self.recipe, self.output, self.team = recipe, output, team
        self.device = torch.device(device)
        d = recipe.data
        self.pictures, self.held_out = open_training(
            data,
            d.direction,
            d.load,
            d.crop,
            paired=recipe.model.task is Task.PIX2PIX,
            told=told,
        )
        self._ahead = Ahead(self.pictures, pinned=self.device.type == "cuda")
        torch.manual_seed(recipe.seed)
        self.game = GAMES[recipe.model.task](recipe, self.device, team)
        self.pupils = self.game.pupils
        self.step = 0
        self.metrics = Metrics(output / "metrics.csv", self.game.losses)

    @property
    def rows(self) -> list[StepReport]:
        """What the steps so far did."""
        return self.metrics.rows

    @property
    def searching(self) -> bool:
        """True while the generators are made of hypernetworks."""
        return self.pupils[0].searching

    @property
    def results(self) -> list[Path]:
        """Where each generator's checkpoint goes."""
        return [self.output / f"{pupil.name}.safetensors" for pupil in self.pupils]

    @property
    def _state(self) -> Path:
        return self.output / "state.pt"

    def run(self, report: Callable[[StepReport], None], save_every: int = 500) -> Path:
        """Train to the end and return the checkpoint's path: the recipe's direction's.

        Ctrl-C, SIGTERM and SIGHUP end the step in hand, save the state and raise
        `KeyboardInterrupt`; after the last step they change nothing, unless Ctrl-C comes twice.

        Raises:
            BadInput: a picture cannot be read; the state before its step is saved.
            EnvironmentProblem: the disk refuses a file, or another process of the team failed.
            GateFailed: a loss or a weight is no longer finite; the last state stays on disk.

        """
        with stop_requests() as asked:
            while self.step < self.recipe.steps:
                if self.step >= self.recipe.search.steps:
                    self._end_search()
                row = self._train_step()
                self.step += 1
                self.rows.append(row)
                report(row)
                stop = self.team.any(asked.is_set())
                if stop or (self.step % save_every == 0 and self.step < self.recipe.steps):
                    self._save_state()
                    self._samples()
                if stop:
                    raise KeyboardInterrupt
            self._finish()
        return self.results[0]

    def _finish(self) -> None:
        """Write the results, and what the last steps left."""
        self._end_search()
        if self._freeze_at() >= self.recipe.steps:
            self._recalibrate_norms()
        self._require_finite()
        with self.team.together():
            if self.team.leader:
                for pupil, path in zip(self.pupils, self.results, strict=True):
                    save_checkpoint(path, *pupil.result())
        self._save_state()
        self._samples()

    # One step -----------------------------------------------------------------------------

    def _train_step(self) -> StepReport:
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
                f"training step {step}: losses {shown} are not all finite", hint=_CALMER
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
                    save_checkpoint(self.output / f"{pupil.name}.search.safetensors", *searched)

    def _agree(self) -> None:
        """Have the leader's latents everywhere: what is cut next must be the same channels."""
        self.game.regroup()
        for pupil in self.pupils:
            for vector in pupil.latents_now():
                self.team.same(vector)

    def _require_finite(self) -> None:
        """Raise GateFailed if a weight is no number: losses tell that a step later only."""
        for pupil in self.pupils:
            for name, tensor in pupil.network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise GateFailed(
                        f"training step {self.step}: {name} of {pupil.name} is not finite",
                        hint=_CALMER,
                    )

    # What is kept -------------------------------------------------------------------------

    def _save_state(self) -> None:
        """Write `state.pt` and `metrics.csv`, each whole or not at all."""
        self._require_finite()
        game = self.game.state()  # which the whole team makes
        with self.team.together():
            if self.team.leader:
                state = {
                    "recipe": self.recipe.model_dump_json(),
                    "step": self.step,
                    "circumstances": circumstances(self.pictures, self.team.size),
                    "game": game,
                    "rows": self.metrics.pending(),
                }
                write_state(self._state, state)
                self.metrics.save()

    def resume(self) -> None:
        """Go on from `state.pt` in the output folder, which every process of a team reads.

        Raises:
            BadInput: there is none, it is broken, or it is of another recipe, other pictures or
                another number of processes.

        """
        path = self._state
        state = read_state(path, self.recipe, circumstances(self.pictures, self.team.size))
        try:
            self.step = state["step"]
            self.metrics.load(state["rows"], self.recipe.steps)
            self.game.load(state["game"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise broken(path) from error

    def require_new(self) -> None:
        """Raise BadInput if the output folder holds a training, which this one would replace."""
        for path in (self._state, *self.results):
            if path.exists():
                raise BadInput(
                    f"{path} is of an earlier training",
                    hint="go on with it by --resume, or choose another --output",
                )

    def _samples(self) -> None:
        """Write a grid of held-out pictures, as the game lays them out."""
        if self.held_out is None or not self.team.leader:
            return
        count = len(self.held_out)
        x, y = self.held_out.whole(list(range(0, count, max(count // _SAMPLES, 1)))[:_SAMPLES])
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


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
