"""The curve of a training run: what is left of the generator, step by step, beside its losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.coronet.controller import Controller
from coronet_deploy.drawing import matplotlib_style
from coronet_deploy.storage import atomic_path

if TYPE_CHECKING:
    from coronet_deploy.coronet.state import StepReport

_SMOOTHED = 50  # steps of a loss's running mean


def plot_curve(path: Path, rows: Sequence[StepReport], controller: Controller) -> None:
    """Write a PNG: the ratio over the steps with its path and target, and the losses below.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    """
    with matplotlib_style():
        _draw(path, rows, controller)


def _draw(path: Path, rows: Sequence[StepReport], controller: Controller) -> None:
    from matplotlib.figure import Figure

    steps = [row.step + 1 for row in rows]
    searched = [row.step for row in rows if row.phase == "search"]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(steps, [row.ratio for row in rows], label="left", color="tab:blue")
    if searched:
        wanted = [controller.path(step) for step in searched]
        upper.plot([s + 1 for s in searched], wanted, "--", label="path", color="tab:gray")
    upper.axhline(controller.target, label="target", color="tab:red", linewidth=1)
    upper.set(ylabel=f"share of the {controller.measure.label}", ylim=(0, 1.02))
    # Not where it is best: that takes a look at every point, and a warning of how many there are.
    upper.legend(loc="upper right")
    for name in rows[0].losses:
        values = [row.losses[name] for row in rows]
        if any(values):  # a loss of weight 0 is not taken
            lower.plot(steps, _running_mean(values), label=name)
    lower.set(xlabel="step", ylabel=f"losses, means of {_SMOOTHED} steps", yscale="log")
    named = lower.get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", fontsize="small", ncols=4)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _running_mean(values: Sequence[float]) -> list[float]:
    """Return the means of the last `_SMOOTHED` values, of fewer at first."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - _SMOOTHED] if i >= _SMOOTHED else 0.0)
        means.append(total / min(i + 1, _SMOOTHED))
    return means
