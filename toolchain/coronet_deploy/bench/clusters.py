"""The CPU clusters of a phone, read from the phone: which CPUs share a kind and a clock.

A table of chipsets cannot be trusted for pinning (the same chipset exists with seven and eight
cores, and with several clocks), so clusters come from Linux's cpufreq policies, split where the
cores' part numbers differ, and a profile only gives a warning where it says otherwise.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coronet_deploy.bench.adb import Device
from coronet_deploy.profiles import Profile, cpu_list, mask_of

_CPU = "/sys/devices/system/cpu"
_READ_S = 20.0
# Clocks are told apart from a profile's by more than its rounding; bins differ by 5 % and more.
_CLOCK_TOLERANCE = 0.02
_KHZ_PER_MHZ = 1000

# Linux, arch/arm64/include/asm/cputype.h: (implementer, part).
_CORES = {
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4D): "Cortex-A715",
    (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520",
    (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4",
    (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725",
}


@dataclass(frozen=True)
class Cluster:
    """CPUs of one kind that share a clock.

    `core` is None where the part number is hidden or unknown; `capacity` is Linux's, 1024 for the
    fastest CPU; `max_mhz` what the hardware can, whatever the vendor allows just now.
    """

    cpus: tuple[int, ...]
    core: str | None
    max_mhz: int | None
    capacity: int | None

    @property
    def mask(self) -> str:
        """The hexadecimal mask, without 0x, that `taskset` and the runner take."""
        return mask_of(self.cpus)

    def as_json(self) -> dict[str, Any]:
        """Return the cluster as plain JSON values, its mask among them."""
        return {**asdict(self), "cpus": list(self.cpus), "mask": self.mask}


def read_clusters(device: Device) -> tuple[Cluster, ...]:
    """Return the phone's clusters from slow to fast; empty if it hides its policies.

    Raises:
        DeviceLost: the phone went away.

    """
    files = read_files(
        device,
        f"{_CPU}/cpufreq/policy*/related_cpus",
        f"{_CPU}/cpufreq/policy*/cpuinfo_max_freq",
        f"{_CPU}/cpu[0-9]*/cpu_capacity",
        f"{_CPU}/cpu[0-9]*/regs/identification/midr_el1",
    )
    cpuinfo = device.read_text("/proc/cpuinfo") or ""
    return clusters_from(files, cpuinfo)


def clusters_from(files: Mapping[str, str], cpuinfo: str = "") -> tuple[Cluster, ...]:
    """Return the clusters that these files of /sys (by path) and /proc/cpuinfo tell of."""
    parts = _parts(files, cpuinfo)
    groups: dict[tuple[int, tuple[int, int] | None], list[int]] = defaultdict(list)
    clocks: dict[int, int | None] = {}
    for path, text in files.items():
        if not (found := re.fullmatch(r".*/policy([0-9]+)/related_cpus", path)):
            continue
        policy = int(found[1])
        clock = whole(files.get(f"{_CPU}/cpufreq/policy{policy}/cpuinfo_max_freq"))
        clocks[policy] = None if clock is None else round(clock / _KHZ_PER_MHZ)
        for cpu in _cpus_or_none(text):
            groups[policy, parts.get(cpu)].append(cpu)
    clusters = [
        Cluster(
            cpus=tuple(sorted(cpus)),
            core=core_name(part),
            max_mhz=clocks[policy],
            capacity=max(filter(None, (_capacity(files, cpu) for cpu in cpus)), default=None),
        )
        for (policy, part), cpus in groups.items()
    ]
    return tuple(sorted(clusters, key=lambda one: (one.capacity or 0, one.max_mhz or 0, one.cpus)))


def core_name(part: tuple[int, int] | None) -> str | None:
    """Return the name of a core by its (implementer, part) numbers, or None if it is unknown."""
    return None if part is None else _CORES.get(part)


def core_names(cpuinfo: str) -> str | None:
    """Return the kinds of cores that an Arm /proc/cpuinfo lists, by name or else by their numbers.

    "Cortex-A55 + Cortex-A76"; None where it lists none.
    """
    kinds = dict.fromkeys(_parts({}, cpuinfo).values())
    told = [core_name(kind) or "Arm core {:#04x}/{:#05x}".format(*kind) for kind in kinds]
    return " + ".join(told) or None


def differences(clusters: Sequence[Cluster], profile: Profile) -> tuple[str, ...]:
    """Return a sentence for each way in which the phone is not what its profile says."""
    if not clusters:
        return (f"the phone hides its CPU clusters: nothing of {profile.name} could be checked",)
    told = []
    count = sum(len(cluster.cpus) for cluster in clusters)
    if count != profile.cpus:
        told.append(f"the phone has {count} CPUs, {profile.name}'s profile {profile.cpus}")
    by_cpu = {cpu: cluster for cluster in clusters for cpu in cluster.cpus}
    for expected in profile.clusters:
        found = dict.fromkeys(by_cpu[cpu] for cpu in expected.numbers if cpu in by_cpu)
        where = f"CPU {expected.cpus}"
        cores = dict.fromkeys(one.core for one in found if one.core)
        if cores and any(core != expected.core for core in cores):
            told.append(f"{where}: {' and '.join(cores)}, not {expected.core} as in the profile")
        clocks = [one.max_mhz for one in found if one.max_mhz]
        if clocks and not all(
            math.isclose(clock, expected.max_mhz, rel_tol=_CLOCK_TOLERANCE) for clock in clocks
        ):
            seen = " and ".join(str(clock) for clock in dict.fromkeys(clocks))
            told.append(f"{where}: up to {seen} MHz, not {expected.max_mhz} as in the profile")
    return tuple(told)


def read_files(device: Device, *patterns: str) -> dict[str, str]:
    """Return the text of the phone's one-line files that match shell patterns, by path.

    Files that the shell user may not read are left out.

    Raises:
        DeviceLost: the phone went away.

    """
    # One command for all: over adb each takes some 30 ms, and there are a hundred files.
    # `$(<file)` is the shell's own and starts no process.
    script = (
        f"for f in {' '.join(patterns)}; do "
        '[ -r "$f" ] && printf "%s\\t%s\\n" "$f" "$(<"$f")"; done 2>/dev/null; true'
    )
    told = device.shell(script, seconds=_READ_S).stdout.decode(errors="replace")
    pairs = (line.partition("\t") for line in told.splitlines())
    return {path: text.strip() for path, tab, text in pairs if tab and text.strip()}


def whole(text: str | None) -> int | None:
    """Return a file's text as a whole number, or None."""
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,18}", text.strip()) else None


