"""The wheel carries everything that the commands look for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    subprocess.run([*line, "--quiet", "--wheel-dir", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """Return what the wheel alone installs, without the checkout."""
    folder = wheel.with_name("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_package_and_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = "coronet_deploy/_data"
    model = f"{data}/models/facades-unet256"
    profiles = [path.name for path in (ROOT / "device_profiles").glob("*.toml")]
    assert len(profiles) > 10
    for name in (
        "coronet_deploy/py.typed",
        "coronet_deploy/report/report.css",
        "coronet_deploy/results/run.schema.json",
        *(f"{data}/device_profiles/{profile}" for profile in profiles),
        f"{data}/android_bench/CMakePresets.json",
        f"{data}/android_bench/src/main.c",
        f"{model}/recipe.toml",
        f"{model}/facades-unet256.safetensors",
        f"{model}/inputs/villa.png",
        f"{model}/calibration/00.png",
    ):
        assert name in names
    places = "tests/", "models/", "toolchain/", "device_profiles/"
    assert not [name for name in names if name.startswith(places)]


def test_the_wheels_script_is_what_python_m_runs(unpacked: Path) -> None:
    (scripts,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert scripts.read_text() == (
        "[console_scripts]\ncoronet-deploy = coronet_deploy.__main__:main\n"
    )


def test_the_wheel_alone_finds_its_data(unpacked: Path, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "from coronet_deploy.coronet.zoo import bundled_checkpoint\n"
        "print(bundled_checkpoint())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    model = unpacked / "coronet_deploy" / "_data" / "models" / "facades-unet256"
    assert found.stdout.strip() == str(model / "facades-unet256.safetensors")
    done = _command(unpacked, tmp_path, "devices", "--known", "--json")
    assert "sm8550" in done.stdout


def test_the_wheel_alone_builds_the_runner(unpacked: Path, tmp_path: Path) -> None:
    if not os.environ.get("CI") and shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    _command(unpacked, tmp_path, "runner", "build", "--preset", "host", "--output", "runner")
    subprocess.run([tmp_path / "runner" / "coronet-runner", "--version"], check=True)


def _command(unpacked: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the unpacked wheel's command in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "coronet_deploy", *words],
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
