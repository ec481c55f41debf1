"""A run of many steps, which can be stopped anywhere and gone on with to the same end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coronet_deploy.coronet.checkpoint import Header
from coronet_deploy.coronet.data import Pictures
from coronet_deploy.coronet.endings import stop_requests
from coronet_deploy.coronet.lineage import (
    MOST_TRAININGS,
    Act,
    Origin,
    Training,
    trainers_tools,
)
from coronet_deploy.coronet.own_pictures import leave_pictures
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.state import (
    Metrics,
    StepReport,
    broken,
    circumstances,
    read_state,
    write_state,
)
from coronet_deploy.coronet.team import SOLO, Team
from coronet_deploy.errors import BadInput, GateFailed

STATE = "state.pt"
"""What a run's folder keeps to go on from."""

CALMER = "train anew with a lower optimiser.lr"


class Course(ABC):
    """One run of `steps` steps, in memory; `run` takes it from where it is to its end.

    In `output` the team's leader keeps `state.pt` (to resume from), `metrics.csv`, `samples/`, for
    each result pictures of its task (`own_pictures`), and at the end the results.
    """

    pictures: Pictures
    held_out: Pictures | None
    device: torch.device
    results: list[Path]

    def __init__(
        self, recipe: Recipe, output: Path, steps: int, losses: Sequence[str], team: Team = SOLO
    ) -> None:
        self.recipe, self.output, self.steps, self.team = recipe, output, steps, team
        self.step = 0
        self.metrics = Metrics(output / "metrics.csv", losses)

    @property
    def rows(self) -> list[StepReport]:
        """What the steps so far did."""
        return self.metrics.rows

    @property
    def _state(self) -> Path:
        return self.output / STATE

    def run(self, report: Callable[[StepReport], None], save_every: int = 500) -> Path:
        """Go to the end and return the first result's path: the recipe's direction's.

        Ctrl-C, SIGTERM and SIGHUP end the step in hand, save the state and raise
        `KeyboardInterrupt`; after the last step they change nothing, unless Ctrl-C comes twice.

        Raises:
            BadInput: a picture cannot be read; the state before its step is saved.
            EnvironmentProblem: the disk refuses a file, or another process of the team failed.
            GateFailed: a loss or a weight is no longer finite; the last state stays on disk.

        """
        with stop_requests() as asked:
            self._leave_pictures()
            while self.step < self.steps:
                row = self._take_step()
                self.step += 1
                self.rows.append(row)
                report(row)
                stop = self.team.any(asked.is_set())
                if stop or (self.step % save_every == 0 and self.step < self.steps):
                    self._save_state()
                    self._samples()
                if stop:
                    raise KeyboardInterrupt
            self._finish()
        return self.results[0]

    def _leave_pictures(self) -> None:
        """Lay pictures of each coming result's task where `export` will look for them."""
        with self.team.together():
            for domain, result in enumerate(self.results if self.team.leader else ()):
                pictures = self.pictures, self.held_out
                leave_pictures(result, *pictures, domain, anew=self.step == 0)

    @abstractmethod
    def _take_step(self) -> StepReport:
        """Take the step `self.step` and say what it did."""

    @abstractmethod
    def _finish(self) -> None:
        """Write the results, and what the last steps left."""

    @abstractmethod
    def _samples(self) -> None:
        """Write a grid of pictures, for eyes."""

    @abstractmethod
    def _require_finite(self) -> None:
        """Raise GateFailed if a weight is no number: losses tell that a step later only."""

    @abstractmethod
    def _kept(self) -> dict[str, Any]:
        """Return all that is needed to go on; a team calls this together."""

    @abstractmethod
    def _restore(self, kept: dict[str, Any]) -> None:
        """Be where `_kept` was called."""

    def _with_history(
        self, header: Header, act: Act, origin: Origin | None, past: Sequence[Training]
    ) -> Header:
        """Return the header of what this run has reached, with it as the last of its history."""
        training = Training(
            act=act,
            steps=self.step,
            recipe=self.recipe.model_dump(mode="json"),
            origin=origin,
            pictures=len(self.pictures.names),
            processes=self.team.size,
            device=self.device.type,
            tools=trainers_tools(),
        )
        return header.model_copy(update={"history": (*past, training)[-MOST_TRAININGS:]})

    def _save_state(self) -> None:
        """Write `state.pt` and `metrics.csv`, each whole or not at all."""
        self._require_finite()
        kept = self._kept()
        with self.team.together():
            if self.team.leader:
                state = {
                    "recipe": self.recipe.model_dump_json(),
                    "step": self.step,
                    "circumstances": circumstances(self.pictures, self.team.size),
                    "game": kept,
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
            self.metrics.load(state["rows"], self.step, self.steps)
            self._restore(state["game"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise broken(path) from error

    def require_new(self) -> None:
        """Raise BadInput if the output folder holds a training, which this one would replace."""
        refuse_earlier([self._state, *self.results])


def refuse_earlier(paths: Iterable[Path]) -> None:
    """Raise BadInput if one of a training's files is there already; names it."""
    for path in paths:
        if path.exists():
            raise BadInput(
                f"{path} is of an earlier training",
                hint="go on with it by --resume, or choose another --output",
            )


def require_finite(network: nn.Module, when: str, whose: str) -> None:
    """Raise GateFailed if a weight of `network` is no number; names it."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise GateFailed(f"{when}: {name} of {whose} is not finite", hint=CALMER)
