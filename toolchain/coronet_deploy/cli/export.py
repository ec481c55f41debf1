"""`coronet-deploy export`: from a generator to artifacts that draw the same picture."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._asked import (
    dtype_names,
    dtypes_of,
    kinds_of,
    requests_of,
    runtime_names,
    runtimes_of,
)
from coronet_deploy.cli._bench_flags import check_folder
from coronet_deploy.cli._explain import explanations, show
from coronet_deploy.cli._installed import require_writers
from coronet_deploy.cli._pictures import (
    add_pictures,
    check_pictures,
    chosen,
    count,
    read_pictures,
    take_own,
)
from coronet_deploy.cli._shared import (
    artifact_table,
    read_subject,
    require_given,
    table_console,
)
from coronet_deploy.errors import ConversionFailed, CoronetError, GateFailed
from coronet_deploy.memory import memory_told
from coronet_deploy.storage import require_temporary, require_utf8

if TYPE_CHECKING:  # pydantic and numpy come with these, and --help needs neither
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.export.subject import Subject
    from coronet_deploy.verify.release import Order
    from coronet_deploy.vocabulary import Artifact

HELP = "export a generator to ONNX and TFLite artifacts, and prove that they draw the same"

_OUTPUT = Path("out/artifacts")
_LONGEST = 4096  # of a picture's sides
_MOST_DB = 200  # `parity.CAP_DB`, which numpy comes with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_generator(parser)
    parser.add_argument(
        "--runtime",
        type=runtime_names,
        action="extend",
        metavar="NAME[,...]",
        help="what the artifacts are for: onnx, tflite, or all (default: all)",
    )
    parser.add_argument(
        "--dtype",
        type=dtype_names,
        action="extend",
        metavar="NAME[,...]",
        help="number type of weights and arithmetic: fp32, fp16, int8, or all of these; int8-full "
        "(integers throughout, pictures too, for NPUs), int16x8 (TFLite) or a16w8 (ONNX), "
        "int8-dynamic, int8-weights; several make artifacts in each: fp32,int8, or the flag again "
        "(default: fp32)",
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
        type=picture_sizes,
        action="extend",
        metavar="HxW",
        help="height and width of the pictures, or one number for both, which an artifact fixes; "
        "several make artifacts each: 256x256,512x512, or the flag again (default: 256x256)",
    )
    add_pictures(
        parser,
        "pictures to compare with torch on (default: GENERATOR's own, in "
        "<name>-pictures/inputs beside it, else the bundled ones)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures that INT8 is fitted to: its ranges, and which layers stay float (default: "
        "two thirds of --pictures; else GENERATOR's own, in <name>-pictures/calibration beside "
        "it; else bundled ones)",
    )
    parser.add_argument(
        "--calibration-count",
        type=count,
        metavar="N",
        help="how many of them at most, the same ones each time (default: 12)",
    )
    parser.add_argument(
        "--half-io",
        action="store_true",
        help="FP16 ONNX artifacts take and give float16 pictures (default: float32)",
    )
    parser.add_argument(
        "--prefer",
        choices=("speed", "size"),
        default="speed",
        help="whether rewrites of float files may buy speed with a larger file (default: speed)",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show what each rewrite did: operators, partitions, multiply-adds, bytes moved",
    )
    parser.add_argument(
        "--converter",
        choices=("direct", "litert-torch"),
        default="direct",
        help="who writes the files: we do (default), or litert-torch, for a second opinion on "
        "FP32 TFLite; its files pass the same gate, and are named for it",
    )
    parser.add_argument(
        "--min-psnr",
        type=decibels,
        metavar="DB",
        help="PSNR against torch that every picture must reach (default: 100 for fp32, "
        "60 for fp16, 40 for int16x8, a16w8 and int8-weights, 30 for the other int8 schemes)",
    )


def add_generator(parser: argparse.ArgumentParser, flag: str | None = None) -> None:
    """Add what says which generator is meant: a checkpoint, or the user's own with its weights."""
    what = (
        "a CoroNet checkpoint, or a generator's state dict (ResNet-6/9 or U-Net-128/256 of "
        "pytorch-CycleGAN-and-pix2pix); or one of your own as package.module:name, a torch "
        "module, or a class or function that makes one when called without arguments "
        "(default: the bundled checkpoint)"
    )
    if flag:
        parser.add_argument(flag, metavar="GENERATOR", help=what)
    else:
        parser.add_argument("generator", metavar="GENERATOR", nargs="?", help=what)
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="state dict of a generator of your own, .safetensors or .pt; read as tensors only, "
        "names must match (default: as it is made)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="channels of the picture that a generator of your own takes "
        f"(default: {'what the artifact takes' if flag else 3})",
    )


