"""Whether a phone is a real one: an emulator's timings say nothing of a device."""

from __future__ import annotations

from collections.abc import Mapping

_QEMU = ("ro.boot.qemu", "ro.kernel.qemu")
# Hardware names of Android's emulator, Genymotion and Cuttlefish.
_HARDWARE = frozenset({"goldfish", "ranchu", "vbox86", "cutf_cvm", "cutf"})
_ARM = ("arm", "aarch64")


def emulated(properties: Mapping[str, str], machine: str) -> str | None:
    """Say by what a phone is told to be none, or None for a real one.

    `properties` are Android's, `machine` is what `uname -m` says there.
    """
    for key in _QEMU:
        if properties.get(key) == "1":
            return f"{key} is 1"
    hardware = properties.get("ro.hardware", "")
    if hardware in _HARDWARE:
        return f"ro.hardware is {hardware}"
    abi = properties.get("ro.product.cpu.abi", "")
    if abi.startswith("arm") and not machine.startswith(_ARM):
        return f"it calls itself {abi} and runs on {machine}"
    return None
