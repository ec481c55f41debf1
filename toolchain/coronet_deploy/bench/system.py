"""The facts of this host: what it is, and how busy it is.

Everything is read from Linux's /proc and /sys; a value that cannot be read there is None, never
a guess, because a container or a virtual machine hides many of them.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CPUFREQ = _CPUS / "cpu0" / "cpufreq"
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_KB_PER_MB = 1024
# Work of others worth more than this share of a core is worth a word in the report.
_BUSY_LOAD = 0.5
_STEAL_PERCENT = 1.0


@dataclass(frozen=True)
class Quota:
    """A bound on processor time, in cores, and how often it has stopped whom it binds."""

    cores: float
    throttled: int


@dataclass(frozen=True)
class CpuTicks:
    """Ticks that all cores have spent since boot: stolen by the hypervisor, and in total."""

    steal: int
    total: int


def host_facts() -> dict[str, object]:
    """Return what does not change while a bench runs, as plain JSON values."""
    cpu = _keyed("/proc/cpuinfo")
    memory = _keyed("/proc/meminfo")
    return {
        "device": "host",
        "cpu": cpu.get("model name") or cpu.get("Model") or _arm_cores() or _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_allowed": cores_allowed(),
        "virtual_machine": "hypervisor" in cpu.get("flags", "").split(),
        "governor": _text(_CPUFREQ / "scaling_governor"),
        "max_mhz": _mhz(_CPUFREQ / "cpuinfo_max_freq"),
        "memory_mb": _megabytes(memory.get("MemTotal")),
        "kernel": platform.release(),
        "system": _os_name(),
        "python": platform.python_version(),
    }


def _arm_cores() -> str | None:
    """Return the cores of an Arm host, whose cpuinfo has numbers instead of a model's name."""
    from coronet_deploy.bench.clusters import core_names

    return core_names(_text(Path("/proc/cpuinfo")) or "")


def _processor() -> str | None:
    return platform.processor() or None


def cores_allowed() -> int:
    """Return on how many cores this process may run: all of them, where no system tells."""
    # macOS pins nothing, and has no such call.
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def cores_shared(cpus: Collection[int] | None = None, root: Path = _CPUS) -> int | None:
    """Return how many physical cores `cpus` are (those allowed if not given), None if none tells.

    Two hardware threads of one core count once.
    """
    if cpus is None:
        allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
        cpus = allowed(0) if allowed else ()
    told = [_text(root / f"cpu{cpu}" / "topology" / "thread_siblings_list") for cpu in cpus]
    return len(set(told)) if told and all(told) else None


def host_state() -> dict[str, float | None]:
    """Return what does change: load averages, clock and free memory, as plain JSON values."""
    cpu = _keyed("/proc/cpuinfo")
    reported = cpu.get("cpu MHz")
    return {
        "load_1min": _load(),
        "mhz": _mhz(_CPUFREQ / "scaling_cur_freq")
        or (round(float(reported)) if reported else None),
        "available_mb": _megabytes(_keyed("/proc/meminfo").get("MemAvailable")),
    }


def cpu_ticks() -> CpuTicks | None:
    """Return the cores' ticks so far, or None where /proc/stat cannot be read.

    The columns are user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
    """
    fields = (_text(Path("/proc/stat")) or "").partition("\n")[0].split()[1:9]
    if len(fields) < 8:  # noqa: PLR2004 - the columns named above
        return None
    ticks = [int(field) for field in fields]
    return CpuTicks(steal=ticks[7], total=sum(ticks))


def steal_percent(before: CpuTicks | None, after: CpuTicks | None) -> float | None:
    """Return the share of all cores' time the hypervisor gave to others between two readings."""
    if before is None or after is None or after.total <= before.total:
        return None
    return round(100 * (after.steal - before.steal) / (after.total - before.total), 2)


