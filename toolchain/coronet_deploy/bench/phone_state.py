"""Ask a phone for its conditions: what it is, how hot it is, how free its clocks are.

A command that fails or does not tell leaves None and the reason (see `conditions.State`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from coronet_deploy.bench import dumpsys
from coronet_deploy.bench.adb import AdbError, AdbTimeout, Device, ShellResult
from coronet_deploy.bench.clusters import read_files, whole
from coronet_deploy.bench.conditions import Policy, State
from coronet_deploy.bench.phone_files import ROOT
from coronet_deploy.bench.phone_lock import UNDO
from coronet_deploy.profiles import cpu_list

_QUICK_S = 20.0
_FIX = ("cmd", "power", "set-fixed-performance-mode-enabled")
_POLICY = "/sys/devices/system/cpu/cpufreq/policy*"
_ZONE = "/sys/class/thermal/thermal_zone*"
_POLICY_FILES = (
    "related_cpus",
    "scaling_governor",
    "scaling_cur_freq",
    "scaling_max_freq",
    "cpuinfo_max_freq",
)
_KHZ_PER_MHZ = 1000
# Names that makers give the sensors of /sys/class/thermal, seldom readable for the shell user.
_ZONES = {"skin_c": r"skin", "battery_c": r"battery|^batt", "cpu_c": r"^cpu", "gpu_c": r"^gpu"}
_MILLI_FROM = 1000


def read_state(device: Device) -> State:
    """Return the phone's conditions now.

    Raises:
        DeviceLost: the phone went away.

    """
    missing: dict[str, str] = {}
    thermal = dumpsys.parse_thermal(_ask(device, ["dumpsys", "thermalservice"], missing))
    battery = dumpsys.parse_battery(_ask(device, ["dumpsys", "battery"], missing))
    settings = {
        name: _setting(device, key, missing)
        for name, key in (("airplane", "airplane_mode_on"), ("low_power", "low_power"))
    }
    values: dict[str, Any] = {
        "thermal_status": thermal.status,
        "skin_c": thermal.hottest(dumpsys.SKIN),
        "cpu_c": thermal.hottest(dumpsys.CPU),
        "gpu_c": thermal.hottest(dumpsys.GPU),
        "battery_c": battery.celsius,
        "battery_percent": battery.percent,
        "power": battery.power,
        "charging": battery.charging,
        "screen": read_screen(device, missing),
        **settings,
    }
    if values["skin_c"] is None:
        for name, value in _zones(device).items():
            values[name] = value if values[name] is None else values[name]
    policies = _policies(_files(device, *(f"{_POLICY}/{name}" for name in _POLICY_FILES)))
    if not policies:
        missing["policies"] = "/sys/devices/system/cpu/cpufreq cannot be read"
    overridden = [
        *(["thermal_status"] if thermal.overridden else []),
        *(["battery"] if battery.faked else []),
    ]
    return State(
        **values,
        policies=policies,
        overridden=tuple(overridden),
        unavailable=_reasons(values, missing),
    )


def read_screen(device: Device, missing: dict[str, str] | None = None) -> str | None:
    """Return whether the screen is "on" or not; why it is not known goes into `missing`.

    Raises:
        DeviceLost: the phone went away.

    """
    # All of `dumpsys power` is a hundred kilobytes.
    power = _ask(
        device, "dumpsys power | grep -m 1 Wakefulness=", {} if missing is None else missing
    )
    return dumpsys.parse_screen(power)


def read_facts(device: Device, properties: Mapping[str, str]) -> dict[str, Any]:
    """Return what does not change while a bench runs, as plain JSON values.

    Raises:
        DeviceLost: the phone went away.

    """
    keys = {
        "manufacturer": "ro.product.manufacturer",
        "model": "ro.product.model",
        "soc": "ro.soc.model",
        "board": "ro.board.platform",
        "android": "ro.build.version.release",
        "api_level": "ro.build.version.sdk",
        "build": "ro.build.fingerprint",
        "security_patch": "ro.build.version.security_patch",
        "abi": "ro.product.cpu.abi",
    }
    cpuinfo = device.read_text("/proc/cpuinfo") or ""
    meminfo = device.read_text("/proc/meminfo") or ""
    memory = re.search(r"^MemTotal:\s*([0-9]+) kB", meminfo, re.MULTILINE)
    features = re.search(r"^Features\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    kernel = device.shell(["uname", "-r"], seconds=_QUICK_S)
    return {
        **{name: properties.get(key) or None for name, key in keys.items()},
        "kernel": kernel.text if kernel.status == 0 and kernel.text else None,
        "memory_mb": int(memory[1]) // 1024 if memory else None,
        "cpu_features": sorted(set(features[1].split())) if features else None,
    }


@contextlib.contextmanager
def fixed_performance(device: Device) -> Iterator[str | None]:
    """Have Android's fixed-performance mode (Android 11 and later, no root) until the end.

    Yields None if it is on, or why it is not; a phone without it is measured all the same. It does
    not keep a phone from overheating. Undone on every way out, by the phone itself if it is lost or
    we are killed (see `phone_lock.UNDO`).
    """
    refused = set_fixed_performance(device)
    try:
        yield refused
    finally:
        if refused is None and not device.silent:
            with contextlib.suppress(AdbError):  # a phone that restarted has forgotten it
                device.shell([*_FIX, "false"], seconds=_QUICK_S)
                device.shell(["rm", "-f", UNDO], seconds=_QUICK_S)


def set_fixed_performance(device: Device) -> str | None:
    """Set the mode, to be undone by the phone if we do not; return why it cannot be.

    How it is undone is written down first: on a phone that has no room for that, it is not set.
    """
    fix = " ".join(_FIX)
    command = (
        f"mkdir -p {ROOT} && echo '{fix} false' > {UNDO} && {fix} true || "
        f"{{ s=$?; rm -f {UNDO}; exit $s; }}"
    )
    try:
        result: ShellResult = device.shell(command, seconds=_QUICK_S)
    except AdbTimeout:
        return "it did not answer"
    return result.complaint if result.status else None


def _ask(device: Device, command: list[str] | str, missing: dict[str, str]) -> str:
    """Return what a command says, or "" with the reason in `missing` under the command."""
    name = command.partition(" |")[0] if isinstance(command, str) else " ".join(command)
    try:
        result = device.shell(command, seconds=_QUICK_S)
    except AdbTimeout:
        missing[name] = "it did not answer"
        return ""
    if result.status != 0:
        missing[name] = result.complaint
        return ""
    return result.stdout.decode(errors="replace")


def _files(device: Device, *patterns: str) -> Mapping[str, str]:
    """Return what files hold that match (see `read_files`); nothing if the phone does not tell."""
    try:
        return read_files(device, *patterns)
    except AdbTimeout:
        return {}


def _setting(device: Device, key: str, missing: dict[str, str]) -> bool | None:
    told = _ask(device, ["settings", "get", "global", key], missing).strip()
    return {"0": False, "1": True}.get(told)


def _policies(files: Mapping[str, str]) -> tuple[Policy, ...]:
    found = []
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        if name != "related_cpus":
            continue
        with contextlib.suppress(ValueError):
            clocks = (_mhz(files.get(f"{folder}/{one}")) for one in _POLICY_FILES[2:])
            governor = files.get(f"{folder}/scaling_governor")
            found.append(Policy(cpu_list(text), governor, *clocks))
    return tuple(sorted(found, key=lambda one: one.cpus))


def _mhz(text: str | None) -> int | None:
    khz = whole(text)
    return None if khz is None else round(khz / _KHZ_PER_MHZ)


def _zones(device: Device) -> dict[str, float]:
    """Return the hottest of each kind of thermal zone, where the shell user may read them."""
    files = _files(device, f"{_ZONE}/type", f"{_ZONE}/temp")
    hottest: dict[str, float] = {}
    for path, kind in files.items():
        value = whole(files.get(f"{path.removesuffix('type')}temp"))
        if not path.endswith("/type") or not value:
            continue
        celsius = value / 1000 if abs(value) >= _MILLI_FROM else float(value)
        if not dumpsys.plausible(celsius):
            continue
        for name, pattern in _ZONES.items():
            if re.search(pattern, kind, re.IGNORECASE):
                hottest[name] = max(hottest.get(name, celsius), celsius)
    return hottest


_ASKED = {
    **dict.fromkeys(("thermal_status", "skin_c", "cpu_c", "gpu_c"), "dumpsys thermalservice"),
    **dict.fromkeys(("battery_c", "battery_percent", "power", "charging"), "dumpsys battery"),
    "screen": "dumpsys power",
    "airplane": "settings get global airplane_mode_on",
    "low_power": "settings get global low_power",
}


def _reasons(values: Mapping[str, Any], missing: Mapping[str, str]) -> dict[str, str]:
    """Return why each value that is None is: the command failed, or did not tell."""
    reasons = {
        name: f"`{_ASKED[name]}`: {missing.get(_ASKED[name], 'it does not tell')}"
        for name, value in values.items()
        if value is None
    }
    if "policies" in missing:
        reasons["policies"] = missing["policies"]
    return reasons
