"""The wheel carries everything that the commands look for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_package_and_data(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    subprocess.run([*line, "--quiet", "--wheel-dir", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    model = "coronet_deploy/_data/models/facades-unet256"
    for name in (
        "coronet_deploy/py.typed",
        "coronet_deploy/report/report.css",
        "coronet_deploy/results/run.schema.json",
        "coronet_deploy/_data/android_bench/CMakePresets.json",
        "coronet_deploy/_data/android_bench/src/main.c",
        f"{model}/recipe.toml",
        f"{model}/facades-unet256.safetensors",
        f"{model}/inputs/villa.png",
        f"{model}/calibration/00.png",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "models/", "toolchain/"))]
    # The wheel alone, without the checkout, finds its data.
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    program = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "from coronet_deploy.coronet.zoo import bundled_checkpoint\n"
        "print(bundled_checkpoint())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    if os.environ.get("CI") or shutil.which("cmake"):
        words = ["runner", "build", "--preset", "host", "--output", str(tmp_path / "runner")]
        settings = os.environ | {"PYTHONPATH": str(unpacked)}
        line = [sys.executable, "-m", "coronet_deploy", *words]
        subprocess.run(line, env=settings, cwd=tmp_path, check=True, capture_output=True)
        subprocess.run([tmp_path / "runner" / "coronet-runner", "--version"], check=True)
    assert found.stdout.strip() == str(unpacked / model / "facades-unet256.safetensors")
