"""Which machine a native file was built for, read from its ELF header.

Pushed to a phone of another kind, a library fails with a message that names neither; so this is
looked at before anything is pushed.
"""

from __future__ import annotations

import struct
from pathlib import Path

from coronet_deploy.errors import BadInput
from coronet_deploy.storage import existing_file

# ELF specification, e_machine, by the names that `uname -m` gives.
_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64"}
_ABIS = {
    "aarch64": "arm64-v8a",
    "armv8l": "armeabi-v7a",
    "armv7l": "armeabi-v7a",
    "x86_64": "x86_64",
    "i686": "x86",
}
_HEADER_BYTES = 20


def machine_of(path: Path) -> str | None:
    """Return the machine `path` was built for, as `uname -m` calls it; None if it is no ELF file.

    Raises:
        BadInput: there is no such file.

    """
    with existing_file(path, "native file").open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[:4] != b"\x7fELF":
        return None
    order = "<" if head[5] == 1 else ">"
    (number,) = struct.unpack_from(f"{order}H", head, 18)
    return _MACHINES.get(number, f"ELF machine {number}")


def abi_of(machine: str) -> str:
    """Return Android's name for what `uname -m` calls `machine`: "arm64-v8a"."""
    return _ABIS.get(machine, machine)


def check_machine(path: Path, flag: str, phone: str) -> None:
    """Let a native file through that a phone of the machine `phone` (its `uname -m`) can run.

    Raises:
        BadInput: it is for another, or no native file at all; names the file and `flag`.

    """
    machine = machine_of(path)
    if machine is None:
        raise BadInput(f"{flag} {path} is not a native program or library (no ELF file)")
    if abi_of(machine) != abi_of(phone):
        raise BadInput(
            f"{flag} {path} is built for {_said(machine)}, and the phone is {_said(phone)}",
            hint=f"give one for Android's ABI {_ABIS[phone]}" if phone in _ABIS else None,
        )


def _said(machine: str) -> str:
    abi = abi_of(machine)
    return machine if abi == machine else f"{machine} ({abi})"
