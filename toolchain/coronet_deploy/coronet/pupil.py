"""One generator on its way through a training run: the search, the cut, fine-tuning.

While searching it is made of hypernetworks: every optimiser step is followed by a proximal step
as strong as the controller says, and dead channels are sliced out every so many steps, so that
steps get cheaper. The cut network is trained on as an ordinary one with a fresh optimiser.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    Header,
    Stage,
    finetuned_tensors,
)
from coronet_deploy.coronet.data import Direction
from coronet_deploy.coronet.generator import CoroNetGenerator, kept_channels, slice_dead
from coronet_deploy.coronet.hypernetwork import Form
from coronet_deploy.coronet.lineage import Origin, Training
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.stepping import step_from_weights
from coronet_deploy.coronet.takeover import take_over
from coronet_deploy.networks.generator import build_generator
from coronet_deploy.networks.layers import INPUT, OUTPUT
from coronet_deploy.networks.patchgan import normal_init
from coronet_deploy.vocabulary import ChannelPlan


class Pupil:
    """A generator that is trained, with its optimiser and what is known of its channels.

    `network` maps (N, 3, H, W) in [-1, 1] to the same and is replaced by the cut one when the
    search ends. A recipe with a target of 1 prunes nothing: its network is a plain one throughout.
    `name` goes into file names: the recipe's id, or that of the opposite direction. `alone` says
    that nobody else's gradients have to be awaited before a step.
    """

    def __init__(
        self, recipe: Recipe, name: str, device: torch.device, *, alone: bool = True
    ) -> None:
        self.recipe, self.name, self.device, self.alone = recipe, name, device, alone
        self.controller = recipe.controller()
        # Which of the first channels live, and once the search is over the full-length latents,
        # dead entries zero.
        self.alive = {k: torch.arange(n) for k, n in recipe.full.groups.items()}
        self.latents: dict[str, Tensor] = {}
        self.chosen = _choice_of(recipe)
        self.origin: Origin | None = None
        self.past: tuple[Training, ...] = ()  # before this training
        self.network = self._searched(recipe.full) if recipe.prunes else self._plain(recipe.full)
        if not recipe.prunes:
            self.network.apply(normal_init)
        self.optimizer = self._adam()

    def begin(self, checkpoint: Checkpoint) -> None:
        """Begin with a trained generator, of the recipe's plan or a part of it, not by chance.

        What is above the target is searched from there on; what is not is trained as it is.
        """
        plan, dense = checkpoint.plan, checkpoint.generator()
        self.origin, self.past = checkpoint.origin, checkpoint.header.history
        self.alive = {k: torch.arange(n) for k, n in plan.groups.items()}
        if (latents := checkpoint.latents) is not None:
            self.alive = {k: latents.keep(k).nonzero().flatten() for k in plan.groups}
        if self.controller.ratio(plan) > self.recipe.target_ratio:
            self.network = self._searched(plan)
            take_over(self.network, dense)
        else:
            self.network = self._plain(plan)
            self.network.load_state_dict(dense.state_dict())
            if latents is not None:  # what chose its channels goes with it
                self.latents = {k: v.detach().clone() for k, v in latents.vectors.items()}
                self.chosen = {name: getattr(checkpoint.header, name) for name in self.chosen}
        self.optimizer = self._adam()

    def _searched(self, plan: ChannelPlan) -> CoroNetGenerator:
        s = self.recipe.search
        return CoroNetGenerator(
            plan,
            self.recipe.full.groups,
            form=s.form,
            embedding=s.embedding,
            threshold=s.threshold,
            min_channels=s.least_channels,
            dropout=self.recipe.model.dropout,
        ).to(self.device, self.recipe.machine.dtype)

    def _plain(self, plan: ChannelPlan) -> nn.Module:
        dense = build_generator(plan, dropout=self.recipe.model.dropout)
        return placed(self.recipe, dense, self.device)

    def _adam(self) -> torch.optim.Adam:
        """Return the network's optimiser; in a search, steps are taken as `stepping` does."""
        optimizer = adam(self.recipe, self.network)
        if isinstance(self.network, CoroNetGenerator):
            step_from_weights(self.network, optimizer, early=self.alone)
        return optimizer

    @property
    def searching(self) -> bool:
        """True while the network is made of hypernetworks."""
        return isinstance(self.network, CoroNetGenerator)

    @property
    def plan(self) -> ChannelPlan:
        """The channels that live."""
        if isinstance(self.network, CoroNetGenerator):
            return self.network.latents.living_plan()
        return replace(self.recipe.full, groups={k: int(v.numel()) for k, v in self.alive.items()})

    @property
    def ratio(self) -> float:
        """The living share of what the recipe's target counts."""
        return self.controller.ratio(self.plan)

    def prune(self, step: int) -> float:
        """Take the proximal step that follows optimiser step `step`; return the shrinkage."""
        if not isinstance(self.network, CoroNetGenerator):
            return 0.0
        latents = self.network.latents
        shrinkage = self.controller.shrinkage(latents, step)
        latents.proximal_step(shrinkage)
        self.controller.hold(latents)
        return shrinkage

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Have several passes ask once what follows from the latents, which do not change."""
        if not isinstance(self.network, CoroNetGenerator):
            return contextlib.nullcontext()
        return self.network.latents.held()

    def latents_now(self) -> list[Tensor]:
        """Return the latent vectors while there are some, as they are in memory."""
        if not isinstance(self.network, CoroNetGenerator):
            return []
        return [vector.data for vector in self.network.latents.parameters()]

    def slice(self) -> None:
        """Slice dead channels out, and remember which of the first ones live."""
        if not isinstance(self.network, CoroNetGenerator):
            return
        latents = self.network.latents
        for group in self.alive:
            self.alive[group] = self.alive[group][kept_channels(latents, [group]).cpu()]
        slice_dead(self.network, self.optimizer)

    def cut(self) -> tuple[Header, dict[str, Tensor]] | None:
        """Cut to the target and go on as a plain network; return the search's checkpoint.

        Nothing happens, and nothing is returned, if that was done before.
        """
        if not isinstance(self.network, CoroNetGenerator):
            return None
        latents = self.network.latents
        self.controller.cut(latents)
        self.slice()
        for group in (INPUT, OUTPUT, *self.alive):
            held = latents.vectors[group].detach().float().cpu()
            vector = torch.zeros(self.recipe.full.groups.get(group, held.numel()))
            vector[self.alive.get(group, torch.arange(held.numel()))] = held
            self.latents[group] = vector
        searched = self._header(Stage.SEARCH), _narrow(self.network.state_dict())
        dense = materialize(self.network)
        self.network = self._plain(self.plan)
        self.network.load_state_dict(dense.state_dict())
        self.optimizer = self._adam()
        return searched

    def result(self) -> tuple[Header, dict[str, Tensor]]:
        """Return the checkpoint of the trained network; its search must be over."""
        if not self.latents:  # never searched: whole, or begun with what was cut before
            tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
            return self._header(Stage.DENSE), _narrow(tensors)
        tensors = finetuned_tensors(self.network, self.latents)
        return self._header(Stage.FINETUNED), _narrow(tensors)

    def state(self) -> dict[str, Any]:
        """Return all that training needs to go on."""
        held = self.network.plan if isinstance(self.network, CoroNetGenerator) else self.plan
        return {
            "searching": self.searching,
            "plan": held.as_json(),
            "alive": self.alive,
            "latents": self.latents,
            "chosen": {**self.chosen, "form": self.chosen["form"].value},
            "origin": self.origin and self.origin.model_dump(),
            "past": [training.model_dump(mode="json") for training in self.past],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Be what `state` returned, of the same recipe."""
        plan = ChannelPlan.from_json(state["plan"])
        # Indices and latents stay in main memory whatever device the networks are loaded to.
        self.alive = {k: v.cpu() for k, v in state["alive"].items()}
        self.latents = {k: v.cpu() for k, v in state["latents"].items()}
        chosen = state.get("chosen", self.chosen)  # older states tell of none of these
        self.chosen = {**chosen, "form": Form(chosen["form"])}
        origin = state.get("origin")
        self.origin = Origin(**origin) if origin else None
        self.past = tuple(Training(**training) for training in state.get("past", ()))
        del self.network, self.optimizer  # there need not be room for two
        gc.collect()  # an optimiser and what it calls before a step hold one another
        self.network = self._searched(plan) if state["searching"] else self._plain(plan)
        self.network.load_state_dict(state["network"])
        self.optimizer = self._adam()
        load_moments(self.optimizer, state["optimizer"])

    def _header(self, stage: Stage) -> Header:
        r = self.recipe
        return Header(
            format_version=FORMAT_VERSION,
            stage=stage,
            id=self.name,
            title=r.model.title if self.name == r.model.id else f"{r.model.title}, reversed",
            task=r.model.task.value,
            direction=_direction(r, reverse=self.name != r.model.id).value,
            plan=self.plan.as_json(),
            total=dict(r.full.groups),
            **self.chosen,
        )


