"""`coronet-deploy doctor`: what is missing is named with its fix, and the status says so."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.checkup import Verdict, check_phones
from coronet_deploy.bench.phone_files import ROOT
from coronet_deploy.bench.runner import Preset, build
from coronet_deploy.errors import EnvironmentProblem
from support import Cli
from virtual_phone import SM8550, AdbServer, VirtualPhone, require_rig

ADB = """#!/bin/sh
case "$*" in
  version) printf 'Android Debug Bridge version 1.0.41\\nVersion 36.0.0-1\\n';;
  start-server) echo "$SAID" >&2; exit ${SERVER:-0};;
  devices) printf "List of devices attached\\n$LISTED\\n";;
  *) echo "error: device offline" >&2; exit 1;;
esac
"""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an adb first on PATH that answers by the variables SAID, SERVER and LISTED."""
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text(ADB)
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{adb.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def ndk(tmp_path: Path) -> Path:
    return install_ndk(tmp_path / "ndk", "27.2.1")


def install_ndk(folder: Path, release: str) -> Path:
    toolchain = folder / "build" / "cmake" / "android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.touch()
    text = f"Pkg.Desc = Android NDK\nPkg.Revision = {release}\n"
    (folder / "source.properties").write_text(text)
    return folder


def usb(tmp_path: Path, *protocols: str) -> Path:
    """Return a folder that lists an interface of adb's class for each protocol."""
    root = tmp_path / "usb"
    for number, protocol in enumerate(protocols):
        folder = root / f"1-{number}:1.0"
        folder.mkdir(parents=True)
        for name, text in (("Class", "ff"), ("SubClass", "42"), ("Protocol", protocol)):
            (folder / f"bInterface{name}").write_text(f"{text}\n")
    return root


def found(tmp_path: Path, runner: Path | None = None, **environment: object) -> dict[str, Any]:
    plain = {key: str(value) for key, value in environment.items()}
    folder = tmp_path / "phone"
    checks = check_phones(folder, runner, environment=plain, usb=tmp_path / "usb")
    return {check.name: check for check in checks}


def test_everything_there(scripted: Path, ndk: Path) -> None:
    checks = found(scripted, ANDROID_NDK_HOME=ndk)
    assert checks["adb"].found.endswith("bin/adb, version 36.0.0-1")
    assert checks["adb server"].verdict is Verdict.OK
    assert "27.2.1" in checks["Android NDK"].found
    # No phone is a thing to know, not a thing that is broken.
    assert checks["phone"].verdict is Verdict.NOTE


@pytest.mark.parametrize(
    ("state", "fix"),
    [
        ("unauthorized", "allow USB debugging"),
        ("offline", "reconnect"),
        ("no permissions (missing udev rules?); see [x]", "udev"),
        ("device", ""),  # listed, and then it does not answer
    ],
)
def test_a_phone_that_is_not_ready(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, state: str, fix: str
) -> None:
    monkeypatch.setenv("LISTED", f"R5\\t{state}\\n")
    check = found(scripted)["phone R5"]
    assert check.verdict is Verdict.MISSING
    assert fix in (check.fix or "")


def test_a_phone_that_is_plugged_in_but_not_listed(scripted: Path) -> None:
    usb(scripted, "01", "03")
    checks = found(scripted)
    assert "phone" not in checks
    assert checks["USB"].verdict is Verdict.MISSING
    assert checks["USB"].found.startswith("1 phones")
    assert "udev" in (checks["USB"].fix or "")


@pytest.mark.parametrize(
    ("listed", "verdict"),
    [("R5\\tdevice", Verdict.OK), ("R6\\tdevice", Verdict.MISSING), ("", Verdict.NOTE)],
)
def test_the_phone_that_adbs_variable_names_is_looked_for(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, listed: str, verdict: Verdict
) -> None:
    monkeypatch.setenv("LISTED", listed)
    assert found(scripted, ANDROID_SERIAL="R5")["ANDROID_SERIAL"].verdict is verdict
    assert "ANDROID_SERIAL" not in found(scripted, ANDROID_SERIAL="")


def test_two_adbs_that_fight_for_the_server(
    scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "adb server version (40) doesn't match this client (41); killing..."
    monkeypatch.setenv("SAID", said)
    check = found(scripted)["adb server"]
    assert check.verdict is Verdict.NOTE
    assert "which -a adb" in (check.fix or "")


def test_a_server_that_does_not_start(scripted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", "1")
    monkeypatch.setenv("SAID", "error: cannot bind to 127.0.0.1:5037")
    check = found(scripted)["adb server"]
    assert check.verdict is Verdict.MISSING
    assert "cannot bind" in check.found
    assert "kill-server" in (check.fix or "")


def test_without_adb_or_an_ndk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    checks = found(tmp_path)
    for name in ("adb", "cmake", "Android NDK"):
        assert checks[name].verdict is Verdict.MISSING
        assert checks[name].fix
    assert checks["C compiler"].verdict is Verdict.NOTE


def test_an_old_ndk_and_the_newest_of_several(scripted: Path, ndk: Path) -> None:
    (ndk / "source.properties").write_text("Pkg.Revision = 25.1.8937393\n")
    check = found(scripted, ANDROID_NDK_HOME=ndk)["Android NDK"]
    assert (check.verdict, check.found) == (
        Verdict.MISSING,
        f"the NDK in {ndk} is r25 (25.1.8937393)",
    )
    for release in ("9.0.1", "26.3.11579264"):
        install_ndk(scripted / "sdk" / "ndk" / release, release)
    check = found(scripted, ANDROID_HOME=scripted / "sdk")["Android NDK"]
    assert check.verdict is Verdict.OK
    assert "26.3.11579264" in check.found
    check = found(scripted, ANDROID_NDK_HOME=scripted / "nowhere")["Android NDK"]
    assert "holds no NDK" in check.found


def test_a_runner_that_is_built_needs_nothing_to_build_it(scripted: Path) -> None:
    (scripted / "script").write_text("#!/bin/sh\n")
    shutil.copy("/proc/self/exe", scripted / "runner")
    checks = found(scripted, scripted / "runner")
    assert checks["runner"].verdict is Verdict.OK
    assert "Android NDK" not in checks
    for name in ("script", "nowhere"):
        check = found(scripted, scripted / name)["runner"]
        assert check.verdict is Verdict.MISSING
        assert "runner build" in (check.fix or "")


def test_native_files_in_their_folder_are_found(scripted: Path) -> None:
    checks = found(scripted)
    for name in ("LiteRT for phones", "ONNX Runtime for phones"):
        assert checks[name].verdict is Verdict.MISSING
        assert "lib" in (checks[name].fix or "")
    assert "2.3 or later" in (checks["LiteRT for phones"].fix or "")
    folder = scripted / "phone"
    folder.mkdir()
    for name in ("coronet-runner", "libonnxruntime.so"):
        shutil.copy("/proc/self/exe", folder / name)
    checks = found(scripted)
    assert checks["runner"].verdict is Verdict.OK
    assert checks["ONNX Runtime for phones"].verdict is Verdict.OK
    # One runtime is enough to measure, if only its files.
    assert checks["LiteRT for phones"].verdict is Verdict.NOTE


@pytest.mark.parametrize("name", ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME"])
def test_what_the_doctor_finds_is_what_a_build_takes(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    folder = scripted / "ndk" / "27.2.1"
    monkeypatch.setenv(name, str(scripted if name == "ANDROID_HOME" else folder))
    cmake = scripted / "bin" / "cmake"
    cmake.write_text(
        "#!/bin/sh\n"
        'test -f "$ANDROID_NDK_HOME/build/cmake/android.toolchain.cmake" || exit 1\n'
        'if [ "$1" = --build ]; then echo > "$2/coronet-runner"; fi\n'
    )
    cmake.chmod(0o755)

    def doctors() -> Verdict:
        checks = check_phones(scripted, environment=os.environ, usb=scripted / "usb")
        return next(check.verdict for check in checks if check.name == "Android NDK")

    with pytest.raises(EnvironmentProblem, match="cannot build for Android"):
        build(Preset.ANDROID, scripted / "out")
    assert doctors() is Verdict.MISSING
    install_ndk(folder, "27.2.1")
    assert doctors() is Verdict.OK
    assert build(Preset.ANDROID, scripted / "out").is_file()


def elf(path: Path, machine: int) -> None:
    """Write the start of a 64-bit ELF file: 183 is aarch64, 62 is x86_64."""
    path.write_bytes(b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 3, machine) + bytes(44))


@pytest.mark.parametrize("name", ["coronet-runner", "libLiteRt.so", "libonnxruntime.so"])
@pytest.mark.parametrize("kind", ["text", "folder", "x86_64", "aarch64"])
def test_native_files_are_those_that_the_phone_can_run(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setenv("LISTED", "R5\\tdevice\\n")
    monkeypatch.setattr(Device, "properties", lambda _: {"ro.product.cpu.abi": "arm64-v8a"})
    folder = scripted / "phone"
    folder.mkdir()
    for one in ("coronet-runner", "libLiteRt.so", "libonnxruntime.so"):
        elf(folder / one, 183)
    path = folder / name
    if kind == "text":
        path.write_text("not a library, but as long as one's header")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "x86_64":
        elf(path, 62)
    native = {
        check.name: check
        for check in found(scripted).values()
        if check.name == "runner" or "for phones" in check.name
    }
    bad = [check for check in native.values() if check.verdict is Verdict.MISSING]
    assert len(native) == 3
    assert len(bad) == (kind != "aarch64")
    for check in bad:
        told = {"text": "no ELF file", "folder": "is not a file", "x86_64": "is for x86_64, and"}
        assert str(path) in check.found
        assert told[kind] in check.found
        assert check.fix


def test_a_folder_in_place_of_a_library_does_not_end_the_command(cli: Cli, scripted: Path) -> None:
    folder = scripted / "phone"
    (folder / "libonnxruntime.so").mkdir(parents=True)
    ended = cli("doctor", "--json", "--phone-libraries", folder)
    assert (ended.returncode, ended.stderr) == (3, "")
    checks = {one["name"]: one for one in json.loads(ended.stdout)["checks"]}
    assert checks["ONNX Runtime for phones"]["verdict"] == "missing"


def test_the_command_ends_with_3_if_something_is_missing(cli: Cli, scripted: Path) -> None:
    environment = {
        "PATH": f"{scripted / 'bin'}:/usr/bin:/bin",
        "LISTED": "R5\\tunauthorized\\n",
    }
    ended = cli("doctor", env=environment)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert "MISSING phone R5: unauthorized" in ended.stdout
    assert "fix: unlock the phone" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80
    plain = json.loads(cli("doctor", "--json", env=environment).stdout)
    assert plain["ok"] is False
    (bad,) = [one for one in plain["checks"] if one["name"] == "phone R5"]
    assert (bad["verdict"], bad["found"]) == ("missing", "unauthorized")


def test_a_host_needs_neither_adb_nor_a_phone(cli: Cli) -> None:
    ended = cli("doctor", "--host-only", env={"PATH": "/nowhere"})
    assert ended.returncode == 0, ended.stdout
    assert "onnxruntime" in ended.stdout
    assert "Nothing is missing." in ended.stdout


@pytest.mark.parametrize("module", ["onnxruntime", "ai_edge_litert"])
def test_a_runtime_that_is_installed_and_does_not_load_is_told_with_its_reason(
    cli: Cli, tmp_path: Path, module: str
) -> None:
    package = tmp_path / module
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libc.so.9: no such file')\n")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/nowhere"}
    ended = cli("doctor", "--host-only", "--json", env=environment)
    assert ended.returncode == 3
    (bad,) = [one for one in json.loads(ended.stdout)["checks"] if one["verdict"] == "missing"]
    assert module.replace("_", "-") in bad["name"]
    assert "does not load: ImportError: libc.so.9: no such file" in bad["found"]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("cmake version 3.20.6", Verdict.MISSING),
        ("cmake version 3.21.0-rc1", Verdict.OK),
        ("cmake version 4.0.2", Verdict.OK),
        ("", Verdict.OK),
    ],
)
def test_a_cmake_that_is_too_old_is_missing(scripted: Path, said: str, verdict: Verdict) -> None:
    cmake = scripted / "bin" / "cmake"
    cmake.write_text(f"#!/bin/sh\necho '{said}'\n")
    cmake.chmod(0o755)
    check = found(scripted)["cmake"]
    assert check.verdict is verdict
    assert (said.split() or ["unknown"])[-1].removesuffix("-rc1") in check.found
    if verdict is Verdict.MISSING:
        assert "3.21" in (check.fix or "")


def test_make_or_ninja_is_looked_for(scripted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(scripted)["make or ninja"].verdict is Verdict.OK
    ninja = scripted / "bin" / "ninja"
    monkeypatch.setenv("PATH", str(ninja.parent))
    check = found(scripted)["make or ninja"]
    assert check.verdict is Verdict.MISSING
    assert "ninja" in (check.fix or "")
    ninja.write_text("#!/bin/sh\n")
    ninja.chmod(0o755)
    assert found(scripted)["make or ninja"].found == str(ninja)


@pytest.mark.parametrize(
    "serial", ["adb-R5CT-Abc123._adb-tls-connect._tcp", "adb-R5._adb._tcp", "10.0.0.2:5555"]
)
def test_a_phone_by_wireless_debugging_is_not_the_one_that_is_plugged_in(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, serial: str
) -> None:
    usb(scripted, "01")
    monkeypatch.setenv("LISTED", f"{serial}\\toffline\\n")
    checks = found(scripted)
    assert f"phone {serial}" in checks
    assert checks["USB"].verdict is Verdict.MISSING


def test_a_virtual_phone_has_what_a_bench_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_rig()
    with (
        AdbServer.start(tmp_path) as server,
        VirtualPhone.boot(SM8550, server, data_mb=512) as roomy,
        VirtualPhone.boot(SM8550, server, data_mb=8) as full,
    ):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        checks = found(tmp_path)
        good, bad = (checks[f"phone {phone.serial}"] for phone in (roomy, full))
        assert good.verdict is Verdict.OK
        assert good.found.startswith("arm64-v8a, ")
        assert bad.verdict is Verdict.MISSING
        assert "make room" in (bad.fix or "")


def test_a_phone_lacks_what_a_bench_runs_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_rig()
    with (
        AdbServer.start(tmp_path) as server,
        VirtualPhone.boot(SM8550, server, data_mb=512) as phone,
    ):
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        for name in ("pkill", "taskset"):
            (phone.root / "system" / "bin" / name).unlink()
        assert found(tmp_path)[f"phone {phone.serial}"].verdict is Verdict.OK
        # As `adb root` leaves it, whose shell is another user.
        server.adb("-s", phone.serial, "shell", f"mkdir {ROOT} && chmod 555 {ROOT}")
        check = found(tmp_path)[f"phone {phone.serial}"]
        assert (check.verdict, check.found) == (Verdict.MISSING, f"{ROOT} cannot be written")
        assert "adb root" in (check.fix or "")
        server.adb("-s", phone.serial, "shell", f"rmdir {ROOT}")
        for name in ("find", "sha256sum"):
            (phone.root / "system" / "bin" / name).unlink()
        check = found(tmp_path)[f"phone {phone.serial}"]
        assert (check.verdict, check.found) == (Verdict.MISSING, "lacks sha256sum, find")