def _capacity(files: Mapping[str, str], cpu: int) -> int | None:
    return whole(files.get(f"{_CPU}/cpu{cpu}/cpu_capacity"))


def _cpus_or_none(text: str) -> tuple[int, ...]:
    try:
        return cpu_list(text)
    except ValueError:
        return ()


def _parts(files: Mapping[str, str], cpuinfo: str) -> dict[int, tuple[int, int]]:
    """Return each CPU's (implementer, part), of MIDR_EL1 or else of /proc/cpuinfo."""
    parts: dict[int, tuple[int, int]] = {}
    for block in re.split(r"\n\s*\n", cpuinfo):
        fields = dict(re.findall(r"^([^:\n]+?)\s*:\s*(.*?)\s*$", block, re.MULTILINE))
        numbers = [fields.get(key, "") for key in ("processor", "CPU implementer", "CPU part")]
        if all(re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", number) for number in numbers):
            cpu, implementer, part = (int(number, 0) for number in numbers)
            parts[cpu] = (implementer, part)
    for path, text in files.items():
        found = re.fullmatch(r".*/cpu([0-9]+)/regs/identification/midr_el1", path)
        if found and re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
            midr = int(text, 16)
            parts[int(found[1])] = (midr >> 24 & 0xFF, midr >> 4 & 0xFFF)
    return parts