def _choice_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a checkpoint tells of the search that chooses its channels."""
    search = recipe.search
    return {
        "target": recipe.target_ratio if recipe.prunes else None,
        "form": search.form,
        "embedding": search.embedding,
        "threshold": search.threshold,
        "min_channels": search.least_channels,
    }


def _direction(recipe: Recipe, *, reverse: bool) -> Direction:
    """Return which way a pupil translates."""
    if not reverse:
        return recipe.data.direction
    there = recipe.data.direction is Direction.A_TO_B
    return Direction.B_TO_A if there else Direction.A_TO_B


def _narrow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return real tensors in float32, as checkpoints hold them."""
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def placed(recipe: Recipe, module: nn.Module, device: torch.device) -> nn.Module:
    """Return `module` as the recipe's machine wants it; before its optimiser is made.

    Adam's fused step walks a weight and its moments through memory side by side, so a weight's
    layout must not change under it. Only plain convolutions' is one that torch's kernels look at.
    """
    module.to(device, recipe.machine.dtype)
    if recipe.machine.channels_last:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # unlisted
    return module


def load_moments(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Give `optimizer` the state of another one of its kind, moments laid out as weights are."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter).copy_(value)


def adam(recipe: Recipe, module: nn.Module) -> torch.optim.Adam:
    """Return the recipe's Adam for `module`; latents learn faster by the recipe's factor."""
    o = recipe.optimiser
    latents = [p for n, p in module.named_parameters() if n.startswith("latents.")]
    others = [p for n, p in module.named_parameters() if not n.startswith("latents.")]
    groups: list[dict[str, Any]] = [{"params": others, "factor": 1.0}]
    if latents:
        groups.append({"params": latents, "factor": recipe.search.latent_lr_factor})
    return torch.optim.Adam(groups, o.lr, (o.beta1, o.beta2), o.eps, fused=True)
