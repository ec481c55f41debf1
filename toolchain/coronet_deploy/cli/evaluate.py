"""`coronet-deploy evaluate`: how good the pictures of a checkpoint or an artifact are."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._device import usable_device
from coronet_deploy.cli._pictures import add_grid, check_grid, write_grid
from coronet_deploy.cli._shared import ARTIFACTS, read_checkpoint, table_console, torch_loading
from coronet_deploy.cli.export import picture_size
from coronet_deploy.errors import BadInput
from coronet_deploy.memory import memory_told

if TYPE_CHECKING:  # numpy and torch come with these, and --help needs neither
    from coronet_deploy.images import Array
    from coronet_deploy.verify.examples import Examples
    from coronet_deploy.verify.features import FeatureNetwork
    from coronet_deploy.verify.quality import Distances, Quality, Translate

HELP = "judge a generator's pictures by the true ones: PSNR, SSIM, L1, distances between sets"

_SIZE = (256, 256)
_COLOURS = 3
_DIRECTIONS = ("AtoB", "BtoA")
_EVERY = 25  # pictures between two lines of progress
_FEWEST = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        type=Path,
        help="a checkpoint, or an .onnx or .tflite artifact (default: the bundled checkpoint)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="pairs side by side, A left and B right; or folders inputs and targets, or testA "
        "and testB, that are not paired (see --paired)",
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help="files of the same names in the two folders are pairs, as training a Pix2Pix on "
        "trainA and trainB has it",
    )
    parser.add_argument(
        "--direction",
        choices=_DIRECTIONS,
        help="which is the input (default: what the checkpoint was trained for)",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="SqueezeNet 1.0 weights (.safetensors; torchvision's layer names, the authors' "
        "input: BGR less mean) for SqueezeNet-FD and SqueezeNet-KID",
    )
    parser.add_argument(
        "--inception",
        type=Path,
        metavar="FILE",
        help="torch-fidelity's Inception weights for FID and KID: "
        "weights-inception-2015-12-05-6726825d.pth, of its release v0.2.0 on GitHub "
        "(toshas/torch-fidelity)",
    )
    parser.add_argument(
        "--count",
        type=_count,
        metavar="N",
        help="judge N pictures, the same ones each time (default: all)",
    )
    parser.add_argument(
        "--size",
        type=picture_size,
        metavar="HxW",
        help="height and width of the pictures, or one number for both (default: the artifact's, "
        "or 256x256)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="torch device of a checkpoint's generator and of the feature networks (default: cpu)",
    )
    add_grid(parser, "some inputs, their truth if paired, and what is generated")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < _FEWEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {_FEWEST}")
    return int(text)


@dataclass(frozen=True)
class _Model:
    """What is judged: `translate` at `size`; `direction` is what it is known to be for."""

    path: Path
    kind: str
    sha256: str
    size: tuple[int, int]
    direction: str | None
    translate: Translate


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_grid(args, [args.model] if args.model else [])
    with _opened(args.model, args.size, args.device) as model:
        examples = _examples(args, model)
        _tell_unlike(examples)
        networks = _networks(args)
        digest = examples.digest()
        from coronet_deploy.verify.quality import judge

        quality = judge(
            str(model.path), model.translate, model.size, examples, networks, _progress, _tell
        )
    # Before the grid: its disk may be full by now, and the figures took hours.
    if args.json:
        print(json.dumps(_fields(model, examples, digest, quality), allow_nan=False), flush=True)
    else:
        _show(model, examples, quality)
    if args.grid:
        from coronet_deploy.verify.grid import sheet_png

        titles = ("input", "truth", "generated") if examples.paired else ("input", "generated")
        write_grid(args.grid, sheet_png(titles, quality.shown))
    return 0


@contextlib.contextmanager
def _opened(path: Path | None, size: tuple[int, int] | None, device: str) -> Iterator[_Model]:
    """Yield the model at `path`, or the bundled one, ready to translate."""
    if path is None or path.suffix not in ARTIFACTS:
        yield _checkpoint_model(path, size or _SIZE, device)
        return
    from coronet_deploy.storage import sha256_of
    from coronet_deploy.verify.runtimes import open_session, runtime_of

    runtime = runtime_of(path)
    # One thread: the figures then do not depend on how many cores the host has.
    with open_session(path, runtime, threads=1) as session:
        fixed = session.input_shape[1], session.input_shape[2]
        if size not in {None, fixed}:
            raise BadInput(f"--size: {path} takes pictures of {fixed[0]}x{fixed[1]} only")
        _require_colours(path, session.input_shape[3])
        direction = _trained_direction(path)
        yield _Model(path, runtime.value, sha256_of(path), fixed, direction, session.run)


def _checkpoint_model(path: Path | None, size: tuple[int, int], device: str) -> _Model:
    checkpoint = read_checkpoint(path)
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.verify.gate import check_size, translate

    check_size(*size, checkpoint.plan.architecture)
    _require_colours(checkpoint.path, checkpoint.plan.input_channels)
    generator = checkpoint.generator().to(usable_device(device))

    def run_torch(picture: Array) -> Array:
        with memory_told("draw pictures", "smaller ones (--size) take less"):
            return translate(generator, Pictures(("",), (picture,)))[0]

    direction = checkpoint.header.direction
    return _Model(checkpoint.path, "checkpoint", checkpoint.sha256, size, direction, run_torch)


def _require_colours(path: Path, channels: int) -> None:
    if channels != _COLOURS:
        raise BadInput(f"{path} takes pictures of {channels} channels: only RGB can be judged")


def _trained_direction(artifact: Path) -> str | None:
    """Return the direction in an artifact's manifest; None if it is not known.

    A manifest of the first version has none: the bundled checkpoint is asked, if it was of that.
    """
    from coronet_deploy.coronet.zoo import bundled_checkpoint
    from coronet_deploy.export.manifest import checked_manifest, manifest_path
    from coronet_deploy.storage import sha256_of

    if not os.path.exists(manifest_path(artifact)):  # noqa: PTH110 - its name may be too long
        return None
    manifest = checked_manifest(artifact)
    if manifest.direction is not None:
        return manifest.direction
    bundled = bundled_checkpoint()
    if not bundled.is_file() or sha256_of(bundled) != manifest.source.sha256:
        return None
    return read_checkpoint(bundled).header.direction


def _examples(args: argparse.Namespace, model: _Model) -> Examples:
    from coronet_deploy.verify.examples import find_examples, is_directed

    direction = args.direction or model.direction
    if direction not in _DIRECTIONS and not is_directed(args.data):
        raise BadInput(
            f"{model.path} does not say which pictures are its input",
            hint="say it with --direction",
        )
    return find_examples(args.data, direction, args.count, matched=args.paired)


def _tell_unlike(examples: Examples) -> None:
    """Say of pairs whose shapes differ that each picture is resized by itself."""
    if unlike := examples.unlike():
        _tell(f"{unlike}, and what does not lie in the same place then counts as a difference")


def _networks(args: argparse.Namespace) -> list[FeatureNetwork]:
    """Return the feature networks that were asked for."""
    networks: list[FeatureNetwork] = []
    if not (args.features or args.inception):
        if args.model and args.model.suffix in ARTIFACTS and args.device != "cpu":
            raise BadInput(
                f"--device {args.device} has no effect: {args.model} runs in a runtime of its own",
                hint="leave it out, or name a feature network",
            )
        return networks
    with torch_loading():
        from coronet_deploy.verify.features import read_squeezenet
        from coronet_deploy.verify.inception import read_inception
    device = usable_device(args.device)
    if args.features:
        networks.append(read_squeezenet(args.features, device))
    if args.inception:
        networks.append(read_inception(args.inception, device))
    return networks


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"\033[K{done} of {total} pictures", end=end, file=sys.stderr, flush=True)
    elif done % _EVERY == 0 or done == total:
        print(f"{done} of {total} pictures", file=sys.stderr, flush=True)


def _tell(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def _show(model: _Model, examples: Examples, quality: Quality) -> None:
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    height, width = model.size
    way = f", {examples.direction}" if examples.direction else ""
    console.print(Text(f"{model.path.name} ({model.kind}) on {examples.folder}"))
    console.print(
        f"{quality.generated} generated and {quality.true} true pictures of {height}x{width}{way}"
    )
    if quality.likeness:
        table = Table("beside its true picture", "mean", "worst", box=None, pad_edge=False)
        likeness = quality.likeness
        for name, figure, digits in (
            ("PSNR dB", likeness.psnr_db, 2),
            ("SSIM", likeness.ssim, 4),
            ("L1, of a range of 2", likeness.l1, 4),
        ):
            table.add_row(name, f"{figure.mean:.{digits}f}", f"{figure.worst:.{digits}f}")
        _right(table)
        console.print(table)
    if quality.distances:
        heads = ("as sets", "distance", "spread", "doing nothing", "true halves")
        table = Table(*heads, box=None, pad_edge=False)
        for row in (row for d in quality.distances for row in _distance_rows(d)):
            cells = (row["value"], row.get("spread"), row["untouched"], row["floor"])
            table.add_row(row["name"], *("" if c is None else f"{c:.4g}" for c in cells))
        _right(table)
        console.print(table)
    for distances in quality.distances:
        if not distances.frechet_reliable:
            console.print(
                f"{distances.names[0]} is unreliable here: it takes more than "
                f"{distances.network.dimensions} pictures a set. Go by {distances.names[1]}."
            )


def _right(table: Any) -> None:  # noqa: ANN401 - rich is imported where it is used
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True


def _fields(model: _Model, examples: Examples, digest: str, quality: Quality) -> dict[str, Any]:
    likeness = quality.likeness
    return {
        "model": str(model.path),
        "kind": model.kind,
        "sha256": model.sha256,
        "data": str(examples.folder),
        "data_sha256": digest,
        "paired": examples.paired,
        "direction": examples.direction,
        "size": list(model.size),
        "generated": quality.generated,
        "true": quality.true,
        "likeness": likeness
        and {
            name: {"mean": _steady(figure.mean), "worst": _steady(figure.worst)}
            for name, figure in (
                ("psnr_db", likeness.psnr_db),
                ("ssim", likeness.ssim),
                ("l1", likeness.l1),
            )
        },
        "distances": [row for d in quality.distances for row in _distance_rows(d)],
    }


def _distance_rows(distances: Distances) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Fréchet and the kernel distance over one network, as JSON."""
    network, kernel = distances.network, distances.kernel
    common = {
        "features": str(network.path),
        "features_sha256": network.sha256,
        "dimensions": network.dimensions,
    }
    frechet = {
        "name": distances.names[0],
        "value": _steady(distances.frechet),
        "reliable": distances.frechet_reliable,
        "floor": _steady(distances.frechet_floor),
        "untouched": _steady(distances.frechet_untouched),
    }
    unbiased = {
        "name": distances.names[1],
        "value": _steady(kernel.value),
        "spread": _steady(kernel.spread),
        "subsets": kernel.subsets,
        "subset_size": kernel.subset_size,
        "floor": _steady(distances.kernel_floor),
        "untouched": _steady(distances.kernel_untouched),
    }
    return frechet | common, unbiased | common


def _steady(value: float | None) -> float | None:
    """Return the digits of a figure that do not depend on the host's arithmetic."""
    return None if value is None else float(f"{value:.6g}")
