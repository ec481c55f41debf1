"""`coronet-deploy materialize`: the dense generator that a checkpoint is, as a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from coronet_deploy.cli._shared import read_checkpoint
from coronet_deploy.errors import BadInput
from coronet_deploy.storage import require_apart, require_file_name, require_writable, sha256_of

HELP = "write the dense, pruned generator of a checkpoint"

_SIZE = 256
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="checkpoint (default: the bundled one)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: out/<id>-dense.safetensors)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    inputs = [args.checkpoint] if args.checkpoint else []
    if args.output is not None:
        if args.output.suffix != _SUFFIX:
            raise BadInput(f"--output {args.output} does not end in {_SUFFIX}, the format it has")
        require_file_name(args.output, "--output")
        require_apart(args.output, "--output", inputs)
        require_writable(args.output)
    checkpoint = read_checkpoint(args.checkpoint)
    from coronet_deploy.coronet.checkpoint import save_dense
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.export.calibrate import read_pictures
    from coronet_deploy.export.subject import MOST_CHANNELS, file_name
    from coronet_deploy.verify.channels import with_channels

    channels = checkpoint.plan.input_channels
    if channels > MOST_CHANNELS:
        raise BadInput(f"{checkpoint.path}: {channels} input channels, from 1 to {MOST_CHANNELS}")
    output = args.output or Path("out") / f"{file_name(checkpoint.id)}-dense{_SUFFIX}"
    require_apart(output, "--output", inputs)
    require_writable(output)
    before = sha256_of(output) if output.is_file() else None
    pictures = with_channels(read_pictures(bundled_pictures(), _SIZE, _SIZE), channels)
    parity = save_dense(checkpoint, output, [values[0] for values in pictures.values])
    if before not in {None, sha256_of(output)}:
        # As generators of several trainings are often called the same.
        print(f"replaced {output}, which held another generator", file=sys.stderr)
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
