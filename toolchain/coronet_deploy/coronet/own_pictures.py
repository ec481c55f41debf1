"""Pictures of a generator's own task, which its training leaves beside it (`zoo.own_pictures`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.coronet.data import Pictures
from coronet_deploy.coronet.zoo import CALIBRATION, INPUTS, own_pictures
from coronet_deploy.images import Pixels, at_size
from coronet_deploy.storage import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

_CALIBRATED_ON, _COMPARED_ON = 12, 6
_LONGEST = 512  # pixels a side: larger ones are squeezed


def leave_pictures(
    checkpoint: Path,
    training: Pictures,
    held_out: Pictures | None,
    domain: int = 0,
    *,
    anew: bool = True,
) -> None:
    """Write pictures of `domain`, 0 the input's and 1 the output's, for the coming `checkpoint`.

    Where none are held out, those to compare on are of the training set too, but other ones.
    `anew` replaces what an earlier training, one that came to nothing, has left; without it what
    is there stays.

    Raises:
        BadInput: a picture cannot be read.
        EnvironmentProblem: the disk refuses one.

    """
    if held_out is None:
        count = _CALIBRATED_ON + _COMPARED_ON
        every = [_squeezed(picture) for picture in training.spread(domain, count)]
        compared = range(0, len(every), len(every) // _COMPARED_ON or 1)[:_COMPARED_ON]
        shown = [every[i] for i in compared]
        seen = [pixels for i, pixels in enumerate(every) if i not in compared] or every
    else:
        seen = [_squeezed(picture) for picture in training.spread(domain, _CALIBRATED_ON)]
        shown = [_squeezed(picture) for picture in held_out.spread(domain, _COMPARED_ON)]
    for name, pictures in ((CALIBRATION, seen), (INPUTS, shown)):
        folder = own_pictures(checkpoint) / name
        wanted = {folder / f"{i:02d}.png": pixels for i, pixels in enumerate(pictures)}
        for path, pixels in wanted.items():
            if anew or not path.exists():
                _write(path, pixels)
        for path in folder.glob("[0-9][0-9].png") if anew else ():
            if path not in wanted:
                path.unlink(missing_ok=True)


def _squeezed(picture: Image) -> Pixels:
    return at_size(picture, *(min(side, _LONGEST) for side in (picture.height, picture.width)))


def _write(path: Path, pixels: Pixels) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
