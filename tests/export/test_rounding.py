"""What quantisation-aware fine-tuning simulates is what the runtime draws of an INT8_FULL file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.rounding import Rounded
from coronet_deploy.coronet.zoo import bundled_calibration, bundled_checkpoint, bundled_pictures
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.subject import subject_of
from coronet_deploy.images import Array
from coronet_deploy.ranges import FULL_RESNET_MARGIN, FULL_UNET_MARGIN
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime

pytestmark = pytest.mark.usefixtures("one_thread")
HORSES, FACADES = "horse2zebra-resnet9", "facades-unet256"


def _tensor(picture: Array) -> Tensor:
    return torch.from_numpy(picture).permute(0, 3, 1, 2).contiguous()


# The longer U-Net has channels at its narrowest that hardly one calibration picture wakes.
@pytest.mark.parametrize(
    ("model", "file", "side", "margin"),
    [
        (HORSES, HORSES, 128, FULL_RESNET_MARGIN),
        (FACADES, FACADES, 256, FULL_UNET_MARGIN),
        (FACADES, f"{FACADES}-long", 256, FULL_UNET_MARGIN),
    ],
)
def test_it_simulates_what_the_runtime_draws(
    model: str, file: str, side: int, margin: float, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(bundled_checkpoint(model).with_stem(file))
    generator = checkpoint.generator()
    groups = bundled_calibration(), bundled_pictures()
    calibration, shown = (read_pictures(paths, side, side) for paths in groups)
    rounded = Rounded(generator, margin, between=model == FACADES)
    rounded.settle([_tensor(picture) for picture in calibration.values])
    references = translate(generator, shown)
    with torch.no_grad():
        drawn = [rounded(_tensor(picture)).permute(0, 2, 3, 1).numpy() for picture in shown.values]
    graph = capture(generator, side, side)
    built = build(graph, Runtime.ONNX, DType.INT8_FULL, subject_of(checkpoint), calibration)
    path = tmp_path / "artifact.onnx"
    path.write_bytes(built.data)
    with open_session(path, Runtime.ONNX, threads=1) as session:
        real = [session.run(picture) for picture in shown.values]
    simulated_db, real_db = (
        np.array([psnr_db(*pair) for pair in zip(references, one, strict=True)])
        for one in (drawn, real)
    )
    assert simulated_db.mean() == pytest.approx(real_db.mean(), abs=2.0)
    assert simulated_db == pytest.approx(real_db, abs=4.0)
