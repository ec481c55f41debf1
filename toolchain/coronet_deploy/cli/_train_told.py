"""What `coronet-deploy train` tells of on the way: lines on stderr, and TensorBoard's log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import missing_package

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from coronet_deploy.coronet.recipe import Recipe
    from coronet_deploy.coronet.state import StepReport

_REDRAWN_S = 0.5  # between two looks of a line on a terminal
_QUIET_S = 30.0  # the longest without a line elsewhere, if steps are not longer
_LONG = 1000  # steps, that take minutes
_AT_FIRST_S = 5.0  # until something is said at all


def tell_faster(recipe: Recipe, device: str) -> None:
    """Say of a long training that this CPU has a quicker way."""
    from coronet_deploy.coronet.recipe import Precision
    from coronet_deploy.cpu import cpu_flags

    plain = recipe.machine.precision is Precision.FP32 and device == "cpu"
    if plain and recipe.steps >= _LONG and "amx_bf16" in cpu_flags():
        print(
            "this CPU has AMX: --set machine.precision=bf16 --set machine.channels_last=true takes "
            "a fourth to a third of a step's time",
            file=sys.stderr,
        )


def summary_writer() -> Callable[..., SummaryWriter]:
    """Return what makes a log for TensorBoard.

    Raises:
        EnvironmentProblem: TensorBoard is not installed.

    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise missing_package("tensorboard", "tensorboard") from error
    return SummaryWriter


def tensorboard(
    output: Path, first: int, stack: contextlib.ExitStack
) -> Callable[[StepReport], None]:
    """Return what logs a step's losses and ratio for TensorBoard, from step `first` on.

    What a run that was killed had logged beyond it is not shown.
    """
    writer = summary_writer()(str(output / "tensorboard"), purge_step=first or None)
    stack.callback(writer.close)

    def log(row: StepReport) -> None:
        values = {"ratio": row.ratio, "shrinkage": row.shrinkage, "lr": row.lr}
        for name, value in values.items():
            writer.add_scalar(name, value, row.step)
        for name, value in row.losses.items():
            writer.add_scalar(f"loss/{name}", value, row.step)

    return log


class Progress:
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


class Reading:
    """A line on stderr every few seconds while much is worked through, such as pictures."""

    def __init__(self) -> None:
        self._told = self._heard = time.monotonic()
        self._clear = "\033[K" if sys.stderr.isatty() else ""  # of a step's line

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 1 and now - self._heard >= _AT_FIRST_S:  # behind other work
            self._told = now
        self._heard = now
        if now - self._told >= _AT_FIRST_S:
            self._told = now
            print(f"{self._clear}{done} of {total} {what}", file=sys.stderr, flush=True)
