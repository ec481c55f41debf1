"""`verify --layers`: each layer of an artifact beside torch's, as a table or as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._shared import table_console

if TYPE_CHECKING:
    from coronet_deploy.export.manifest import Manifest
    from coronet_deploy.export.subject import Subject
    from coronet_deploy.images import Array


def layers_of(path: Path, manifest: Manifest, subject: Subject, picture: Array) -> dict[str, Any]:
    """Return an artifact's layers beside torch's on one picture, and the first wrong one."""
    from coronet_deploy.verify.layers import LEAST_SNR_DB, compare_layers, first_wrong

    found = compare_layers(path, manifest, subject, picture)
    least = LEAST_SNR_DB[manifest.dtype]
    wrong = first_wrong(found, least)
    return {
        "least_snr_db": least,
        "first_wrong": wrong.layer if wrong else None,
        "layers": [
            {
                "layer": one.layer,
                "value": one.value,
                "snr_db": round(one.snr_db, 2),
                # JSON knows no infinity.
                "max_abs": float(f"{one.max_abs:.3g}") if math.isfinite(one.max_abs) else None,
                "scaled_channels": one.affine,
                "wrong": one is wrong,
            }
            for one in found
        ],
    }


def show_layers(told: Mapping[Path, Mapping[str, Any]]) -> None:
    """Print a table for each artifact."""
    from rich.markup import escape
    from rich.table import Table

    console = table_console()
    for path, one in told.items():
        layers: Sequence[Mapping[str, Any]] = one["layers"]
        table = Table("value", "SNR dB", "max |diff|", "", box=None, pad_edge=False)
        table.columns[0].overflow = "fold"
        for column in table.columns[1:3]:
            column.justify = "right"
            column.no_wrap = True
        for layer in layers:
            mark = "first wrong" if layer["wrong"] else "~" if layer["scaled_channels"] else ""
            largest = math.inf if layer["max_abs"] is None else layer["max_abs"]
            table.add_row(escape(layer["value"]), f"{layer['snr_db']:.1f}", f"{largest:.2g}", mark)
        console.print(f"\n{escape(path.name)}: layers beside torch, on the first picture")
        console.print(table)
        wrong = one["first_wrong"]
        console.print(
            f"First wrong: layer {escape(wrong)}, below {one['least_snr_db']:g} dB."
            if wrong
            else f"No layer is below {one['least_snr_db']:g} dB."
        )
    console.print(
        "~: up to a scale (before a norm, a shift too) of each channel, which is undone later"
    )
