"""`coronet-deploy bench --device sm8550` as typed, on virtual phones with the real everything.

The real adb client and daemon, the real runner and runtime libraries, the bundled model in both
formats. What it proves is handling and arithmetic; the timings are this machine's, and labelled so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from coronet_deploy.bench.runner import Preset, build, host_library
from coronet_deploy.coronet.zoo import bundled_pictures
from coronet_deploy.export.build import emit
from coronet_deploy.export.calibrate import read_pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.passes import lower
from coronet_deploy.export.quantize import plan_int8, write_int8
from coronet_deploy.export.study import Study
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.results.files import read_run
from coronet_deploy.vocabulary import Architecture, DType, Runtime
from support import COMMAND, Cli
from virtual_phone import DIMENSITY_9300, EXYNOS_2400, SM8550, AdbServer, VirtualPhone, require_rig

# This machine is noisy, and its virtual phones do not get warm.
STEADY = ("--canary-limit", "50")
LIBRARIES = {Runtime.TFLITE: "libLiteRt.so", Runtime.ONNX: "libonnxruntime.so"}
_WHEELS = {Runtime.TFLITE: "ai-edge-litert", Runtime.ONNX: "onnxruntime"}


@dataclass(frozen=True)
class Workplace:
    """A folder as a user has it: artifacts of the bundled model, and what phones need."""

    folder: Path
    server: AdbServer

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**self.server.environment, "PATH": os.environ["PATH"]}
        return subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            check=False, cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=280,
        )  # fmt: skip


@pytest.fixture(scope="session")
def workplace(
    cli: Cli, runner: Path, adb_server: AdbServer, tmp_path_factory: pytest.TempPathFactory
) -> Workplace:
    """Export the bundled model in both formats, and put the runner and libraries in place."""
    folder = tmp_path_factory.mktemp("workplace")
    done = cli("export", "--dtype", "fp32", cwd=folder)
    assert done.returncode == 0, done.stderr
    put_native(folder / "out" / "phone" / "x86_64", runner, host_library)
    return Workplace(folder, adb_server)


def put_native(folder: Path, runner: Path, library: Callable[[Runtime], Path]) -> None:
    folder.mkdir(parents=True)
    (folder / "coronet-runner").symlink_to(runner)
    for runtime, name in LIBRARIES.items():
        (folder / name).symlink_to(library(runtime))


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Return a folder with the runtimes' libraries for arm64, from their Linux wheels."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "coronet-deploy-rig" / "wheels"
    for runtime, package in _WHEELS.items():
        if any(folder.glob(f"{package.replace('-', '_')}*.whl")):
            continue
        got = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
             "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64",
             "--platform", "manylinux_2_27_aarch64", "--platform", "manylinux_2_17_aarch64",
             "--constraint", Path(__file__).parents[2] / "constraints.txt", package],
            check=False, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        if got.returncode:
            reason = f"no arm64 library of {runtime}: {got.stderr.strip()[-300:]}"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return folder


def test_the_bundled_model_in_both_formats_as_typed(
    workplace: Workplace, phone: VirtualPhone, adb_server: AdbServer
) -> None:
    with VirtualPhone.boot(EXYNOS_2400, adb_server) as other:
        done = workplace("bench", "--device", "sm8550", "--rounds", 2,
                         "--seconds", 0.2, "--json", *STEADY)  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert other.serial not in done.stdout
    rows = answer["rows"]
    assert [(row["artifact"].rpartition(".")[2], row["threads"]) for row in rows] == [
        ("onnx", 1), ("onnx", 2), ("tflite", 1), ("tflite", 2),
    ]  # fmt: skip
    assert any("Emulated" in note for note in answer["notes"])
    run = read_run(workplace.folder / rows[0]["run_file"])
    assert run.emulated
    assert run.conditions["cpu"] == "Snapdragon 8 Gen 2"
    assert run.conditions["phone"]["soc"] == "SM8550"
    assert run.conditions["before"]["skin_c"] == 31.5
    assert [cluster["cpus"] for cluster in run.conditions["clusters"]][-1] == [7]
    assert len(run.launches) == 8
    for launch in run.launches:
        assert launch.target.device == "sm8550"
        assert len(launch.samples_ms) >= 5
        assert launch.warmup_ms
        parity = launch.details["parity"]
        assert parity["psnr_db"] >= 100
        assert parity["pictures"] == 3
    for row in rows:
        own = [
            statistics.median(one.samples_ms)
            for one in run.launches
            if (one.artifact, one.target.threads) == (row["artifact"], row["threads"])
        ]
        assert row["median_ms"] == pytest.approx(statistics.median(own))
    assert running(phone) == []


def test_the_table_and_the_report_say_that_the_phone_is_emulated(
    workplace: Workplace, phone: VirtualPhone, tiny: Path
) -> None:
    done = workplace("bench", tiny / "tiny.tflite", "--device", "any", "--serial", phone.serial,
                     "--rounds", 1, "--samples", 5, "--threads", 1, "--markdown", "table.md",
                     *STEADY)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    path = done.stdout.rpartition("Every sample is kept in ")[2].strip()
    texts = [done.stdout, (workplace.folder / "table.md").read_text()]
    with ThreadPoolExecutor() as pool:
        forms = ("terminal", "markdown", "html", "csv", "json")
        line = ("report", path, "--format")
        told = pool.map(lambda one: workplace(*line, one, "--output", f"report.{one}"), forms)
    for form, done in zip(forms, told, strict=True):
        assert done.returncode == 0, done.stderr
        texts.append((workplace.folder / f"report.{form}").read_text())
    for text in texts:
        assert "emulated" in text.lower()


def test_phones_of_two_makers_side_by_side(
    workplace: Workplace, adb_server: AdbServer, tiny: Path
) -> None:
    with (
        VirtualPhone.boot(EXYNOS_2400, adb_server) as first,
        VirtualPhone.boot(DIMENSITY_9300, adb_server) as second,
        ThreadPoolExecutor() as pool,
    ):
        runs = list(
            pool.map(
                lambda name: workplace(
                    "bench", tiny / "tiny.tflite", "--device", name, "--rounds", 2, "--threads", 1,
                    "--samples", 5, "--json", "--output", f"runs-{name}", *STEADY,
                ),
                ("Exynos 2400", "dimensity 9300"),
            )
        )  # fmt: skip
        for done, name, phone in zip(runs, ("exynos2400", "mt6989"), (first, second), strict=True):
            assert done.returncode == 0, done.stderr
            (row,) = json.loads(done.stdout)["rows"]
            assert (row["device"], row["launches"]) == (name, 2)
            assert running(phone) == []


def _qemu_version() -> tuple[int, int]:
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        return 0, 0
    told = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout
    major, minor = told.partition("version ")[2].split(".")[:2]
    return int(major), int(minor)


@pytest.fixture
def narrow(tmp_path: Path) -> list[Path]:
    """Return a U-Net and ResNets of few channels, small: under qemu a second is long.

    In float32, one a format, and in int8, whose ranges TFLite finds at run time, where qemu is
    one that multiplies int8 matrices rightly: of 7.2's pictures 23 dB are left, of 10.0's all.
    """
    artifacts = []
    for architecture, size, runtime in (
        (Architecture.UNET_128, 128, Runtime.TFLITE),
        (Architecture.RESNET_6, 64, Runtime.ONNX),
    ):
        torch.manual_seed(3)
        network = build_generator(full_plan(architecture, width=8)).eval()
        lowered, _ = lower(capture(network, size, size), runtime)
        artifacts.append(tmp_path / f"{architecture}{runtime.suffix}")
        artifacts[-1].write_bytes(emit(lowered, runtime, DType.FP32, {}))
    if _qemu_version() < (10, 0):
        return artifacts
    study = Study(capture(network, size, size), read_pictures(bundled_pictures(), size, size))
    plan = plan_int8(study, Runtime.TFLITE, budget_db=30.0)
    assert plan.summary.int8_macs_share > 0.9
    artifacts.append(tmp_path / "int8.tflite")
    artifacts[-1].write_bytes(write_int8(plan, Runtime.TFLITE, {}))
    return artifacts


def test_a_phone_that_is_arm64_through_and_through(
    workplace: Workplace, adb_server: AdbServer, wheels: Path, narrow: list[Path], tmp_path: Path
) -> None:
    require_rig("arm64")
    native = tmp_path / "arm64"
    built = build(Preset.AARCH64_LINUX, tmp_path)
    put_native(native, built, lambda runtime: _unpacked(wheels, runtime))
    picture = tmp_path / "pictures" / "one.png"
    picture.parent.mkdir()
    picture.write_bytes(bundled_pictures()[0].read_bytes())
    with VirtualPhone.boot(SM8550, adb_server, arch="arm64") as phone:
        own = ("--device", "sm8550", "--serial", phone.serial)
        done = workplace(
            "bench", *narrow, *own, "--rounds", 1, "--threads", 1, "--samples", 1,
            "--seconds", 1, "--json", "--phone-libraries", native,
            "--pictures", picture.parent, *STEADY,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        run = read_run(workplace.folder / rows[0]["run_file"])
        assert run.conditions["architecture"] == "aarch64"
        assert run.emulated
        assert [one.artifact for one in run.launches] == [one.name for one in narrow]
        for launch in run.launches:
            # Where an int8 value lies between two steps by float32's last digit, either is taken.
            least = 60 if launch.artifact == "int8.tflite" else 100
            assert launch.details["parity"]["psnr_db"] >= least
        wrong = workplace("bench", *own, "--phone-libraries", "out/phone/x86_64")
        assert wrong.returncode == 2
        assert "built for x86_64, and the phone is aarch64" in wrong.stderr.splitlines()[-1]


def _unpacked(wheels: Path, runtime: Runtime) -> Path:
    import zipfile

    (wheel,) = wheels.glob(f"{_WHEELS[runtime].replace('-', '_')}*.whl")
    stem = LIBRARIES[runtime]
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if Path(one).name.startswith(stem))
        folder = wheels / wheel.stem
        if not (folder / name).exists():
            archive.extract(name, folder)
    return folder / name


def running(phone: VirtualPhone) -> Sequence[str]:
    """Return what of ours runs on the phone."""
    return [line for line in phone.processes().values() if "coronet-deploy/files" in line]
