"""`coronet-deploy train`: a recipe and pictures to a CoroNet checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._bench_flags import check_folder
from coronet_deploy.cli._shared import torch_loading
from coronet_deploy.cli.bench import positive
from coronet_deploy.errors import BadInput, missing_package
from coronet_deploy.storage import exclusive

if TYPE_CHECKING:
    from coronet_deploy.coronet.course import Course
    from coronet_deploy.coronet.recipe import Recipe
    from coronet_deploy.coronet.state import StepReport
    from coronet_deploy.coronet.team import Team
    from coronet_deploy.coronet.train import Trainer

_REDRAWN_S = 0.5  # between two looks of a line on a terminal
_QUIET_S = 30.0  # the longest without a line elsewhere, if steps are not longer
_AT_FIRST_S = 5.0  # until something is said at all

HELP = "train a generator that is pruned while it trains, from a recipe"


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
        help="go on from the output's state; without it, a folder that has one is refused",
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
        from coronet_deploy.coronet.data import untold
        from coronet_deploy.coronet.endings import memory_told
        from coronet_deploy.coronet.recipe import read_recipe
        from coronet_deploy.coronet.team import joined
        from coronet_deploy.coronet.train import Trainer
        from coronet_deploy.coronet.tuning import require_tunable
        from coronet_deploy.coronet.zoo import find_recipe
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = read_recipe(find_recipe(args.recipe), args.overrides)
    if args.qat:
        return _tune_one(recipe, args)
    require_tunable(recipe)
    output = args.output or Path("runs") / recipe.model.id
    check_folder(output, "--output")
    with memory_told(), joined(args.device) as team:
        device = _device(args.device, team)
        with team.together():
            told = _Reading() if team.leader else untold
            trainer = Trainer(recipe, args.data, output, device, team, told)
            if recipe.qat is not None and team.leader and not args.resume:
                _require_new_tunings(trainer)
        _go(trainer, args, lambda: _heading(trainer, args.save_every), resume=args.resume)
    if team.leader:
        _plot(trainer)
        results = trainer.results if recipe.qat is not None else []
        tuned = [_tune(recipe, one, _tuned_folder(one), device, args) for one in results]
        _print_results(trainer, tuned, as_json=args.json)
    return 0


def _tuned_folder(result: Path) -> Path:
    """Return where a training's result is tuned, as its recipe's table [qat] says."""
    from coronet_deploy.coronet.tuning import SUFFIX

    return result.parent / f"{result.stem}{SUFFIX}"


def _require_new_tunings(trainer: Trainer) -> None:
    """Refuse what an earlier training left where results will be tuned: now, not after days."""
    from coronet_deploy.coronet.course import refuse_earlier

    for folder in map(_tuned_folder, trainer.results):
        refuse_earlier([folder / "state.pt", *folder.glob("*.safetensors")])


def _tune_one(recipe: Recipe, args: argparse.Namespace) -> int:
    """Tune the checkpoint that was asked for, and say what came of it."""
    from coronet_deploy.coronet.team import joined

    with joined(args.device) as team:
        if team.size > 1:
            raise BadInput("--qat tunes in one process", hint="run it without torchrun")
        device = _device(args.device, team)
    tuned = _tune(recipe, args.qat, args.output, device, args)
    if args.json:
        print(json.dumps(tuned.as_json()))
    else:
        print(tuned)
    return 0


def _tune(
    recipe: Recipe, path: Path, output: Path | None, device: str, args: argparse.Namespace
) -> _Tuned:
    """Tune the generator of one checkpoint.

    After a training --resume goes on from a state of that if there is one.
    """
    from coronet_deploy.coronet.checkpoint import load_checkpoint
    from coronet_deploy.coronet.endings import memory_told
    from coronet_deploy.coronet.tuning import SUFFIX, Tuner

    checkpoint = load_checkpoint(path)
    output = output or Path("runs") / f"{checkpoint.id}{SUFFIX}"
    check_folder(output, "--output")
    with memory_told():
        tuner = Tuner(recipe, checkpoint, args.data, output, device, _Reading())
        what = f"{checkpoint.id}: fine-tuning for eight bits, {tuner.steps} steps"
        resume = args.resume and (bool(args.qat) or tuner.begun)
        _go(tuner, args, lambda: what + _kept_where(tuner, args.save_every), resume=resume)
        return _Tuned(tuner.results[0], tuner.steps, *tuner.gain())


@dataclass(frozen=True)
class _Tuned:
    """A tuned checkpoint, and PSNRs in dB on pictures that were held out (see `Tuner.gain`)."""

    path: Path
    steps: int
    before_db: float
    after_db: float
    moved_db: float

    def __str__(self) -> str:
        return (
            f"{self.path}: eight bits draw what float draws to {self.after_db:.1f} dB, "
            f"{self.before_db:.1f} before (simulated);\nits float pictures are those of before to "
            f"{self.moved_db:.1f} dB"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        simulated = {
            "before": round(self.before_db, 2),
            "after": round(self.after_db, 2),
            "float_moved": round(self.moved_db, 2),
        }
        return {
            "checkpoint": str(self.path),
            "steps": self.steps,
            "simulated_psnr_db": simulated,
        }


def _go(
    course: Course, args: argparse.Namespace, heading: Callable[[], str], *, resume: bool
) -> None:
    """Take a training from where it is to its end, telling of each step."""
    leader, output = course.team.leader, course.output
    with contextlib.ExitStack() as stack:
        with course.team.together():
            if leader:
                stack.enter_context(exclusive(output))
            if resume:
                course.resume()
            elif leader:
                course.require_new()
        reports: list[Callable[[StepReport], None]] = []
        if leader:
            counted = course.recipe.search.measure.label
            reports.append(_Progress(counted, heading()))
            if args.tensorboard:
                reports.append(_tensorboard(output, course.step, stack))

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
    import torch

    if team.size > 1 and name.startswith("cuda:"):
        raise BadInput(
            f"--device {name}: every process that torchrun started has a GPU of its own",
            hint="--device cuda",
        )
    device = f"cuda:{team.local_rank}" if name == "cuda" else name
    try:
        torch.ones(1, device=device).item()  # which "meta" has not
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # then come all devices there could be
        raise BadInput(f"--device {name}: torch cannot use it here: {reason}") from error
    if device.startswith("cuda"):  # so that nothing of this process lands on the first GPU
        torch.cuda.set_device(device)
    return device


def _plot(trainer: Trainer) -> None:
    """Draw the run's curve beside its results, if matplotlib is there to do it."""
    from coronet_deploy.coronet.curve import plot_curve

    try:
        plot_curve(trainer.output / "curve.png", trainer.rows, trainer.pupils[0].controller)
    except ModuleNotFoundError:
        print("curve.png needs matplotlib: pip install 'coronet-deploy[report]'", file=sys.stderr)


