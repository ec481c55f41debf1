"""The bounds that the README promises are those that an export holds to when told nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.cli import main
from coronet_deploy.errors import GateFailed
from coronet_deploy.verify.gate import require
from coronet_deploy.verify.parity import DEFAULT_BOUNDS_DB, compare
from coronet_deploy.vocabulary import DType

ROOT = Path(__file__).resolve().parents[2]

PROMISED = {
    DType.FP32: 100,
    DType.FP16: 60,
    DType.INT16X8: 40,
    DType.A16W8: 40,
    DType.INT8_WEIGHTS: 40,
    DType.INT8: 30,
    DType.INT8_FULL: 30,
    DType.INT8_DYNAMIC: 30,
}

# Its weights of 17 and some thousandths are no float16 numbers: what those thousandths are times
# the picture is what float16 loses, 20 log10(0.0048) to 60 dB.
_CODE = """
import torch
from torch import nn


class Rounded(nn.Module):
    lost = 0.0

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 6, 1, bias=False)
        self.apart = nn.Conv2d(6, 3, 1, bias=False)
        one = torch.eye(3)
        apart = torch.cat([one * (17 + self.lost), one * -16.5], 1)
        with torch.no_grad():
            self.twice.weight.copy_(torch.cat([one, one])[..., None, None])
            self.apart.weight.copy_(apart[..., None, None])

    def forward(self, x):
        return torch.tanh(self.apart(torch.relu(self.twice(x))))


class JustAbove(Rounded):
    lost = 0.0046


class JustBelow(Rounded):
    lost = 0.005
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rounded.py").write_text(_CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_tells_the_bounds() -> None:
    assert DEFAULT_BOUNDS_DB == PROMISED
    assert set(PROMISED) == set(DType)
    readme = " ".join((ROOT / "README.md").read_text().split())
    told = re.search(
        r"at least (\d+) dB PSNR in FP32, (\d+) in FP16, (\d+) in `int16x8`, `a16w8` and "
        r"`int8-weights`, (\d+) in the other int8 schemes",
        readme,
    )
    assert told is not None
    schemes = (DType.FP32, DType.FP16, DType.INT16X8, DType.INT8)
    assert [int(number) for number in told.groups()] == [PROMISED[dtype] for dtype in schemes]


@pytest.mark.parametrize("dtype", DType)
def test_an_export_that_is_told_no_bound_has_that_of_its_type(
    dtype: DType, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Behind each artifact, and in its manifest for `verify`.
    line = ["export", "rounded:Rounded", "--size", "32x48", "--dtype", dtype.value, "--json"]
    assert main([*line, "--output", str(code)]) == 0
    artifacts = json.loads(capsys.readouterr().out)["artifacts"]
    assert artifacts
    for artifact in artifacts:
        assert artifact["bound_db"] == PROMISED[dtype]
        manifest = json.loads(Path(f"{artifact['path']}.json").read_text())
        assert manifest["parity"]["bound_db"] == PROMISED[dtype]


@pytest.mark.parametrize("dtype", DType)
def test_a_hundredth_of_a_decibel_decides(dtype: DType) -> None:
    reference = np.zeros((1, 8, 8, 3), np.float32)
    bound = DEFAULT_BOUNDS_DB[dtype]

    def off_by(decibels: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.full_like(reference, 2 * 10 ** (-decibels / 20))

    require(compare("x", [reference], [off_by(bound + 0.01)], bound), "x")
    below = compare("x", [reference, reference], [reference, off_by(bound - 0.01)], bound)
    with pytest.raises(
        GateFailed, match=rf"x: PSNR .* is {bound - 0.01:.2f} dB, below .* {bound:g} dB"
    ):
        require(below, "x")


def test_an_artifact_just_below_the_bound_is_rejected(
    code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", "32x48", "--runtime", "tflite", "--dtype", "fp16", "--json"]
    assert main(["export", "rounded:JustBelow", *options, "--output", "out"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["artifacts"] == []
    told = re.search(r"PSNR against torch is (\S+) dB, below the bound of 60 dB", said.err)
    assert told is not None, said.err
    assert 59 < float(told[1]) < 60
    name = "justbelow_32x48_fp16.tflite"
    left = {path.name for path in (code / "out").iterdir()}
    assert left == {f"{name}.rejected", f"{name}.rejected.png"}
    assert main(["export", "rounded:JustAbove", *options, "--output", "out"]) == 0
    (above,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert 60 <= above["psnr_db"] < 61
