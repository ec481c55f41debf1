"""The first look at a phone: what it is, before anything is put on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.clusters import Cluster, read_clusters
from coronet_deploy.bench.phone_state import read_facts, read_screen

_QUICK_S = 20.0


@dataclass(frozen=True)
class Look:
    """What a phone tells of itself.

    `screen` is "on", "off" or None as in its `State`; `machine` is what Linux calls its processor
    ("aarch64"), `facts` what a run keeps of what does not change.
    """

    screen: str | None
    properties: Mapping[str, str]
    machine: str
    facts: Mapping[str, Any]
    clusters: tuple[Cluster, ...]


def look_at(device: Device) -> Look:
    """Ask the phone what it is.

    Raises:
        AdbError: it does not tell, or went away (`DeviceLost`).

    """
    screen, properties = read_screen(device), device.properties()
    return Look(
        screen=screen,
        properties=properties,
        machine=device.shell(["uname", "-m"], seconds=_QUICK_S, check=True).text,
        facts=read_facts(device, properties),
        clusters=read_clusters(device),
    )
