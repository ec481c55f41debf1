"""`coronet-deploy verify`: check again that artifacts draw what their checkpoint draws."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._layers import layers_of, show_layers
from coronet_deploy.cli._pictures import (
    add_grid,
    add_pictures,
    check_grid,
    check_pictures,
    read_pictures,
    take_own,
    write_grid,
)
from coronet_deploy.cli._shared import (
    ARTIFACTS,
    artifact_table,
    files_of,
    read_subject,
    table_console,
)
from coronet_deploy.cli.export import add_generator, decibels
from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.memory import FREE_SOME, memory_told

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.export.manifest import Manifest
    from coronet_deploy.export.subject import Subject
    from coronet_deploy.images import Array
    from coronet_deploy.vocabulary import Parity

HELP = "compare artifacts with the checkpoint they were made of, in their real runtimes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        type=Path,
        help="an .onnx or .tflite file with its manifest beside it, or a folder of them",
    )
    add_generator(parser, "--checkpoint")
    add_pictures(
        parser,
        "pictures to compare on (default: the checkpoint's own, in "
        "<name>-pictures/inputs beside it, else the bundled ones)",
    )
    parser.add_argument(
        "--min-psnr",
        type=decibels,
        metavar="DB",
        help="PSNR against torch that every picture must reach (default: the manifest's bound)",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="compare what each layer makes, on the first picture: which one goes wrong?",
    )
    add_grid(parser, "input, torch, artifact and difference (with one ARTIFACT)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    args.artifacts = files_of(args.artifacts)
    if args.grid and len(args.artifacts) > 1:
        raise BadInput("--grid takes one artifact at a time")
    check_grid(args, args.artifacts)
    for path in args.artifacts:
        if path.suffix not in ARTIFACTS:
            raise BadInput(
                f"{path} is not an artifact: its name does not end in {' or '.join(ARTIFACTS)}"
            )
    take_own(args, args.checkpoint)
    check_pictures(args)
    from coronet_deploy.export.manifest import checked_manifest
    from coronet_deploy.verify.described import require_described, require_layers

    manifests = {path: checked_manifest(path) for path in args.artifacts}
    for path, manifest in manifests.items():
        require_described(path, manifest)
        if args.layers:
            require_layers(path, manifest)
    subject = _source(manifests, args)
    with memory_told("compare", f"artifacts of smaller pictures take less; {FREE_SOME}"):
        found, failures, grids = _check_all(manifests, subject, args)
        told = {
            path: _layers(path, manifest, subject, args) for path, manifest in manifests.items()
        }
    _show(found, manifests, told, args)
    sys.stdout.flush()  # before the grid: its disk may be full by now
    for grid in grids:
        write_grid(args.grid, grid)
    if failures:
        raise GateFailed("; ".join(map(str, failures)))
    return 0


def _source(manifests: dict[Path, Manifest], args: argparse.Namespace) -> Subject:
    """Return the one generator that all artifacts were made of."""
    subject = read_subject(args.checkpoint, args.weights, args.channels)
    for path, manifest in manifests.items():
        if manifest.source.sha256 != subject.source.sha256:
            module = manifest.source.module
            hint = "give that one with --checkpoint" + (" and --weights" if module else "")
            if module and module == args.checkpoint and args.weights is None:
                hint = "give the --weights that it had; without, its numbers are others each time"
            raise BadInput(
                f"{path} was not made of {args.checkpoint or 'the bundled checkpoint'}: its "
                f"manifest names {f'{module} with weights' if module else 'a checkpoint'} "
                f"of SHA-256 {manifest.source.sha256[:12]}...",
                hint=hint,
            )
        if args.channels not in {None, manifest.channels}:
            raise BadInput(
                f"--channels {args.channels}: {path} takes pictures of {manifest.channels}",
                hint="leave it out: the manifest tells",
            )
    (first, *_) = manifests.values()
    return replace(subject, channels=first.channels)


def _layers(
    path: Path, manifest: Manifest, subject: Subject, args: argparse.Namespace
) -> dict[str, Any] | None:
    """Return the layers of one artifact beside torch's, if they are asked for."""
    if not args.layers:
        return None
    from coronet_deploy.verify.channels import with_channels

    print(f"{path.name}: comparing layers", file=sys.stderr)
    pictures = with_channels(read_pictures(args, *manifest.size), subject.channels)
    return layers_of(path, manifest, subject, pictures.values[0])


