"""`coronet-deploy materialize`: the dense generator that a checkpoint is, as a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from coronet_deploy.cli._shared import read_checkpoint

HELP = "write the dense, pruned generator of a checkpoint"

_SIZE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="checkpoint (default: the bundled one)"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write (default out/<id>-dense.safetensors)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    checkpoint = read_checkpoint(args.checkpoint)
    from coronet_deploy.coronet.checkpoint import save_dense
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.images import read_picture

    output = args.output or Path("out") / f"{checkpoint.id}-dense.safetensors"
    pictures = [read_picture(path, _SIZE, _SIZE) for path in bundled_pictures()]
    parity = save_dense(checkpoint, output, pictures)
    if args.json:
        print(
            json.dumps(
                {
                    "checkpoint": str(output),
                    "plan": checkpoint.plan.as_json(),
                    "max_abs": parity,
                }
            )
        )
    else:
        print(f"{output}: max |difference| to the checkpoint's generator {parity:.2e}")
    return 0
