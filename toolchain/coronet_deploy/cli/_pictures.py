"""Which pictures of a folder are looked at, of many the same ones each time; and grids of some."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli._bench_flags import check_reports
from coronet_deploy.errors import BadInput

if TYPE_CHECKING:  # numpy comes with it, and --help needs none
    from coronet_deploy.export.calibrate import Pictures

_MOST = 200  # enough for a worst one, and held in memory beside what each network draws of them

_FORMS = {
    "": "PNG",  # as of /dev/stdout
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What a grid is written as, by the ending of its name."""


def add_pictures(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what says which pictures an artifact is compared on; `what` is said of them."""
    parser.add_argument("--pictures", type=Path, metavar="DIR", help=what)
    parser.add_argument(
        "--pictures-count",
        type=count,
        default=_MOST,
        metavar="N",
        help=f"how many of them at most, the same ones each time (default: {_MOST})",
    )


def count(text: str) -> int:
    """Return a number of pictures, at least one."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pictures, such as 12")
    return int(text)


def check_pictures(args: argparse.Namespace) -> None:
    """Let a folder through that holds pictures, and say if not all of them will be looked at.

    Raises:
        BadInput: it holds none, or is no folder.

    """
    from coronet_deploy.images import list_pictures

    if args.pictures is None:
        return
    if (found := len(list_pictures(args.pictures))) > args.pictures_count:
        print(
            f"{args.pictures_count} of the {found} pictures in {args.pictures} are compared, the "
            "same ones each time: --pictures-count N takes more",
            file=sys.stderr,
        )


def take_own(args: argparse.Namespace, generator: str | None) -> None:
    """Take the pictures that lie beside a checkpoint, where none are given; and say so."""
    from coronet_deploy.coronet.zoo import CALIBRATION, INPUTS, own_pictures
    from coronet_deploy.storage import is_folder

    if generator is None or ":" in generator or args.pictures is not None:
        return
    own = own_pictures(Path(generator))
    taken = dict[str, Path]()
    for name, folder in (("pictures", own / INPUTS), ("calibration", own / CALIBRATION)):
        if getattr(args, name, folder) is None and is_folder(folder):
            taken[name] = folder
    if taken:
        vars(args).update(taken)
        print(f"pictures of its task: {' and '.join(map(str, taken.values()))}", file=sys.stderr)


def read_pictures(args: argparse.Namespace, height: int, width: int) -> Pictures:
    """Return the pictures of the folder that is given, or the bundled ones, at a size."""
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.export import calibrate
    from coronet_deploy.images import list_pictures

    paths = bundled_pictures() if args.pictures is None else list_pictures(args.pictures)
    return calibrate.read_pictures(chosen(paths, args.pictures_count), height, width)


def chosen(paths: Sequence[Path], count: int) -> list[Path]:
    """Return the paths of those pictures that `choose` takes, before any is read."""
    import numpy as np

    from coronet_deploy.export.calibrate import Pictures, choose

    unread = np.empty(0, np.float32)
    named = Pictures(tuple(map(str, paths)), (unread,) * len(paths))
    return [Path(name) for name in choose(named, count).names]


def add_grid(parser: argparse.ArgumentParser, what: str) -> None:
    """Add what says where a grid of pictures goes; `what` is said of it."""
    told = f"write a picture of {what}; a PNG, or what FILE ends in, such as .jpg"
    parser.add_argument("--grid", type=Path, metavar="FILE", help=told)


def check_grid(args: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Let a grid through that can be written, before there is any.

    Raises:
        BadInput: its name ends in no form of pictures, or it is a folder or one of `inputs`.
        EnvironmentProblem: nothing can be written there.

    """
    check_reports(args, ["--grid"], inputs)
    if args.grid is not None and args.grid.suffix.lower() not in _FORMS:
        raise BadInput(
            f"--grid {args.grid}: no picture is written as {args.grid.suffix}",
            hint=f"its name may end in {', '.join(filter(None, _FORMS))}",
        )


def write_grid(path: Path, png: bytes) -> None:
    """Write a grid, which came as a PNG, as what its name says."""
    from coronet_deploy.storage import write_bytes
    from coronet_deploy.verify.grid import in_form

    write_bytes(path, in_form(png, _FORMS[path.suffix.lower()]))
