"""`export --explain`: what the lowering did, pass by pass, as tables of 80 columns or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coronet_deploy.verify.explain import Step
    from coronet_deploy.verify.release import Order
    from coronet_deploy.vocabulary import Artifact

_WIDTH = 80
_COLUMNS = ("", "operators", "parts", "outside", "MMACs", "MB moved", "MB file")


def explanations(orders: Sequence[Order], artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Return, for each runtime and number type of each size, the steps to its artifact as JSON."""
    from coronet_deploy.export.capture import capture
    from coronet_deploy.verify.explain import explain

    released = {artifact.path.name: artifact.path for artifact in artifacts}
    told: list[dict[str, Any]] = []
    for order in orders:
        height, width = order.size
        graph = capture(order.subject.generator, height, width, order.subject.channels)
        for runtime in order.runtimes:
            for dtype in order.dtypes:
                name = order.name_of(runtime, dtype)
                print(f"{name}: explaining", file=sys.stderr)
                steps = explain(graph, runtime, dtype, order.prefer, released.get(name))
                told.append({"artifact": name, "steps": [_fields(step) for step in steps]})
    return told


def _fields(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "operators": step.figures.operators,
        "partitions": step.partitions,
        "outside": step.outside,
        "macs": step.figures.macs,
        "moved_bytes": step.figures.moved_bytes,
        "file_bytes": step.figures.file_bytes,
    }


def show(told: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for each artifact, from its network as captured to its file."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    for one in told:
        table = Table(*_COLUMNS, box=None, pad_edge=False, title=escape(one["artifact"]))
        table.title_justify = "left"
        for column in table.columns[1:]:
            column.justify = "right"
            column.no_wrap = True
        for step in one["steps"]:
            table.add_row(
                escape(step["step"]),
                str(step["operators"]),
                str(step["partitions"]),
                str(step["outside"]),
                f"{step['macs'] / 1e6:.1f}",
                f"{step['moved_bytes'] / 1e6:.1f}",
                f"{step['file_bytes'] / 1e6:.2f}",
            )
        console.print()
        console.print(table)
    console.print(
        "\nparts: calls of the runtime's fast path an inference; outside: operators that it\n"
        "did not take; MB moved: what operators read and write, each by itself"
    )
