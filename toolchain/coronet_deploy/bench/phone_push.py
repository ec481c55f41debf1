"""What a bench puts on its phone: the native files, the artifacts, vendors' programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.host import OnDisk
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_kit import Kit
from coronet_deploy.bench.phone_launch import Setup
from coronet_deploy.bench.phone_vendor import VendorTools, put_tools
from coronet_deploy.verify.runtimes import runtime_of


@dataclass(frozen=True)
class OnPhone:
    """Where all of it stands there; `models` are the artifacts' paths by their names."""

    setup: Setup
    models: dict[str, str]
    vendors: VendorTools


def put_all(
    device: Device, files: PhoneFiles, kit: Kit, subjects: Sequence[OnDisk], mask: str | None
) -> OnPhone:
    """Put on the phone what a bench of `subjects` takes, pinned to the CPUs of `mask`.

    Raises:
        BadInput: a file is missing, or a vendor's program is none that is known.
        AdbError: see `PhoneFiles.put`.

    """
    backend_libraries = {
        backend: files.put(library) if isinstance(library, Path) else library
        for backend, library in kit.backend_libraries.items()
    }
    needed = {runtime_of(one.path) for one in subjects}
    setup = Setup(
        runner=files.put(kit.runner),
        libraries={one: files.put(kit.libraries[one]) for one in sorted(needed)},
        backend_libraries=backend_libraries,
        backend_options=kit.backend_options,
        mask=mask,
    )
    models = {one.name: files.put(one.path) for one in subjects}
    return OnPhone(setup, models, put_tools(device, files, kit.vendor_tools))