def _check_all(
    manifests: dict[Path, Manifest], subject: Subject, args: argparse.Namespace
) -> tuple[dict[Path, Parity | None], list[GateFailed], list[bytes]]:
    """Return each artifact's parity, an error for each that failed, and the grid asked for.

    What gives values that are not finite has no parity.
    """
    from coronet_deploy.verify.channels import with_channels
    from coronet_deploy.verify.gate import require, translate, try_artifact
    from coronet_deploy.verify.grid import grid_png

    translated: dict[tuple[int, int], tuple[Pictures, tuple[Array, ...]]] = {}
    found: dict[Path, Parity | None] = dict.fromkeys(manifests)
    failures: list[GateFailed] = []
    grids: list[bytes] = []
    for path, manifest in manifests.items():
        print(f"{path.name}: comparing", file=sys.stderr)
        if manifest.size not in translated:
            pictures = read_pictures(args, *manifest.size)
            pictures = with_channels(pictures, subject.channels)
            translated[manifest.size] = pictures, translate(subject.generator, pictures)
        pictures, references = translated[manifest.size]
        try:
            bound, bounds = _bound_db(manifest, args), manifest.output.value_range
            trial = try_artifact(
                path, manifest.runtime, pictures, references, bound, value_range=bounds
            )
            found[path] = trial.parity
            if args.grid:
                grids.append(
                    grid_png(pictures.values, references, trial.outputs, trial.value_range)
                )
            require(trial.parity, str(path))
        except GateFailed as error:
            failures.append(error)
    return found, failures, grids


def _bound_db(manifest: Manifest, args: argparse.Namespace) -> float:
    return float(manifest.parity.bound_db if args.min_psnr is None else args.min_psnr)


def _show(
    found: dict[Path, Parity | None],
    manifests: dict[Path, Manifest],
    told: dict[Path, dict[str, Any] | None],
    args: argparse.Namespace,
) -> None:
    layers = {path: one for path, one in told.items() if one is not None}
    bounds = {path: _bound_db(manifest, args) for path, manifest in manifests.items()}
    if args.json:
        rows = [
            _fields(path, manifests[path], parity, bounds[path])
            | ({"layers": layers[path]} if layers else {})
            for path, parity in found.items()
        ]
        print(json.dumps({"artifacts": rows}))
        return
    from coronet_deploy.report.figures import decibels

    console = table_console()
    names = [path.name for path in found]
    table, names = artifact_table(console, names, "PSNR dB", "bound", "SSIM", "max |diff|", "")
    for name, (path, parity) in zip(names, found.items(), strict=True):
        table.add_row(
            name,
            decibels(parity.psnr_db) if parity else "-",
            f"{bounds[path]:g}",
            f"{parity.ssim:.4f}" if parity else "-",
            f"{parity.max_abs:.2g}" if parity else "-",
            "pass" if parity and parity.passed else "FAIL",
        )
    console.print(table)
    if layers:
        show_layers(layers)


def _fields(
    path: Path, manifest: Manifest, parity: Parity | None, bound_db: float
) -> dict[str, Any]:
    """Return an artifact's row; JSON has no word for figures of what is not finite but null."""
    return {
        "path": str(path),
        "runtime": manifest.runtime.value,
        "dtype": manifest.dtype.value,
        "psnr_db": parity and parity.psnr_db,
        "max_abs": parity and parity.max_abs,
        "ssim": parity and parity.ssim,
        "pictures": parity and parity.pictures,
        "bound_db": bound_db,
        "passed": parity is not None and parity.passed,
    }
