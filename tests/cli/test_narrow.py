"""Terminals of few columns, or of none that they tell: tables keep what they are read for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.cli import main
from coronet_deploy.cli._explain import show
from coronet_deploy.cli._layers import show_layers

_NAME = "facades-unet256_256x256_fp32.tflite"
_STEP = {"operators": 81, "partitions": 12, "outside": 34, "macs": 602_600_000}
_BYTES = {"moved_bytes": 123_400_000, "file_bytes": 24_100_000}
_LAYER: dict[str, Any] = {"value": "downs.2/conv2d", "snr_db": 123.4, "max_abs": 1.3e-6}


@pytest.fixture(params=["0", "1", "40"])
def _narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", request.param)


@pytest.mark.usefixtures("_narrow")
def test_a_narrow_terminal_loses_no_step(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"artifact": _NAME, "steps": [{"step": "fold_batch_norm", **_STEP, **_BYTES}]}])
    told = capsys.readouterr().out
    row = ("fold_batch_norm", "81", "12", "34", "602.6", "123.4", "24.10")
    for word in (_NAME, "operators", "MB moved", *row):
        assert word in told
    assert "…" not in told


@pytest.mark.usefixtures("_narrow")
def test_a_narrow_terminal_loses_no_layer(capsys: pytest.CaptureFixture[str]) -> None:
    layer = _LAYER | {"wrong": True, "scaled_channels": False}
    show_layers({Path(_NAME): {"least_snr_db": 60, "first_wrong": "downs.2", "layers": [layer]}})
    told = capsys.readouterr().out
    for word in (_NAME, "max |diff|", "downs.2/conv2d", "123.4", "1.3e-06", "first wrong"):
        assert word in told


@pytest.mark.usefixtures("_narrow")
def test_a_narrow_terminal_is_told_what_a_checkpoint_costs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect"]) == 0
    told = capsys.readouterr().out
    for word in ("facades-unet256", "parameters", "MACs, published convention", "unpruned"):
        assert word in told
