"""`coronet-deploy verify`: check again that artifacts draw what their checkpoint draws."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._shared import read_checkpoint
from coronet_deploy.cli.export import decibels, read_pictures
from coronet_deploy.errors import BadInput, GateFailed

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.export.manifest import Manifest
    from coronet_deploy.images import Array
    from coronet_deploy.vocabulary import Parity

HELP = "compare artifacts with the checkpoint they were made of, in their real runtimes"

_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        type=Path,
        help="an .onnx or .tflite file with its manifest beside it",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="what the artifacts were made of (default: the bundled one, if it is that)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="pictures to compare on (default: the bundled ones)",
    )
    parser.add_argument(
        "--min-psnr",
        type=decibels,
        metavar="DB",
        help="PSNR against torch that every picture must reach (default: the manifest's bound)",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="write a PNG: input, torch, artifact, difference (with one ARTIFACT)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.grid and len(args.artifacts) > 1:
        raise BadInput("--grid takes one artifact at a time")
    from coronet_deploy.export.manifest import checked_manifest

    manifests = {path: checked_manifest(path) for path in args.artifacts}
    checkpoint = _source(manifests, args.checkpoint)
    found, failures = _check_all(manifests, checkpoint, args)
    _show(found, manifests, as_json=args.json)
    if failures:
        raise GateFailed("; ".join(map(str, failures)))
    return 0


def _source(manifests: dict[Path, Manifest], given: Path | None) -> Checkpoint:
    """Return the one checkpoint that all artifacts were made of."""
    checkpoint = read_checkpoint(given)
    for path, manifest in manifests.items():
        if manifest.source.sha256 != checkpoint.sha256:
            raise BadInput(
                f"{path} was not made of {checkpoint.path}: its manifest names a checkpoint "
                f"of SHA-256 {manifest.source.sha256[:12]}...",
                hint="give that one with --checkpoint",
            )
    return checkpoint


def _check_all(
    manifests: dict[Path, Manifest], checkpoint: Checkpoint, args: argparse.Namespace
) -> tuple[dict[Path, Parity], list[GateFailed]]:
    """Return the parity of each artifact, and an error for each that did not pass."""
    from coronet_deploy.storage import write_bytes
    from coronet_deploy.verify.gate import require, translate, try_artifact
    from coronet_deploy.verify.grid import grid_png

    generator = checkpoint.generator()
    translated: dict[tuple[int, int], tuple[Pictures, tuple[Array, ...]]] = {}
    found: dict[Path, Parity] = {}
    failures: list[GateFailed] = []
    for path, manifest in manifests.items():
        print(f"{path.name}: comparing", file=sys.stderr)
        if manifest.size not in translated:
            pictures = read_pictures(args.pictures, *manifest.size)
            translated[manifest.size] = pictures, translate(generator, pictures)
        pictures, references = translated[manifest.size]
        bound = manifest.parity.bound_db if args.min_psnr is None else args.min_psnr
        try:
            trial = try_artifact(path, manifest.runtime, pictures, references, bound)
            found[path] = trial.parity
            if args.grid:
                write_bytes(args.grid, grid_png(pictures.values, references, trial.outputs))
            require(trial.parity, str(path))
        except GateFailed as error:
            failures.append(error)
    return found, failures


def _show(found: dict[Path, Parity], manifests: dict[Path, Manifest], *, as_json: bool) -> None:
    if as_json:
        rows = [_fields(path, manifests[path], parity) for path, parity in found.items()]
        print(json.dumps({"artifacts": rows}))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    titles = ("artifact", "PSNR dB", "bound", "SSIM", "max |diff|", "")
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    table.columns[0].overflow = "fold"
    for path, parity in found.items():
        table.add_row(
            escape(path.name),
            f"{parity.psnr_db:.1f}",
            f"{parity.bound_db:g}",
            f"{parity.ssim:.4f}",
            f"{parity.max_abs:.2g}",
            "pass" if parity.passed else "FAIL",
        )
    console.print(table)


def _fields(path: Path, manifest: Manifest, parity: Parity) -> dict[str, Any]:
    return {
        "path": str(path),
        "runtime": manifest.runtime.value,
        "dtype": manifest.dtype.value,
        "psnr_db": parity.psnr_db,
        "max_abs": parity.max_abs,
        "ssim": parity.ssim,
        "pictures": parity.pictures,
        "bound_db": parity.bound_db,
        "passed": parity.passed,
    }
