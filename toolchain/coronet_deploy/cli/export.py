"""`coronet-deploy export`: from a checkpoint to artifacts that draw the same picture."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._shared import read_checkpoint
from coronet_deploy.errors import CoronetError

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.vocabulary import Artifact

HELP = "export a checkpoint to ONNX and TFLite artifacts, and prove that they draw the same"

_OUTPUT = Path("out/artifacts")
_RUNTIMES = ("onnx", "tflite")
_DTYPES = ("fp32", "fp16", "int8")
_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        type=Path,
        help="a CoroNet checkpoint, or a generator's state dict (default: the bundled one)",
    )
    parser.add_argument(
        "--runtime",
        choices=(*_RUNTIMES, "all"),
        default="all",
        help="what the artifacts are for (default: all)",
    )
    parser.add_argument(
        "--dtype",
        choices=(*_DTYPES, "all"),
        default="fp32",
        help="number type of weights and arithmetic (default: fp32)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_OUTPUT,
        metavar="DIR",
        help=f"where the artifacts go (default: {_OUTPUT})",
    )
    parser.add_argument(
        "--size",
        type=picture_size,
        default=(256, 256),
        metavar="HxW",
        help="height and width of the pictures, which an artifact fixes (default: 256x256)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="pictures to compare with torch on (default: the bundled ones)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures that INT8 ranges are measured on (default: bundled ones, or two thirds of "
        "--pictures)",
    )
    parser.add_argument(
        "--prefer",
        choices=("speed", "size"),
        default="speed",
        help="whether rewrites may buy speed with a larger file (default: speed)",
    )
    parser.add_argument(
        "--min-psnr",
        type=decibels,
        metavar="DB",
        help="PSNR against torch that every picture must reach (default: 100 for fp32, "
        "60 for fp16, 30 for int8)",
    )


def picture_size(text: str) -> tuple[int, int]:
    """Return (height, width) of "HxW"."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 256x256")
    return int(match[1]), int(match[2])


def decibels(text: str) -> float:
    """Return a finite number of dB."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dB, such as 40")
    return value


def read_pictures(folder: Path | None, height: int, width: int) -> Pictures:
    """Return the pictures of `folder`, or the bundled ones, at a size."""
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.export import calibrate

    if folder is not None:
        return calibrate.read_folder(folder, height, width)
    return calibrate.read_pictures(bundled_pictures(), height, width)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    checkpoint = read_checkpoint(args.checkpoint)
    from coronet_deploy.verify.parity import DEFAULT_BOUNDS_DB
    from coronet_deploy.verify.release import Order, release
    from coronet_deploy.vocabulary import DType, Runtime

    pictures = read_pictures(args.pictures, *args.size)
    order = Order(
        checkpoint=checkpoint,
        output_dir=args.output,
        pictures=pictures,
        calibration=_calibration(args, pictures),
        runtimes=[Runtime(r) for r in _RUNTIMES if args.runtime in {r, "all"}],
        dtypes=[DType(d) for d in _DTYPES if args.dtype in {d, "all"}],
        bounds_db=DEFAULT_BOUNDS_DB
        if args.min_psnr is None
        else dict.fromkeys(DType, args.min_psnr),
        prefer=args.prefer,
    )
    artifacts: list[Artifact] = []
    try:
        release(order, lambda line: print(line, file=sys.stderr), artifacts.append)
    except CoronetError:
        # What passed is there and is said, before the error is.
        _show(artifacts, args.output, as_json=args.json)
        raise
    _show(artifacts, args.output, as_json=args.json)
    return 0


def _calibration(args: argparse.Namespace, pictures: Pictures) -> Pictures:
    """Return what was given, else what goes with the pictures: bundled ones, or a part of them."""
    from coronet_deploy.coronet.zoo import bundled_calibration
    from coronet_deploy.export.calibrate import choose, hold_out, read_folder, read_pictures

    if args.calibration:
        return choose(read_folder(args.calibration, *args.size))
    if args.pictures:
        return hold_out(pictures)
    return read_pictures(bundled_calibration(), *args.size)


def _show(artifacts: list[Artifact], folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"artifacts": [_fields(artifact) for artifact in artifacts]}))
        return
    if not artifacts:
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    table = Table("artifact", "MB", "PSNR dB", "max |diff|", "s", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    table.columns[0].overflow = "fold"
    for artifact in artifacts:
        table.add_row(
            escape(artifact.path.name),
            f"{artifact.bytes / 1e6:.2f}",
            f"{artifact.parity.psnr_db:.1f}",
            f"{artifact.parity.max_abs:.2g}",
            f"{artifact.seconds:.1f}",
        )
    console.print(table)
    console.print(f"in {escape(str(folder))}, each with its manifest (.json) and pictures (.png)")


def _fields(artifact: Artifact) -> dict[str, Any]:
    return {
        "path": str(artifact.path),
        "runtime": artifact.runtime.value,
        "dtype": artifact.dtype.value,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "seconds": round(artifact.seconds, 3),
        "psnr_db": artifact.parity.psnr_db,
        "max_abs": artifact.parity.max_abs,
        "ssim": artifact.parity.ssim,
        "pictures": artifact.parity.pictures,
        "bound_db": artifact.parity.bound_db,
    }
