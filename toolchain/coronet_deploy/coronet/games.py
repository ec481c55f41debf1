"""The two games a generator learns in: Pix2Pix on pairs, CycleGAN on two piles of pictures.

Each takes one step of all its players on one batch and returns its losses. The generators are
pruned while they learn (`pupil`), the discriminators stay dense. A game runs every player's
forward passes of a step in one module, which a team of processes can wrap.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.coronet.beginning import Beginning
from coronet_deploy.coronet.pool import ImagePool
from coronet_deploy.coronet.pupil import Pupil, adam, load_moments, placed
from coronet_deploy.coronet.recipe import Precision, Recipe, Task
from coronet_deploy.coronet.team import Team
from coronet_deploy.networks.patchgan import PatchGAN
from coronet_deploy.vocabulary import Norm


class Game(ABC):
    """Pupils, discriminators and their optimisers; `play` takes one step of all of them."""

    losses: ClassVar[tuple[str, ...]]

    def __init__(self, recipe: Recipe, device: torch.device, team: Team) -> None:
        self.recipe, self.device, self.team = recipe, device, team
        self.pupils = [Pupil(recipe, name, device, alone=team.size == 1) for name in recipe.names]
        self.discriminators = nn.ModuleList(self.make_discriminators(recipe))
        placed(recipe, self.discriminators, device)
        self.optimizer_d = adam(recipe, self.discriminators)
        self.pools = [ImagePool(recipe.data.pool, recipe.seed + i, team.rank) for i in range(2)]
        self._players: list[nn.Module] = []

    def begin(self, beginning: Beginning) -> None:
        """Have the players begin with what was trained before, before the first step."""
        for pupil, checkpoint in zip(self.pupils, beginning.generators, strict=True):
            if checkpoint is not None:
                pupil.begin(checkpoint)
        beginning.teach(self.discriminators)

    @classmethod
    @abstractmethod
    def make_discriminators(cls, recipe: Recipe) -> list[nn.Module]:
        """Return discriminators that know nothing, each with the generator it judges."""

    @abstractmethod
    def play(self, x: Tensor, y: Tensor, step: int) -> tuple[float, ...]:
        """Take one step on pictures of the input and the output domain, (N, 3, H, W) each."""

    def regroup(self) -> None:
        """Forget the wrapped players: a network was replaced, or its parameters cut."""
        self._players = []

    @abstractmethod
    def translate(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Return columns of a sample grid for pictures of both domains, in evaluation mode."""

    def players(self) -> list[nn.Module]:
        """Return the generators' and the discriminators' module, wrapped for the team."""
        if not self._players:
            networks = [pupil.network for pupil in self.pupils]
            self._judge_trainable(trainable=True)
            self._players = [
                self.team.wrap(self._generator_side(networks)),
                self.team.wrap(self._discriminator_side(list(self.discriminators))),
            ]
        return self._players

    @abstractmethod
    def _generator_side(self, networks: list[nn.Module]) -> nn.Module: ...

    @abstractmethod
    def _discriminator_side(self, networks: list[nn.Module]) -> nn.Module: ...

    def _autocast(self) -> torch.autocast:
        bf16 = self.recipe.machine.precision is Precision.BF16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _wide(self, tensor: Tensor) -> Tensor:
        """Return what autocast made narrow as losses need it."""
        return tensor.to(self.recipe.machine.dtype)

    def _judge_trainable(self, *, trainable: bool) -> None:
        self.discriminators.requires_grad_(requires_grad=trainable)

    def _judge(self, place: int, pictures: Tensor, *, real: bool) -> Tensor:
        """Return the adversarial loss of `pictures` before a discriminator that does not learn."""
        with self._autocast():
            logits = self.discriminators[place](pictures)
        return self.recipe.loss.gan(self._wide(logits), real=real)

    def _step(self, optimizers: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return all that the game needs to go on; a team calls this together.

        Of what its processes hold each, the pools matter; of BatchNorm's running statistics only
        the leader's are ever used.
        """
        pools = [self.team.gathered(pool.state().to(self.device)) for pool in self.pools]
        return {
            "pupils": [pupil.state() for pupil in self.pupils],
            "discriminators": self.discriminators.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "pools": pools,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Be what `state` returned, of the same recipe."""
        for pupil, held in zip(self.pupils, state["pupils"], strict=True):
            pupil.load(held)
        self.discriminators.load_state_dict(state["discriminators"])
        load_moments(self.optimizer_d, state["optimizer_d"])
        for pool, pictures in zip(self.pools, state["pools"], strict=True):
            # One process's pool alone is what states once held.
            own = pictures if isinstance(pictures, Tensor) else pictures[self.team.rank]
            pool.load(own.to(self.device))
        self.regroup()


class Pix2Pix(Game):
    """Isola et al. (CVPR 2017): a conditional discriminator and an L1 distance to the truth."""

    losses = ("d", "gan", "l1")

    @classmethod
    def make_discriminators(cls, recipe: Recipe) -> list[nn.Module]:
        """Return one, which sees input and output together."""
        full = recipe.full
        channels = full.input_channels + full.output_channels
        return [PatchGAN(channels, full.norm, recipe.discriminator.width)]

    def _generator_side(self, networks: list[nn.Module]) -> nn.Module:
        return networks[0]

    def _discriminator_side(self, networks: list[nn.Module]) -> nn.Module:
        return _Judges(networks, (0, 0))

    def play(self, x: Tensor, y: Tensor, step: int) -> tuple[float, ...]:  # noqa: ARG002 - no pool
        """Take a step of the discriminator, then of the generator, on pairs; see `Game.play`."""
        generator, judges = self.players()
        with self._autocast():
            fake = generator(x)
        fake = self._wide(fake)
        gan = self.recipe.loss.gan

        self._judge_trainable(trainable=True)
        with self._autocast():
            judged, known = judges(torch.cat([x, fake.detach()], 1), torch.cat([x, y], 1))
        loss_d = (gan(self._wide(judged), real=False) + gan(self._wide(known), real=True)) / 2
        self._step([self.optimizer_d], loss_d)

        self._judge_trainable(trainable=False)
        fooled = self._judge(0, torch.cat([x, fake], 1), real=True)
        distance = F.l1_loss(fake, y)
        self._step([self.pupils[0].optimizer], fooled + self.recipe.loss.l1 * distance)
        return _numbers(loss_d, fooled, distance)

    def translate(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Return input, output and truth."""
        return [x, self.pupils[0].network(x), y]


class CycleGAN(Game):
    """Zhu et al. (ICCV 2017): two generators, there and back, on unpaired pictures.

    The pupils are, in order, the generator of the recipe's direction and that of the opposite one,
    pruned each by latents of its own; the discriminators judge their outputs' domains.
    """

    losses = ("d", "d_back", "gan", "gan_back", "cycle", "cycle_back", "identity", "identity_back")

    @classmethod
    def make_discriminators(cls, recipe: Recipe) -> list[nn.Module]:
        """Return one for each domain that is drawn."""
        full, width = recipe.full, recipe.discriminator.width
        return [PatchGAN(full.output_channels, full.norm, width) for _ in range(2)]

    def _generator_side(self, networks: list[nn.Module]) -> nn.Module:
        # Where a picture's output does not depend on its batch, passes can share one.
        alone = self.recipe.full.norm is Norm.INSTANCE
        return _Cycle(networks, identity=self.recipe.loss.identity > 0, shared=alone)

    def _discriminator_side(self, networks: list[nn.Module]) -> nn.Module:
        return _Judges(networks, (0, 0, 1, 1))

    def play(self, x: Tensor, y: Tensor, step: int) -> tuple[float, ...]:
        """Take a step of both generators, then of both discriminators; see `Game.play`."""
        cycle, judges = self.players()
        weights, gan = self.recipe.loss, self.recipe.loss.gan
        with self._autocast(), contextlib.ExitStack() as stack:
            for pupil in self.pupils:
                stack.enter_context(pupil.held())
            pictures = cycle(x, y)
        fake_y, fake_x, again_x, again_y, *same = map(self._wide, pictures)

        self._judge_trainable(trainable=False)
        fooled = [self._judge(0, fake_y, real=True), self._judge(1, fake_x, real=True)]
        cycles = [F.l1_loss(again_x, x), F.l1_loss(again_y, y)]
        same_y, same_x = same or (y, x)
        kept = [F.l1_loss(same_y, y), F.l1_loss(same_x, x)]
        loss = sum(fooled, weights.cycle * (cycles[0] + cycles[1]))
        if weights.identity:
            loss = loss + weights.cycle * weights.identity * (kept[0] + kept[1])
        self._step([pupil.optimizer for pupil in self.pupils], loss)

        self._judge_trainable(trainable=True)
        shown = [pool.swap(f, step) for pool, f in zip(self.pools, (fake_y, fake_x), strict=True)]
        with self._autocast():
            logits = judges(shown[0].detach(), y, shown[1].detach(), x)
        judged = [gan(self._wide(patch), real=bool(i % 2)) for i, patch in enumerate(logits)]
        losses_d = [(judged[0] + judged[1]) / 2, (judged[2] + judged[3]) / 2]
        self._step([self.optimizer_d], losses_d[0] + losses_d[1])
        return _numbers(*losses_d, *fooled, *cycles, *kept)

    def translate(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Return input, output and input again, in the recipe's direction, then in the other."""
        there, back = (pupil.network for pupil in self.pupils)
        fake_y, fake_x = there(x), back(y)
        return [x, fake_y, back(fake_y), y, fake_x, there(fake_x)]


class _Cycle(nn.Module):
    """All passes of both generators that a CycleGAN step needs."""

    def __init__(self, networks: list[nn.Module], *, identity: bool, shared: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.identity, self.shared = identity, shared

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Return fakes of y and x, x and y again, and with `identity` y and x as they came."""
        there, back = self.networks
        if self.identity and self.shared and x.shape == y.shape:
            (fake_y, same_y), (fake_x, same_x) = _both(there, x, y), _both(back, y, x)
            return fake_y, fake_x, back(fake_y), there(fake_x), same_y, same_x
        fake_y, fake_x = there(x), back(y)
        passes = fake_y, fake_x, back(fake_y), there(fake_x)
        return (*passes, there(y), back(x)) if self.identity else passes


class _Judges(nn.Module):
    """Discriminators, each over the pictures that `places` gives it."""

    def __init__(self, networks: list[nn.Module], places: tuple[int, ...]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.places = places

    def forward(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each of `pictures`."""
        return tuple(self.networks[i](p) for i, p in zip(self.places, pictures, strict=True))


def _both(network: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of two batches from one pass."""
    outputs: tuple[Tensor, ...] = network(torch.cat([first, second])).split(len(first))
    return outputs


def _numbers(*losses: Tensor) -> tuple[float, ...]:
    """Return the losses, in one transfer from the device."""
    return tuple(torch.stack([loss.detach() for loss in losses]).cpu().tolist())


GAMES: dict[Task, type[Game]] = {Task.PIX2PIX: Pix2Pix, Task.CYCLEGAN: CycleGAN}
