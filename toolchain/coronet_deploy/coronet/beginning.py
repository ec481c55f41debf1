"""What a training begins with other than chance: generators that were trained before.

They come from a finished training's folder, from pytorch-CycleGAN-and-pix2pix's, or as checkpoints
by themselves. Discriminators come with a folder, and with a `*_net_G*.pth` that has its `*_net_D*`
beside it: a generator that draws well may unlearn before ones that know nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import Checkpoint, load_checkpoint, load_strictly
from coronet_deploy.coronet.course import STATE
from coronet_deploy.coronet.data import Direction
from coronet_deploy.coronet.foreign import read_tensors, without_compiled, without_parallel
from coronet_deploy.coronet.recipe import Recipe, Task
from coronet_deploy.coronet.state import broken, read_whole_state
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import ChannelPlan, Norm

_GENERATOR, _DISCRIMINATOR = "_net_G", "_net_D"  # in file names of pytorch-CycleGAN-and-pix2pix
_LATEST = "latest"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Judge:
    """A discriminator's tensors, and the file that they are from."""

    path: Path
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Beginning:
    """What each player begins with, in the order of the recipe's generators; None by chance."""

    generators: tuple[Checkpoint | None, ...]
    judges: tuple[Judge | None, ...]

    def teach(self, discriminators: Iterable[nn.Module]) -> None:
        """Load the judges' tensors into discriminators.

        Raises:
            BadInput: a judge is another one than the recipe's; names file and tensor.

        """
        for network, judge in zip(discriminators, self.judges, strict=True):
            if judge is None:
                continue
            try:
                load_strictly(judge.path, network, judge.tensors)
            except BadInput as error:
                raise BadInput(
                    f"{error.what} (a discriminator)",
                    hint="its width is discriminator.width; a generator alone in a folder has none",
                ) from error

    def told(self, names: Sequence[str]) -> str:
        """Return a line that says who begins with what; `names` are the generators'."""
        begin = [
            f"{name} {f'with {one.path}' if one else 'by chance'}"
            for name, one in zip(names, self.generators, strict=True)
        ]
        missing = sum(judge is None for judge in self.judges)
        if missing:
            whose = "the discriminator" if len(names) == 1 else f"{missing} discriminators"
            begin.append(f"{whose} by chance")
        return f"begins: {', '.join(begin)}"


def read_beginning(given: Sequence[Path], recipe: Recipe) -> Beginning:
    """Return what a training of `recipe` begins with: a folder, or a checkpoint a generator.

    Raises:
        BadInput: a file is missing or broken, or of a generator that is not this recipe's.

    """
    wanted = len(recipe.names)
    if len(given) == 1 and given[0].is_dir():
        beginning = _from_folder(given[0], recipe)
    elif len(given) > wanted:
        raise BadInput(
            f"--from takes a folder, or at most {wanted} checkpoint{'s' * (wanted > 1)} in "
            f"{recipe.model.task}"
        )
    else:
        paths = [*given, *[None] * (wanted - len(given))]
        beginning = Beginning(
            tuple(load_checkpoint(path) if path else None for path in paths),
            tuple(_judge_beside(path, recipe) if path else None for path in paths),
        )
    for checkpoint in filter(None, beginning.generators):
        _require_fitting(checkpoint, recipe)
    return beginning


def _from_folder(folder: Path, recipe: Recipe) -> Beginning:
    if (folder / STATE).is_file():
        return _from_ours(folder, recipe)
    alone = recipe.model.task is Task.PIX2PIX
    names = [f"{_LATEST}{_GENERATOR}{letter}.pth" for letter in ([""] if alone else ["_A", "_B"])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BadInput(
            f"{folder} holds neither {STATE} of a training nor, for {recipe.model.task}, "
            f"{' and '.join(missing)}"
        )
    paths = [folder / name for name in names]
    if recipe.data.direction is Direction.B_TO_A and not alone:  # their G_A leads from A to B
        paths.reverse()
    return Beginning(
        tuple(load_checkpoint(path) for path in paths),
        tuple(_judge_beside(path, recipe) for path in paths),
    )


def _from_ours(folder: Path, recipe: Recipe) -> Beginning:
    """Return the players of a finished training, the generators by where they lead."""
    path = folder / STATE
    earlier, state = read_whole_state(path)
    if earlier.model.task is not recipe.model.task:
        raise BadInput(f"{path} is of {earlier.model.task}, the recipe of {recipe.model.task}")
    results = [folder / f"{name}.safetensors" for name in earlier.names]
    if state["step"] != earlier.steps or not all(map(Path.is_file, results)):
        raise BadInput(
            f"{folder} holds a training that is not at its end", hint="finish it by --resume"
        )
    generators = [load_checkpoint(result) for result in results]
    judges = [Judge(path, _numbered(path, state, i)) for i in range(len(results))]
    if earlier.data.direction is not recipe.data.direction and len(results) > 1:
        generators.reverse()
        judges.reverse()
    return Beginning(tuple(generators), tuple(judges))


def _numbered(path: Path, state: Mapping[str, Any], number: int) -> dict[str, Tensor]:
    """Return the tensors of one discriminator of a state, by the names that it has for them."""
    try:
        tensors = state["game"]["discriminators"]
        pairs = ((name.partition("."), tensor) for name, tensor in tensors.items())
        held = {name: tensor for (first, _, name), tensor in pairs if first == str(number)}
    except (AttributeError, KeyError, TypeError) as error:
        raise broken(path) from error
    if not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise broken(path)
    return held


def _judge_beside(generator: Path, recipe: Recipe) -> Judge | None:
    """Return the discriminator of pytorch-CycleGAN-and-pix2pix that belongs to a generator."""
    path = generator.with_name(generator.name.replace(_GENERATOR, _DISCRIMINATOR))
    if path == generator or not path.is_file():
        return None
    tensors = without_parallel(without_compiled(read_tensors(path)))
    if recipe.model.norm is Norm.INSTANCE:
        # Old versions of that project saved statistics of InstanceNorm that are never used.
        tensors = {k: v for k, v in tensors.items() if not k.endswith(_STATISTICS)}
    return Judge(path, tensors)


def _require_fitting(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Let a generator through that this recipe can go on from."""
    path, full = checkpoint.path, recipe.full
    if (held := _kind(checkpoint.full)) != (asked := _kind(full)):
        raise BadInput(
            f"{path} is a generator of {held}, the recipe's is of {asked}",
            hint="say its by --set model.width, model.norm or model.architecture",
        )
    if checkpoint.full != full:
        raise BadInput(f"{path} is no generator of the recipe's: its layers have other widths")
    ratio, what = recipe.controller().ratio(checkpoint.plan), recipe.search.measure.label
    if not recipe.prunes and checkpoint.plan != full:
        raise BadInput(
            f"{path} has {ratio:.4f} of the {what}, and search.target=1 trains what is whole",
            hint=f"--set search.target={min(ratio + 5e-5, 1):.4f} --set search.steps=0",
        )
    if recipe.prunes and recipe.search.steps and ratio <= recipe.target_ratio:
        raise BadInput(
            f"{path} has {ratio:.4f} of the {what} already, search.target is "
            f"{recipe.target_ratio:.4g}",
            hint="--set search.steps=0 trains it on as it is",
        )


def _kind(plan: ChannelPlan) -> str:
    """Return what a plan's generator is called, in a recipe's words."""
    first = next(iter(plan.groups.values()))
    return (
        f"{plan.architecture}, {plan.norm} norm, width {first}, "
        f"{plan.input_channels} to {plan.output_channels} channels"
    )
