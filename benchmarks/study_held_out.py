"""Measures what quantised files make of many pictures that they were not calibrated on.

    python benchmarks/study_held_out.py CHECKPOINT --pictures testA --calibration trainA
    python benchmarks/study_held_out.py CHECKPOINT --pictures val --half right

A gate sees a few pictures, and ranges come from a dozen. What clips shows on others: the worst of
a hundred can be 10 dB below the median one. Each file runs in its own runtime; PSNR is against
torch, with 38, 48, 32 and 45 dB as bars (INT8 and INT8_FULL of a ResNet and of a U-Net).

`--calibration` takes twelve of a folder, as `export` does; without it, the bundled label maps are
taken. `--half` reads one half of pairs side by side, in both folders.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from coronet_deploy.cli.bench import positive
from coronet_deploy.cli.export import picture_size
from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.zoo import bundled_calibration
from coronet_deploy.errors import CoronetError
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures, choose, read_folder, read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject, subject_of
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.release import check_fit
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime

BARS_DB = {DType.INT8: (38.0, 48.0), DType.INT8_FULL: (32.0, 45.0)}
THREADS = 2
SIDES = ("left", "right")


def pictures_in(folder: Path, size: int, half: str | None) -> Pictures:
    """Return the pictures of a folder, or one half of each."""
    if half is None:
        return read_folder(folder, size, size)
    pairs, place = read_folder(folder, size, 2 * size), SIDES.index(half) * size
    halves = (np.ascontiguousarray(pair[:, :, place : place + size]) for pair in pairs.values)
    return replace(pairs, values=tuple(halves))


def rows(subject: Subject, pictures: Pictures, calibration: Pictures) -> Iterator[str]:
    """Yield a line of the table for each kind of quantised file."""
    _, height, width, channels = pictures.values[0].shape
    graph = capture(subject.generator, height, width, channels)
    references = translate(subject.generator, pictures)
    study = Study(graph, calibration)
    resnet = subject.plan is not None and subject.plan.architecture.is_resnet
    for dtype, bars in BARS_DB.items():
        bar = bars[0] if resnet else bars[1]
        for runtime in Runtime:
            built = build(graph, runtime, dtype, subject, calibration, study=study)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"artifact{runtime.suffix}"
                path.write_bytes(built.data)
                with open_session(path, runtime, THREADS) as session:
                    outputs = [session.run(picture) for picture in pictures.values]
                    parts = session.partitions.parts
            psnr = np.array([psnr_db(*pair) for pair in zip(references, outputs, strict=True)])
            low, middle = np.percentile(psnr, (5, 50))
            share = built.quantization.int8_macs_share if built.quantization else 0
            yield (
                f"| {dtype.value} {runtime.value} | {psnr.min():.1f} | {low:.1f} | {middle:.1f} "
                f"| {int((psnr < bar).sum())} of {psnr.size} below {bar:g} | {share:.1%} "
                f"| {parts} | {len(built.data) / 1e6:.2f} |"
            )


def side(text: str) -> int:
    """Parse the pixels of a square's side, as many as `export` takes."""
    return picture_size(str(positive(text)))[0]


def main() -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", type=Path, required=True, help="folder to compare on")
    parser.add_argument("--calibration", type=Path, help="folder to calibrate on")
    parser.add_argument("--half", choices=SIDES, help="of pairs side by side")
    parser.add_argument("--size", type=side, default=256, help="pixels a side")
    args = parser.parse_args()
    try:
        _study(args)
    except CoronetError as error:
        parser.exit(error.exit_status, f"{parser.prog}: {error}\n")


def _study(args: argparse.Namespace) -> None:
    subject = subject_of(load_checkpoint(args.checkpoint))
    check_fit(subject, args.size, args.size)
    if args.calibration:
        calibration = choose(pictures_in(args.calibration, args.size, args.half))
    else:
        calibration = read_pictures(bundled_calibration(), args.size, args.size)
    pictures = pictures_in(args.pictures, args.size, args.half)
    print("| file | worst dB | 5 % | median | bar | MACs in integers | parts | MB |")
    print("| --- | --: | --: | --: | --- | --: | --: | --: |")
    for row in rows(subject, pictures, calibration):
        print(row, flush=True)


if __name__ == "__main__":
    main()