def picture_size(text: str) -> tuple[int, int]:
    """Return (height, width) of "HxW", or of the one number that a square's sides have."""
    match = re.fullmatch(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 256x256")
    # Cut: Python reads no number of thousands of digits.
    height, width = (int(side[:5]) for side in match.groups(match[1]))
    if max(height, width) > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too large: sides of at most {_LONGEST}")
    return height, width


def picture_sizes(text: str) -> list[tuple[int, int]]:
    """Return the (height, width) of each of "HxW,HxW" (see `picture_size`)."""
    return [picture_size(part) for part in text.split(",")]


def decibels(text: str) -> float:
    """Return a finite number of dB, of those that a PSNR can reach."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dB, such as 40")
    if value > _MOST_DB:
        raise argparse.ArgumentTypeError(
            f"{text!r} is out of reach: equal pictures have {_MOST_DB}"
        )
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from coronet_deploy.images import list_pictures

    require_utf8(str(args.output), "no runtime can open files in it")
    check_folder(args.output, "--output")
    require_temporary()
    take_own(args, args.generator)
    requests = [(one, runtimes_of(one)) for one in requests_of(args)]
    check_pictures(args)
    if args.calibration is not None:
        list_pictures(args.calibration)
    require_given(args.generator, args.weights)
    require_writers(kinds_of(requests))
    subject = read_subject(args.generator, args.weights, args.channels)
    from coronet_deploy.verify.release import check_fit, joined, release

    sizes = list(dict.fromkeys(args.size or [(256, 256)]))
    for size in sizes:  # before anything is made
        check_fit(subject, *size)
    if subject.source.module and args.weights is None:  # which may be those before any training
        print(
            f"{args.generator} has the weights that it is made with; --weights FILE gives others",
            file=sys.stderr,
        )
    if warning := next(
        filter(None, (_other_task(one, subject.model) for one, _ in requests)), None
    ):
        print(warning, file=sys.stderr)
    artifacts: list[Artifact] = []
    failures: list[CoronetError] = []
    orders: list[Order] = []
    told: list[dict[str, Any]] = []
    try:
        for size, (one, runtimes) in itertools.product(sizes, requests):
            try:
                with memory_told("export", "smaller pictures (--size) take less"):
                    orders.append(_order(one, subject, size, runtimes))
                    release(orders[-1], lambda line: print(line, file=sys.stderr), artifacts.append)
            except (ConversionFailed, GateFailed) as error:
                failures.append(error)
        if args.explain:
            told = explanations(orders, artifacts)
    finally:
        # What passed is there and is said, before an error is.
        _show(artifacts, told, args)
    if failures:
        raise joined(failures)
    return 0


def _other_task(args: argparse.Namespace, model: str) -> str | None:
    """Return what to say if INT8 is measured or compared on pictures of another task's."""
    from coronet_deploy.coronet.zoo import DEFAULT_MODEL
    from coronet_deploy.export.schemes import CALIBRATED

    measured = args.dtype == "all" or args.dtype in CALIBRATED
    if not measured or model == DEFAULT_MODEL or args.pictures:
        return None
    what, flag, why = "ranges come from", "--calibration", "which draw better"
    if args.calibration:
        what, flag, why = "is compared on", "--pictures", "on which it is nearer"
    return f"INT8 {what} the bundled label maps: {flag} DIR takes pictures of your task, {why}"


def _order(
    args: argparse.Namespace, subject: Subject, size: tuple[int, int], runtimes: Sequence[str]
) -> Order:
    """Return what to release at one size of pictures."""
    from coronet_deploy.verify.parity import DEFAULT_BOUNDS_DB
    from coronet_deploy.verify.release import Converter, Order
    from coronet_deploy.vocabulary import DType, Runtime

    pictures = read_pictures(args, *size)
    return Order(
        subject=subject,
        output_dir=args.output,
        pictures=pictures,
        calibration=_calibration(args, pictures, size),
        runtimes=[Runtime(r) for r in runtimes],
        dtypes=[DType(d) for d in dtypes_of(args.dtype)],
        bounds_db=DEFAULT_BOUNDS_DB
        if args.min_psnr is None
        else dict.fromkeys(DType, args.min_psnr),
        prefer=args.prefer,
        converter=Converter(args.converter),
        half_io=args.half_io,
    )


def _calibration(args: argparse.Namespace, pictures: Pictures, size: tuple[int, int]) -> Pictures:
    """Return what was given, else what goes with the pictures: bundled ones, or a part of them.

    Only what is used is read: the pictures chosen, and none where nothing looks at them.
    """
    from coronet_deploy.coronet.zoo import bundled_calibration
    from coronet_deploy.export import calibrate
    from coronet_deploy.images import list_pictures

    most = args.calibration_count or calibrate.DEFAULT_COUNT
    if not _looks_at_calibration(args.dtype) or (args.pictures and not args.calibration):
        return calibrate.hold_out(pictures, most)
    paths = list_pictures(args.calibration) if args.calibration else bundled_calibration()
    return calibrate.read_pictures(chosen(paths, most), *size)


def _looks_at_calibration(dtype: str) -> bool:
    """Return whether ranges are measured on the pictures, or float16 is tried on them."""
    from coronet_deploy.export.schemes import CALIBRATED

    return dtype in {"all", "fp16", *CALIBRATED}


def _show(artifacts: list[Artifact], told: list[dict[str, Any]], args: argparse.Namespace) -> None:
    if args.json:
        result: dict[str, Any] = {"artifacts": [_fields(artifact) for artifact in artifacts]}
        print(json.dumps(result | ({"explained": told} if args.explain else {})))
        return
    if artifacts:
        _show_artifacts(artifacts, args.output)
    if told:
        show(told)


def _show_artifacts(artifacts: list[Artifact], folder: Path) -> None:
    from rich.markup import escape

    from coronet_deploy.report.figures import decibels

    console = table_console()
    names = [artifact.path.name for artifact in artifacts]
    table, names = artifact_table(console, names, "MB", "PSNR dB", "max |diff|", "s")
    for name, artifact in zip(names, artifacts, strict=True):
        table.add_row(
            name,
            f"{artifact.bytes / 1e6:.2f}",
            decibels(artifact.parity.psnr_db),
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