def cpu_quota(root: Path = _CGROUP, own: Path = _OWN_CGROUP) -> Quota | None:
    """Return the tightest bound on processor time that this process is under, or None for none.

    By version 2 of control groups, whose `cpu.max` is "microseconds period" or "max period"; a
    group is under the bounds of those above it too. In a container `root` is its own group.
    """
    path = next((line[3:] for line in (_text(own) or "").splitlines() if line[:3] == "0::"), "/")
    place = Path(path.lstrip("/"))
    found = []
    for folder in (root / one for one in (place, *place.parents)):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            throttled = re.search(r"nr_throttled (\d+)", _text(folder / "cpu.stat") or "")
            found.append(Quota(int(quota) / int(period), int(throttled[1]) if throttled else 0))
    return min(found, key=lambda one: one.cores, default=None)


def quota_notes(before: Quota | None, after: Quota | None, threads: int) -> list[str]:
    """Return a sentence for each way in which a bound on processor time touched this run."""
    if before is None or after is None:
        return []
    notes = []
    if threads > after.cores:
        notes.append(f"{threads} threads were asked of the {after.cores:g} cores' time allowed.")
    if (more := after.throttled - before.throttled) > 0:
        notes.append(
            f"The bound of {after.cores:g} cores' time stopped this machine's work {more} times: "
            "what was timed then is the wait, too."
        )
    return notes


def load_notes(before: float | None, after: float | None, threads: int) -> list[str]:
    """Return a sentence if the load grew by more than this bench's own `threads`."""
    if before is None or after is None or after - before <= threads + _BUSY_LOAD:
        return []
    rise = f"from {before:.2f} to {after:.2f}, more than {threads} threads explain"
    return [f"The load average rose {rise}: other work began meanwhile."]


def shared_notes(threads: int, cpus: int, cores: int | None) -> list[str]:
    """Return a sentence if `threads` fit on `cpus`, but not on the `cores` that these share."""
    if cores is None or threads > cpus or threads <= cores:
        return []
    return [f"{threads} threads shared {cores} physical core{'s' * (cores > 1)} ({cpus} CPUs)."]


def busy_notes(
    load_before: float | None,
    threads: int,
    cores: int,
    stolen: float | None,
    own_load: float = 0.0,
) -> list[str]:
    """Return a sentence for each condition that makes this run's figures less trustworthy.

    `own_load` of `load_before` may be a measurement's that has just ended.
    """
    notes = []
    if load_before is not None and load_before > _BUSY_LOAD + own_load:
        notes.append(
            f"The load average was {load_before:.2f} before the first launch: "
            "other work shared the cores."
        )
    if threads > cores:
        notes.append(f"{threads} threads were asked of {cores} available cores.")
    if stolen is not None and stolen > _STEAL_PERCENT:
        notes.append(f"The hypervisor gave {stolen:.1f} % of the cores' time to others.")
    return notes


def tool_versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of `packages`, leaving out those that are not installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_rss_mb() -> float | None:
    """Return this process's peak resident memory in MB, or None where it cannot be read.

    VmHWM rather than getrusage: the latter starts at the peak of the process that forked us.
    """
    return _megabytes(_keyed("/proc/self/status").get("VmHWM"))


def os_threads() -> int | None:
    """Return how many threads this process has, or None where it cannot be read."""
    threads = _keyed("/proc/self/status").get("Threads", "")
    return int(threads) if threads.isdigit() else None


def _load() -> float | None:
    """Return the load average of the last minute, or None where it cannot be had."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _keyed(path: str) -> dict[str, str]:
    """Return the first value of each key of a "key: value" file of /proc."""
    found: dict[str, str] = {}
    for line in (_text(Path(path)) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _mhz(path: Path) -> int | None:
    khz = _text(path)
    return int(khz) // 1000 if khz and khz.isdigit() else None


def _megabytes(value: str | None) -> float | None:
    """Return "123 kB" of /proc in MB."""
    number = (value or "").split()[:1]
    return round(int(number[0]) / _KB_PER_MB, 1) if number and number[0].isdigit() else None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
