"""Pictures of a generator's own task, which its training leaves beside it (`zoo.own_pictures`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.coronet.data import Pictures
from coronet_deploy.coronet.zoo import CALIBRATION, INPUTS, own_pictures
from coronet_deploy.images import at_size
from coronet_deploy.storage import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

_CALIBRATED_ON, _COMPARED_ON = 12, 6
_LONGEST = 512  # pixels a side: larger ones are squeezed


def leave_pictures(
    checkpoint: Path, training: Pictures, held_out: Pictures | None, domain: int = 0
) -> None:
    """Write pictures of `domain`, 0 the input's and 1 the output's, for the coming `checkpoint`.

    Where none are held out, those to compare on are of the training set too, but other ones. What
    is there already stays.

    Raises:
        BadInput: a picture cannot be read.
        EnvironmentProblem: the disk refuses one.

    """
    if held_out is None:
        every = list(training.spread(domain, _CALIBRATED_ON + _COMPARED_ON))
        shown = every[:: len(every) // _COMPARED_ON or 1][:_COMPARED_ON]
        seen = [one for one in every if not any(one is other for other in shown)] or every
    else:
        seen = list(training.spread(domain, _CALIBRATED_ON))
        shown = list(held_out.spread(domain, _COMPARED_ON))
    for name, pictures in ((CALIBRATION, seen), (INPUTS, shown)):
        for i, picture in enumerate(pictures):
            _leave(own_pictures(checkpoint) / name / f"{i:02d}.png", picture)


def _leave(path: Path, picture: Image) -> None:
    if path.exists():
        return
    height, width = (min(side, _LONGEST) for side in (picture.height, picture.width))
    pixels = at_size(picture, height, width)
    from PIL import Image as PillowImage

    with atomic_path(path) as temporary:
        PillowImage.fromarray(pixels).save(temporary, "PNG")
