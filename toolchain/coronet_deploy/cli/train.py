"""`coronet-deploy train`: a recipe and pictures to a CoroNet checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import check_folder
from coronet_deploy.cli._device import usable_device
from coronet_deploy.cli._shared import torch_loading
from coronet_deploy.cli._train_results import Tuned, print_results
from coronet_deploy.cli._train_told import (
    Progress,
    Reading,
    summary_writer,
    tell_faster,
    tensorboard,
)
from coronet_deploy.cli.bench import positive
from coronet_deploy.errors import BadInput
from coronet_deploy.locks import exclusive
from coronet_deploy.memory import memory_told
from coronet_deploy.storage import remove_leftovers, require_utf8

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.coronet.course import Course
    from coronet_deploy.coronet.recipe import Recipe
    from coronet_deploy.coronet.state import StepReport
    from coronet_deploy.coronet.team import Team
    from coronet_deploy.coronet.train import Trainer

HELP = "train a generator that is pruned while it trains, from a recipe"

_LESS = "lower data.batch or model.width, or set search.form=collapsed; the last saved state stands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "recipe",
        type=Path,
        metavar="RECIPE",
        help="recipe (TOML), or the name of a bundled one, such as facades-unet256",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with train/ (pairs side by side), or trainA/ and trainB/ (CycleGAN, or "
        "pairs of equal names); for samples val/ or test/, or testA/ and testB/",
    )
    parser.add_argument(
        "--qat",
        type=Path,
        metavar="CHECKPOINT",
        help="train no generator, but tune this one for int8 (quantisation-aware fine-tuning), as "
        "a recipe's table [qat] does what it trained; RECIPE then says how pictures are read",
    )
    parser.add_argument(
        "--from",
        type=Path,
        nargs="+",
        default=[],
        metavar="PLACE",
        dest="beginning",
        help="begin with trained generators and not by chance: the folder of a finished training, "
        "or of pytorch-CycleGAN-and-pix2pix (latest_net_*.pth), with its discriminators; or "
        "checkpoints, for CycleGAN that of the recipe's direction first. What is above "
        "search.target is pruned from there on; search.steps=0 trains a pruned one as it is",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for state, samples and result (default: runs/<id>); processes on several "
        "hosts resume from it, so it must be one that all of them see",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value of the recipe, such as search.target=0.25",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the output's state, or say that it is finished; without it, a folder that "
        "has one is refused",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="torch device (default: cpu)"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: torch's)"
    )
    parser.add_argument(
        "--save-every",
        type=positive,
        default=500,
        metavar="STEPS",
        help="keep the state and draw samples every so many steps (default: 500)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="log to <output>/tensorboard as well"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with torch_loading():
        import torch

        from coronet_deploy.coronet.allocator import keep_freed_memory
        from coronet_deploy.coronet.checkpoint import load_checkpoint
        from coronet_deploy.coronet.recipe import read_recipe
        from coronet_deploy.coronet.team import joined
        from coronet_deploy.coronet.train import is_finished, results_of
        from coronet_deploy.coronet.tuning import require_tunable
        from coronet_deploy.coronet.zoo import find_recipe
    if args.tensorboard:
        summary_writer()  # if it is missing, that is told before pictures are read
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = read_recipe(find_recipe(args.recipe), args.overrides)
    if args.qat:
        if args.beginning:
            raise BadInput("--qat tunes one checkpoint, and --from is what a training begins with")
        return _tune_one(recipe, args)
    require_tunable(recipe)
    output = args.output or Path("runs") / recipe.model.id
    _check_output(output)
    with memory_told("train", _LESS), joined(args.device) as team:
        device = _device(args.device, team)
        with team.together():
            done = args.resume and is_finished(recipe, output)
        if not done:
            _train(recipe, output, device, team, args)
    if team.leader:
        if done:
            _tell_finished(recipe.model.id, recipe.steps)
        results = [load_checkpoint(path) for path in results_of(recipe, output)]
        tuned: list[Tuned] = []
        if recipe.qat is not None:
            tuned = [_tune(recipe, one, _tuned_folder(one.path), device, args) for one in results]
        print_results(recipe, results, tuned, as_json=args.json)
    return 0


def _train(recipe: Recipe, output: Path, device: str, team: Team, args: argparse.Namespace) -> None:
    """Take a training from where it is to its end, and draw its curve."""
    from coronet_deploy.coronet.beginning import read_beginning
    from coronet_deploy.coronet.data import untold
    from coronet_deploy.coronet.recipe import Task
    from coronet_deploy.coronet.train import Trainer, results_of

    results = results_of(recipe, output)
    with team.together():
        if team.leader:
            _require_place(output, results, resume=args.resume)
            if recipe.qat is not None and not args.resume:
                _require_new_tunings(results)
    with team.together():
        told = Reading() if team.leader else untold
        begins = args.beginning and not args.resume  # a state has all that was begun with
        beginning = read_beginning(args.beginning, recipe) if begins else None
        trainer = Trainer(recipe, args.data, output, device, team, told, beginning)
    if team.leader and beginning:
        print(beginning.told(recipe.names), file=sys.stderr)
    if team.leader and recipe.model.task is Task.PIX2PIX:
        _tell_unlike(args.data)
    if team.leader and not args.resume:  # which computes as it was begun
        tell_faster(recipe, device)
    _go(trainer, args, lambda: _heading(trainer, args.save_every), resume=args.resume)
    if team.leader:
        _plot(trainer)


def _tell_unlike(data: Path) -> None:
    """Say of pairs in two folders whose shapes differ that each picture is resized by itself."""
    from coronet_deploy.images import matched_pictures, unlike_pairs

    folders = data / "trainA", data / "trainB"
    if all(folder.is_dir() for folder in folders) and (
        unlike := unlike_pairs(matched_pictures(*folders))
    ):
        print(f"{unlike}, and what does not lie in the same place is learnt so", file=sys.stderr)


def _check_output(output: Path) -> None:
    """Let a folder through that results can be written to, and read from."""
    require_utf8(str(output), "no checkpoint could be read from there")
    check_folder(output, "--output")


def _tell_finished(name: str, steps: int) -> None:
    print(f"{name}: finished, all {steps} steps are done", file=sys.stderr)


def _tuned_folder(result: Path) -> Path:
    """Return where a training's result is tuned, as its recipe's table [qat] says."""
    from coronet_deploy.coronet.tuning import SUFFIX

    return result.parent / f"{result.stem}{SUFFIX}"


def _require_place(output: Path, results: Sequence[Path], *, resume: bool) -> None:
    """Refuse a folder that cannot be trained into now, and not when all pictures have been read.

    All of it is asked again once the folder is held.
    """
    from coronet_deploy.coronet.course import STATE, refuse_earlier
    from coronet_deploy.coronet.state import require_state

    with exclusive(output) if output.is_dir() else contextlib.nullcontext():
        if resume:
            require_state(output / STATE)
        else:
            refuse_earlier([output / STATE, *results])


def _require_new_tunings(results: Sequence[Path]) -> None:
    """Refuse what an earlier training left where results will be tuned: now, not after days."""
    from coronet_deploy.coronet.course import refuse_earlier

    for folder in map(_tuned_folder, results):
        refuse_earlier([folder / "state.pt", *folder.glob("*.safetensors")])


def _tune_one(recipe: Recipe, args: argparse.Namespace) -> int:
    """Tune the checkpoint that was asked for, and say what came of it."""
    from coronet_deploy.coronet.checkpoint import load_checkpoint
    from coronet_deploy.coronet.team import joined

    with joined(args.device) as team:
        if team.size > 1:
            raise BadInput("--qat tunes in one process", hint="run it without torchrun")
        device = _device(args.device, team)
    tuned = _tune(recipe, load_checkpoint(args.qat), args.output, device, args)
    if args.json:
        print(json.dumps(tuned.as_json()))
    else:
        print(tuned)
    return 0


def _tune(
    recipe: Recipe,
    checkpoint: Checkpoint,
    output: Path | None,
    device: str,
    args: argparse.Namespace,
) -> Tuned:
    """Tune the generator of one checkpoint.

    After a training --resume goes on from a state of that if there is one.
    """
    from coronet_deploy.coronet.course import STATE
    from coronet_deploy.coronet.tuning import SUFFIX, Tuner, finished_gains, tuned_place

    output = output or Path("runs") / f"{checkpoint.id}{SUFFIX}"
    _check_output(output)
    result, steps = tuned_place(checkpoint, output), recipe.tuning.steps
    gains = finished_gains(recipe, checkpoint, output) if args.resume else None
    if gains is not None:
        _tell_finished(result.stem, steps)
        return Tuned(result, steps, gains)
    resume = args.resume and (bool(args.qat) or (output / STATE).exists())
    _require_place(output, [result], resume=resume)
    with memory_told("train", _LESS):
        tuner = Tuner(recipe, checkpoint, args.data, output, device, Reading())
        what = f"{checkpoint.id}: fine-tuning for eight bits, {steps} steps"
        _go(tuner, args, lambda: what + _kept_where(tuner, args.save_every), resume=resume)
        return Tuned(result, steps, tuner.gains)


def _go(
    course: Course, args: argparse.Namespace, heading: Callable[[], str], *, resume: bool
) -> None:
    """Take a training from where it is to its end, telling of each step."""
    leader, output = course.team.leader, course.output
    with contextlib.ExitStack() as stack:
        with course.team.together():
            if leader:
                stack.enter_context(exclusive(output))
                for folder in (output, output / "samples"):
                    remove_leftovers(folder, held=True)
            if resume:
                course.resume()
            elif leader:
                course.require_new()
        reports: list[Callable[[StepReport], None]] = []
        if leader:
            counted = course.recipe.search.measure.label
            reports.append(Progress(counted, heading()))
            if args.tensorboard:
                reports.append(tensorboard(output, course.step, stack))

        def report(row: StepReport) -> None:
            for tell in reports:
                tell(row)

        course.run(report, args.save_every)


def _heading(trainer: Trainer, save_every: int) -> str:
    """Return a line that says what is trained, and where to look for it."""
    recipe = trainer.recipe
    aim = f"to {recipe.target_ratio:.4g} of its {recipe.search.measure.label}, "
    return (
        f"{recipe.model.id}: {recipe.model.task} {aim if recipe.prunes else ''}{recipe.steps} steps"
        + _kept_where(trainer, save_every)
    )


def _kept_where(course: Course, save_every: int) -> str:
    """Return how a heading ends: which step comes next, and where to look."""
    begun = f", on from step {course.step + 1}" if course.step else ""
    return f"{begun}; {course.output} gets state and samples every {save_every}"


def _device(name: str, team: Team) -> str:
    """Return the torch device of this process of the team."""
    if team.size > 1 and name not in {"cpu", "cuda"}:
        raise BadInput(
            f"--device {name}: several processes train on CPUs, or each on a GPU of its own",
            hint="--device cpu or cuda",
        )
    return usable_device(f"cuda:{team.local_rank}" if name == "cuda" else name)


def _plot(trainer: Trainer) -> None:
    """Draw the run's curve beside its results, if matplotlib is there to do it."""
    from coronet_deploy.coronet.curve import plot_curve

    try:
        plot_curve(trainer.output / "curve.png", trainer.rows, trainer.pupils[0].controller)
    except ModuleNotFoundError:
        print("curve.png needs matplotlib: pip install 'coronet-deploy[report]'", file=sys.stderr)
