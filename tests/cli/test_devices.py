"""`coronet-deploy devices`, as installed, with virtual phones and with an adb that has none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import Cli
from virtual_phone import EXYNOS_2400, SM8550, AdbServer, VirtualPhone, require_rig, thermal


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    require_rig()
    with AdbServer.start(tmp_path_factory.mktemp("adb")) as started:
        yield started


@pytest.fixture(scope="module")
def phones(server: AdbServer) -> Iterator[tuple[VirtualPhone, VirtualPhone]]:
    with (
        VirtualPhone.boot(SM8550, server) as first,
        VirtualPhone.boot(EXYNOS_2400, server) as second,
    ):
        second.fake("dumpsys/thermalservice", thermal(2, 43.5))
        yield first, second


def scripted(tmp_path: Path, listing: str) -> dict[str, str]:
    """Return an environment whose adb lists this and no more."""
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text(
        '#!/bin/sh\ncase "$*" in devices) printf \'List of devices attached\\n'
        f'{listing}\\n\';; *) echo "error: no" >&2; exit 1;; esac\n'
    )
    adb.chmod(0o755)
    return {**os.environ, "PATH": f"{adb.parent}:{os.environ['PATH']}"}


def test_phones_are_listed_with_what_they_are_and_can_run(
    cli: Cli, server: AdbServer, phones: tuple[VirtualPhone, VirtualPhone]
) -> None:
    ended = cli("devices", env=server.environment)
    assert ended.returncode == 0, ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 80
    flat = " ".join(ended.stdout.split())
    for phone, chipset in zip(phones, ("Snapdragon 8 Gen 2", "Exynos 2400"), strict=True):
        (line,) = [one for one in ended.stdout.splitlines() if chipset in one]
        assert phone.serial in line
        heat = "hot 43.5 C" if chipset == "Exynos 2400" else "ready 31.5 C"
        assert heat in " ".join(line.split())
        assert phone.model.name in flat
    assert "Android 14; battery at 87 %" in flat
    assert "thermal status is moderate" in flat
    assert "no real phone" in flat
    assert "powered by usb" in flat


def test_the_same_as_json(
    cli: Cli, server: AdbServer, phones: tuple[VirtualPhone, VirtualPhone]
) -> None:
    ended = cli("devices", "--json", env=server.environment)
    found = {one["serial"]: one for one in json.loads(ended.stdout)["devices"]}
    cool, hot = (found[phone.serial] for phone in phones)
    assert (cool["profile"], cool["cool"], cool["backends"]) == (
        "sm8550", True, ["cpu", "gpu", "qnn"],
    )  # fmt: skip
    assert (hot["profile"], hot["cool"]) == ("exynos2400", False)
    assert "moderate" in hot["cool_reason"]
    assert hot["conditions"]["skin_c"] == 43.5
    assert [one["mask"] for one in hot["clusters"]] == ["f", "70", "180", "200"]
    assert hot["android"] == "14"
    assert hot["emulated"]


@pytest.mark.parametrize(
    ("state", "advice"),
    [("unauthorized", "allow USB debugging"), ("offline", "reconnect"), ("device", "")],
)
def test_a_phone_that_is_not_ready_has_its_state_and_advice(
    cli: Cli, tmp_path: Path, state: str, advice: str
) -> None:
    ended = cli("devices", env=scripted(tmp_path, f"R5\\t{state}\\n"))
    assert ended.returncode == 0, ended.stderr
    assert advice in ended.stdout
    assert (state if state != "device" else "not answering") in " ".join(ended.stdout.split())


@pytest.mark.parametrize(
    ("listing", "told"),
    [("", "none is attached"), ("R5\\tunauthorized\\n", "R5 is unauthorized")],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_phone_that_is_required_and_not_there_is_3(
    cli: Cli, tmp_path: Path, listing: str, told: str, form: tuple[str, ...]
) -> None:
    ended = cli("devices", "--require", *form, env=scripted(tmp_path, listing))
    assert ended.returncode == 3
    assert ended.stdout
    assert ended.stderr == (
        f"coronet-deploy: error: no phone answers: {told} "
        "(`coronet-deploy doctor` checks the way there)\n"
    )


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        ("R5\\tunauthorized\\nR6\\tdevice\\n", "R5 is unauthorized"),
        ("R6\\tdevice\\n", "no such phone is attached"),
    ],
)
def test_the_phone_that_adbs_variable_names_is_the_one_that_is_required(
    cli: Cli, tmp_path: Path, listing: str, told: str
) -> None:
    environment = {**scripted(tmp_path, listing), "ANDROID_SERIAL": "R5"}
    ended = cli("devices", "--require", env=environment)
    assert ended.returncode == 3
    assert ended.stderr == (
        f"coronet-deploy: error: ANDROID_SERIAL=R5: {told} "
        "(`coronet-deploy doctor` checks the way there)\n"
    )
    ended = cli("devices", "--json", env=environment)
    assert ended.returncode == 0
    there = "R5" in {one["serial"] for one in json.loads(ended.stdout)["devices"]}
    assert ended.stderr == ("" if there else f"ANDROID_SERIAL=R5: {told}\n")


def test_a_bench_takes_the_phone_that_adbs_variable_names(
    cli: Cli, server: AdbServer, phones: tuple[VirtualPhone, VirtualPhone], tmp_path: Path
) -> None:
    for name in ("a.tflite", "coronet-runner", "libLiteRt.so"):
        (tmp_path / name).touch()

    def bench(variable: str, *more: str) -> subprocess.CompletedProcess[str]:
        line = ("bench", "a.tflite", "--dry-run", "--no-parity", "--phone-libraries", ".", *more)
        environment = {**server.environment, "ANDROID_SERIAL": variable}
        return cli(*line, env=environment, cwd=tmp_path)

    for phone, other in (phones, phones[::-1]):
        for variable, more in (
            (phone.serial, ("--device", "any")),
            (other.serial, ("--device", phone.serial)),
            ("elsewhere", ("--serial", phone.serial)),
        ):
            done = bench(variable, *more)
            assert done.returncode == 0, done.stderr
            assert {line.split()[2] for line in done.stdout.splitlines()} == {phone.serial}
        done = bench(phone.serial, "--device", other.model.properties["ro.soc.model"])
        assert "has another chipset (unset ANDROID_SERIAL" in done.stderr
    assert cli("devices", "--require", env=server.environment).returncode == 0
    required = {**server.environment, "ANDROID_SERIAL": phones[1].serial}
    assert cli("devices", "--require", env=required).returncode == 0


def test_phones_of_one_serial_are_told_to_be_attached_alone(cli: Cli, tmp_path: Path) -> None:
    listing = "0123456789ABCDEF\\tdevice\\n" * 2
    environment = scripted(tmp_path, listing)
    ended = cli("devices", env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "attach only one of them" in " ".join(ended.stdout.split())
    artifact = tmp_path / "a.tflite"
    artifact.touch()
    ended = cli("bench", artifact, "--serial", "0123456789ABCDEF", env=environment, cwd=tmp_path)
    assert ended.returncode == 3
    assert "phone 0123456789ABCDEF is one of several (" in ended.stderr
    assert "attach only one of them" in ended.stderr


def test_a_chipset_is_no_phone_that_could_be_required(cli: Cli) -> None:
    assert cli("devices", "--known", "--require").returncode == 2


def test_the_example_for_a_phone_fails_without_one() -> None:
    example = Path(__file__).parents[2] / "examples/ci/phone.yml"
    assert "run: coronet-deploy devices --require\n" in example.read_text()


def test_no_phone_is_an_answer(cli: Cli, tmp_path: Path) -> None:
    environment = scripted(tmp_path, "")
    ended = cli("devices", env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "No phone is attached" in ended.stdout
    assert json.loads(cli("devices", "--json", env=environment).stdout) == {"devices": []}


def test_without_adb_it_is_one_line_and_3(cli: Cli) -> None:
    ended = cli("devices", env={"PATH": "/nowhere"})
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "platform-tools" in ended.stderr


def test_all_known_chipsets(cli: Cli) -> None:
    ended = cli("devices", "--known")
    assert ended.returncode == 0
    assert max(map(len, ended.stdout.splitlines())) <= 80
    (line,) = [one for one in ended.stdout.splitlines() if "sm8550" in one]
    assert line.split() == [
        "sm8550",
        "Snapdragon",
        "8",
        "Gen",
        "2",
        "3",
        "A510",
        "+",
        "2",
        "A715",
        "+",
        "2",
        "A710",
        "+",
        "cpu",
        "gpu",
        "qnn",
    ]
    known = json.loads(cli("devices", "--known", "--json").stdout)["profiles"]
    assert len(known) == 22


def test_an_own_profile_with_a_misspelt_key_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('id = "mine"\nnmae = "Mine"\n')
    ended = cli("devices", "--known", "--profiles", tmp_path)
    assert ended.returncode == 2
    assert f"{tmp_path / 'mine.toml'}: unknown key 'nmae'" in ended.stderr