def _print_results(trainer: Trainer, tuned: Sequence[_Tuned], *, as_json: bool) -> None:
    from coronet_deploy.coronet.controller import WINDOW
    from coronet_deploy.networks.cost import Measure

    recipe, plans = trainer.recipe, [pupil.plan for pupil in trainer.pupils]
    for result, pupil in zip(trainer.results, trainer.pupils, strict=True):
        if recipe.prunes and pupil.ratio < recipe.target_ratio - WINDOW:
            print(
                f"{result}: {pupil.ratio:.4f} is further than {WINDOW:g} below the target, "
                f"{recipe.target_ratio:.4g}: whole multiples of {recipe.search.channel_multiple} "
                "channels left nothing nearer",
                file=sys.stderr,
            )
    if as_json:
        results = [str(result) for result in trainer.results]
        summary: dict[str, Any] = {"checkpoint": results[0], "checkpoints": results}
        summary["steps"] = recipe.steps
        for measure in Measure:
            shares = [measure.of(plan) / measure.of(recipe.full) for plan in plans]
            summary[f"{measure}_ratio"] = sum(shares) / len(shares)
        if tuned:
            summary["qat"] = [one.as_json() for one in tuned]
        print(json.dumps(summary))
        return
    counted = recipe.search.measure.label
    for result, pupil in zip(trainer.results, trainer.pupils, strict=True):
        print(f"{result}: {pupil.ratio:.4f} of the {counted} after {recipe.steps} steps")
    for one in tuned:
        print(one)


def _tensorboard(
    output: Path, first: int, stack: contextlib.ExitStack
) -> Callable[[StepReport], None]:
    """Return what logs a step's losses and ratio for TensorBoard, from step `first` on.

    What a run that was killed had logged beyond it is not shown.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise missing_package("tensorboard", "tensorboard") from error
    writer = SummaryWriter(str(output / "tensorboard"), purge_step=first or None)
    stack.callback(writer.close)

    def log(row: StepReport) -> None:
        values = {"ratio": row.ratio, "shrinkage": row.shrinkage, "lr": row.lr}
        for name, value in values.items():
            writer.add_scalar(name, value, row.step)
        for name, value in row.losses.items():
            writer.add_scalar(f"loss/{name}", value, row.step)

    return log


class _Progress:
    """A line on stderr: rewritten on a terminal, elsewhere one in a hundred steps or half a minute.

    `heading` comes before the first. `counted` is what the ratio is of.
    """

    def __init__(self, counted: str, heading: str) -> None:
        self._counted, self._heading = counted, heading
        self._terminal = sys.stderr.isatty()
        self._recent: list[StepReport] = []
        self._shown = time.monotonic() - (_QUIET_S - _AT_FIRST_S)

    def __call__(self, row: StepReport) -> None:
        self._recent = [*self._recent[-99:], row]
        now = time.monotonic()
        if not self._due(row, now - self._shown):
            return
        self._shown = now
        if self._heading:
            print(self._heading, file=sys.stderr)
            self._heading = ""
        n = len(self._recent)
        seconds = sum(r.seconds for r in self._recent) / n
        left = (row.steps - row.step - 1) * seconds / 60
        losses = "  ".join(
            f"{name} {sum(r.losses[name] for r in self._recent) / n:.3f}"
            for name in row.losses
            if not name.endswith("_back")  # the way back does alike; metrics.csv has it
        )
        line = (
            f"{row.phase} {row.step + 1}/{row.steps}  {self._counted} {row.ratio:.3f}  {losses}  "
            f"{row.pictures / seconds:.1f} images/s  {left:.0f} min left"
        )
        end = "\r" if self._terminal and row.step + 1 < row.steps else "\n"
        print(f"\033[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)

    def _due(self, row: StepReport, quiet_s: float) -> bool:
        """Return whether to show a step, `quiet_s` seconds after the last one shown."""
        last = row.step + 1 == row.steps
        if self._terminal:
            return quiet_s >= _REDRAWN_S or last  # the last one ends its line
        return (row.step + 1) % 100 == 0 or (quiet_s >= _QUIET_S and not last)


class _Reading:
    """A line on stderr every few seconds while pictures are looked at, however many there are."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, path: Path, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= _AT_FIRST_S:
            self._told = now
            print(f"{done} of {total} pictures in {path.parent}", file=sys.stderr, flush=True)
