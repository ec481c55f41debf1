"""`export --explain`: what the lowering did, pass by pass, as tables of 80 columns or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._shared import table_console
from coronet_deploy.errors import CoronetError

if TYPE_CHECKING:
    from coronet_deploy.verify.explain import Step
    from coronet_deploy.verify.release import Order
    from coronet_deploy.vocabulary import Artifact

_COLUMNS = ("", "operators", "parts", "outside", "MMACs", "MB moved", "MB file")


def explanations(orders: Sequence[Order], artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Return, for each runtime and number type of each size, the steps to its artifact as JSON.

    What cannot be explained is told with its reason: an export does not fail over it.
    """
    from coronet_deploy.export.capture import capture
    from coronet_deploy.verify.explain import explain

    released = {artifact.path.name: artifact.path for artifact in artifacts}
    told: list[dict[str, Any]] = []
    for order in orders:
        height, width = order.size
        names = {(r, d): order.name_of(r, d) for r in order.runtimes for d in order.dtypes}
        try:
            graph = capture(order.subject.generator, height, width, order.subject.channels)
        except CoronetError as error:
            told += [{"artifact": n, "steps": [], "reason": error.what} for n in names.values()]
            continue
        for (runtime, dtype), name in names.items():
            print(f"{name}: explaining", file=sys.stderr)
            steps = explain(graph, runtime, dtype, order.prefer, released.get(name))
            told.append({"artifact": name, "steps": [_fields(step) for step in steps]})
    return told


def _fields(step: Step) -> dict[str, Any]:
    if step.reason:
        return {"step": step.name, "reason": step.reason}
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
    from rich.markup import escape
    from rich.table import Table

    console = table_console()
    for one in told:
        table = Table(*_COLUMNS, box=None, pad_edge=False, title=escape(one["artifact"]))
        table.title_justify = "left"
        for column in table.columns[1:]:
            column.justify = "right"
            column.no_wrap = True
        for step in one["steps"]:
            if "reason" in step:
                table.add_row(escape(step["step"]), *"-" * (len(_COLUMNS) - 1))
                continue
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
        for step in [one, *one["steps"]]:
            if "reason" in step:
                console.print(f"{escape(step.get('step', '-'))}: {escape(step['reason'])}")
    console.print(
        "\nparts: calls of the runtime's fast path an inference; outside: operators that it\n"
        "did not take; MB moved: what operators read and write, each by itself"
    )
