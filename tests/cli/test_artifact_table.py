"""Tables of artifacts fit 80 columns whatever a model is called."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coronet_deploy.cli._shared import artifact_table

LONG = "horse2zebra-resnet9-long-reverse-qat_256x256_"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([LONG + "fp32.onnx", LONG + "int8.tflite"], ["fp32.onnx", "int8.tflite"]),
        (["tiny_64x64_fp32.onnx", "tiny_64x64_fp32.tflite"], None),
        ([LONG + "fp32.onnx"], None),  # alone it stands whole, in two lines
    ],
)
def test_names_too_long_for_a_line_stand_without_their_start(
    names: list[str], shown: list[str] | None
) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    table, stand_ins = artifact_table(console, names, "MB", "PSNR dB", "max |diff|", "s")
    assert stand_ins == (shown or names)
    for name in stand_ins:
        table.add_row(name, "1234.14", "132.4", "4.6e-06", "123.4")
    console.print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert (lines[0] == f"Names start with {LONG}") == (shown is not None)
    if len(names) > 1:
        assert len(lines) == len(names) + (2 if shown else 1)
