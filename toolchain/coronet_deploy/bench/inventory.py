"""What is attached: each phone with its chipset, conditions, clusters, and what it can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coronet_deploy.bench.adb import AdbError, Device
from coronet_deploy.bench.attached import DEVICE
from coronet_deploy.bench.choose import Candidate, candidates
from coronet_deploy.bench.clusters import Cluster, differences, read_clusters
from coronet_deploy.bench.conditions import Judgement, State, cautions, cool
from coronet_deploy.bench.emulation import emulated
from coronet_deploy.bench.phone_state import read_state
from coronet_deploy.bench.process import Limit
from coronet_deploy.bench.together import ask_all
from coronet_deploy.profiles import Profile

_QUICK_S = 10.0
# Neon in 64 bits is all that a runtime asks of a phone whose chipset no profile knows.
_EVERYWHERE = ("cpu",)


@dataclass(frozen=True)
class Listed:
    """An attached phone; what could not be asked of it is None or empty, `problem` says why.

    `emulated` says by what it is known to be no real phone.
    """

    candidate: Candidate
    problem: str | None = None
    state: State | None = None
    clusters: tuple[Cluster, ...] = ()
    emulated: str | None = None

    @property
    def ready(self) -> bool:
        """True if it answered."""
        return self.problem is None

    @property
    def judgement(self) -> Judgement | None:
        """Whether it is cool."""
        return None if self.state is None else cool(self.state)

    @property
    def backends(self) -> tuple[str, ...]:
        """What is worth trying on it, by its profile; nothing on a phone that is not ready."""
        if not self.ready:
            return ()
        profile = self.candidate.profile
        return tuple(profile.backends) if profile else _EVERYWHERE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before measuring on it, a sentence each."""
        told: list[str] = []
        profile, state = self.candidate.profile, self.state
        if self.ready and profile is None:
            told.append("No device profile knows its chipset: name the phone by --serial.")
        if self.emulated:
            told.append(f"It is no real phone ({self.emulated}): its timings say nothing.")
        if profile and self.ready:
            told += [f"{one[0].upper()}{one[1:]}." for one in differences(self.clusters, profile)]
        return (*told, *(cautions(state) if state else ()))

    def as_json(self) -> dict[str, Any]:
        """Return the phone as plain JSON values."""
        one, judgement = self.candidate, self.judgement
        return {
            "serial": one.attached.serial,
            "state": one.attached.state,
            "problem": self.problem,
            "model": one.model,
            "chipset": one.chipset,
            "profile": one.profile.id if one.profile else None,
            "android": one.properties.get("ro.build.version.release") or None,
            "api_level": one.properties.get("ro.build.version.sdk") or None,
            "backends": list(self.backends),
            "emulated": self.emulated,
            "cool": judgement.cool if judgement else None,
            "cool_reason": judgement.reason if judgement else None,
            "clusters": [cluster.as_json() for cluster in self.clusters],
            "conditions": self.state.as_json() if self.state else None,
            "warnings": list(self.warnings),
        }


def take_inventory(profiles: Sequence[Profile] | None = None) -> tuple[Listed, ...]:
    """Return the attached phones, ready or not.

    Raises:
        EnvironmentProblem: adb is missing, or its server does not answer.

    """
    return tuple(ask_all(_look_at, candidates(profiles=profiles)))


def _look_at(candidate: Candidate, limit: Limit) -> Listed:
    attached = candidate.attached
    if attached.state != DEVICE:
        return Listed(candidate, problem=attached.advice or attached.state)
    device = Device(attached.serial, limit=limit)
    try:
        return Listed(
            candidate,
            state=read_state(device),
            clusters=read_clusters(device),
            emulated=emulated(
                candidate.properties, device.shell(["uname", "-m"], seconds=_QUICK_S).text
            ),
        )
    except AdbError as error:  # it went away while it was looked at
        return Listed(candidate, problem=error.what)
