"""CPU clusters: read from a phone, and held against its chipset's profile."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.clusters import (
    Cluster,
    clusters_from,
    differences,
    read_clusters,
    read_files,
)
from coronet_deploy.profiles import find_profile
from virtual_phone import VirtualPhone

CPU = "/sys/devices/system/cpu"

# As a Snapdragon 8 Gen 2 tells of itself: four kinds of cores, three clocks.
SM8550_CPUINFO = "\n".join(
    f"processor\t: {cpu}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd asimddp i8mm\n"
    f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\nCPU revision\t: 1\n"
    for cpu, part in enumerate(
        ["0xd46"] * 3 + ["0xd4d"] * 2 + ["0xd47"] * 2 + ["0xd4e"],
    )
)


def policies(*groups: tuple[str, int]) -> dict[str, str]:
    files = {}
    for cpus, khz in groups:
        folder = f"{CPU}/cpufreq/policy{cpus.split()[0]}"
        files[f"{folder}/related_cpus"] = cpus
        files[f"{folder}/cpuinfo_max_freq"] = str(khz)
    return files


SM8550 = policies(("0 1 2", 2016000), ("3 4 5 6", 2803200), ("7", 3187200))


def test_a_clock_domain_is_split_where_the_cores_differ() -> None:
    clusters = clusters_from(SM8550, SM8550_CPUINFO)
    assert [(one.core, one.cpus, one.mask, one.max_mhz) for one in clusters] == [
        ("Cortex-A510", (0, 1, 2), "7", 2016),
        ("Cortex-A715", (3, 4), "18", 2803),
        ("Cortex-A710", (5, 6), "60", 2803),
        ("Cortex-X3", (7,), "80", 3187),
    ]
    assert differences(clusters, find_profile("sm8550")) == ()


def test_a_faster_bin_and_other_cores_are_told() -> None:
    files = {**SM8550, f"{CPU}/cpufreq/policy7/cpuinfo_max_freq": "3360000"}
    told = differences(clusters_from(files, SM8550_CPUINFO), find_profile("sm8550"))
    assert told == ("CPU 7: up to 3360 MHz, not 3190 as in the profile",)
    cpuinfo = SM8550_CPUINFO.replace("0xd4e", "0xd82")
    told = differences(clusters_from(SM8550, cpuinfo), find_profile("sm8550"))
    assert told == ("CPU 7: Cortex-X4, not Cortex-X3 as in the profile",)


def test_a_missing_cpu_is_told() -> None:
    seven = policies(("0 1 2 3 4", 3532800), ("5 6", 4320000))
    told = differences(clusters_from(seven), find_profile("sm8750"))
    assert told[0] == "the phone has 7 CPUs, Snapdragon 8 Elite's profile 8"


def test_the_slowest_come_first_whatever_their_numbers() -> None:
    files = policies(("0 1", 3000000), ("2 3", 1800000))
    capacity = {f"{CPU}/cpu{cpu}/cpu_capacity": str(200 + 800 * (cpu < 2)) for cpu in range(4)}
    clusters = clusters_from({**files, **capacity})
    assert clusters == (
        Cluster((2, 3), None, 1800, 200),
        Cluster((0, 1), None, 3000, 1000),
    )


@pytest.mark.parametrize("files", [{}, {f"{CPU}/cpufreq/policy0/related_cpus": "none"}])
def test_a_phone_that_hides_its_policies_has_no_clusters(files: Mapping[str, str]) -> None:
    clusters = clusters_from(files, SM8550_CPUINFO)
    assert clusters == ()
    (told,) = differences(clusters, find_profile("sm8550"))
    assert "hides" in told


def test_cores_that_nobody_knows_have_no_name() -> None:
    cpuinfo = "processor : 0\nCPU implementer : 0x51\nCPU part : 0x777\n"
    (cluster,) = clusters_from(policies(("0", 4320000)), cpuinfo)
    assert cluster.core is None
    assert differences(clusters_from(SM8550), find_profile("sm8550")) == ()


def test_clusters_are_read_from_a_phone(phone: VirtualPhone) -> None:
    clusters = read_clusters(Device(phone.serial))
    told = [cpu for one in clusters for cpu in one.cpus]
    assert sorted(told) == list(range(8))
    assert clusters[0].mask == "7"
    assert clusters[0].core == "Cortex-A510"
    assert clusters[-1] == Cluster((7,), "Cortex-X3", 3187, 1024)


def test_many_files_come_in_one_call_and_unreadable_ones_do_not(phone: VirtualPhone) -> None:
    secret = phone.root / "sys" / "secret"
    secret.write_text("no\n")
    secret.chmod(0o600)
    empty = phone.root / "sys" / "empty"
    empty.write_text("\n")
    found = read_files(
        Device(phone.serial), "/sys/secret", "/sys/empty", "/sys/no/such*", f"{CPU}/possible"
    )
    assert found == {f"{CPU}/possible": "0-7"}
