"""`machine.channels_last` changes how fast a step is, and nothing that is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.coronet import train
from coronet_deploy.coronet.hypernetwork import Form
from coronet_deploy.coronet.recipe import Recipe
from coronet_deploy.coronet.state import StepReport
from coronet_deploy.coronet.train import Trainer
from coronet_deploy.vocabulary import Norm


def recipe(
    *,
    channels_last: bool,
    form: Form = Form.COLLAPSED,
    precision: str = "fp32",
    norm: Norm = Norm.BATCH,
    batch: int = 1,
) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {
                "id": "tiny",
                "title": "Tiny",
                "architecture": "resnet_6blocks",
                "norm": norm,
                "width": 8,
                "dropout": 0.0,  # drawn in the order of memory
            },
            "data": {"load": 36, "crop": 32, "batch": batch},
            "search": {"steps": 3, "target": 0.4, "form": form, "slice_every": 2},
            "finetune": {"steps": 3},
            "discriminator": {"width": 8},
            "machine": {"channels_last": channels_last, "precision": precision},
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for i in range(3):
        small = rng.integers(0, 256, (8, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((72, 36)).save(folder / f"{i}.png")
    return folder.parent


@pytest.fixture(autouse=True)
def few_batches_for_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_RECALIBRATION_BATCHES", 2)


class Stopped(Exception):
    """What stops a training here."""


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_run_is_exact(stop: int, data: Path, tmp_path: Path) -> None:
    tiny = recipe(channels_last=True)
    Trainer(tiny, data, tmp_path / "whole").run(lambda _: None)

    def halt(row: StepReport) -> None:
        if row.step == stop:
            raise Stopped

    with pytest.raises(Stopped):
        Trainer(tiny, data, tmp_path / "part").run(halt, save_every=stop)
    resumed = Trainer(tiny, data, tmp_path / "part")
    resumed.resume()
    assert resumed.step == stop
    resumed.run(lambda _: None)
    whole, part = (tmp_path / name / "tiny.safetensors" for name in ("whole", "part"))
    assert part.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    ("norm", "batch"), [(Norm.BATCH, 1), (Norm.INSTANCE, 1), (Norm.INSTANCE, 2)]
)
def test_what_is_learned_is_the_same(
    norm: Norm, batch: int, form: Form, data: Path, tmp_path: Path
) -> None:
    losses = []
    for channels_last in (False, True):
        rows: list[StepReport] = []
        learner = recipe(
            channels_last=channels_last, form=form, precision="fp64", norm=norm, batch=batch
        )
        Trainer(learner, data, tmp_path / str(channels_last)).run(rows.append)
        losses.append([list(row.losses.values()) for row in rows])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
