"""`coronet-deploy inspect`: what a checkpoint is and what it costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._shared import read_checkpoint, table_console

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint

HELP = "show what a checkpoint is: kind, channel plan, parameters, multiply-adds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="checkpoint (default: the bundled one)",
    )


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what `inspect --json` prints; ratios are of the unpruned generator's MACs."""
    from coronet_deploy.networks.cost import macs, parameters

    plan, full = checkpoint.plan, checkpoint.full
    return {
        "kind": checkpoint.kind.value,
        "architecture": plan.architecture.value,
        "plan": plan.as_json(),
        "parameters": parameters(plan),
        "macs": macs(plan),
        "macs_published": macs(plan, published=True),
        "macs_ratio": macs(plan) / macs(full),
        "macs_ratio_published": macs(plan, published=True) / macs(full, published=True),
        "total": dict(full.groups),
        "total_parameters": parameters(full),
        "total_macs": macs(full),
        "total_macs_published": macs(full, published=True),
        "stage": checkpoint.header.stage.value,
        "id": checkpoint.id,
        "title": checkpoint.header.title,
        "sha256": checkpoint.sha256,
        "history": [training.model_dump(mode="json") for training in checkpoint.header.history],
    }


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    checkpoint = read_checkpoint(args.checkpoint)
    if args.json:
        print(json.dumps(facts(checkpoint)))
    else:
        show(checkpoint)
    return 0


def show(checkpoint: Checkpoint) -> None:
    """Print `facts` as tables."""
    from rich.markup import escape
    from rich.table import Table

    from coronet_deploy.coronet.lineage import told
    from coronet_deploy.report.grid import print_text

    values = facts(checkpoint)
    console = table_console()
    console.print(f"[bold]{escape(values['title'])}[/] ({escape(values['id'])})")
    console.print(
        f"{values['kind']} checkpoint, stage {values['stage']}: {values['architecture']}, "
        f"{values['plan']['norm']} norm; counted at 256x256"
    )
    for training in checkpoint.header.history:
        print_text(console, told(training))
    costs = Table("", "kept", "unpruned", "ratio")
    for column in costs.columns[1:]:
        column.justify = "right"
    for label, key, unit, scale in (
        ("parameters", "parameters", "M", 1e6),
        ("MACs, real", "macs", "G", 1e9),
        ("MACs, published convention", "macs_published", "G", 1e9),
    ):
        kept, total = values[key], values[f"total_{key}"]
        costs.add_row(
            label,
            f"{kept / scale:.3f} {unit}",
            f"{total / scale:.3f} {unit}",
            f"{kept / total:.4f}",
        )
    console.print(costs)
    groups = Table("channel group", "kept", "of", "")
    groups.columns[1].justify = groups.columns[2].justify = "right"
    for group, kept in values["plan"]["groups"].items():
        total = values["total"][group]
        groups.add_row(group, str(kept), str(total), "█" * max(round(24 * kept / total), 1))
    console.print(groups)
