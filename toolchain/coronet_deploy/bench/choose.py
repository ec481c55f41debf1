"""Which of the attached phones a bench means: by chipset, by serial, or the only one there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coronet_deploy.bench.adb import DEVICE, SILENT, AdbError, Attached, Device, list_devices
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.profiles import Profile, find_profile, load_profiles, match

ANY = "any"
"""The name of whatever chipset is attached: `--device any`."""


@dataclass(frozen=True)
class Candidate:
    """A phone that is attached: its properties are empty if it is not ready."""

    attached: Attached
    properties: Mapping[str, str]
    profile: Profile | None

    @property
    def model(self) -> str | None:
        """What its maker calls it."""
        return self.properties.get("ro.product.model") or None

    @property
    def chipset(self) -> str | None:
        """The profile's name, or what the phone calls its chipset if no profile fits."""
        if self.profile:
            return self.profile.name
        keys = ("ro.soc.model", "ro.board.platform", "ro.hardware")
        return next((self.properties[key] for key in keys if self.properties.get(key)), None)

    def __str__(self) -> str:
        told = ", ".join(filter(None, (self.model, self.chipset)))
        what = told if self.attached.state == DEVICE else self.attached.state
        return f"{self.attached.serial} ({what or 'unknown'})"


def candidates(
    attached: Sequence[Attached] | None = None,
    profiles: Sequence[Profile] | None = None,
    properties_of: Callable[[str], Mapping[str, str]] = lambda serial: Device(serial).properties(),
) -> tuple[Candidate, ...]:
    """Return the attached phones with what they say of themselves; asks adb if `attached` is None.

    Raises:
        EnvironmentProblem: adb is missing, or its server does not answer.

    """
    known = load_profiles() if profiles is None else profiles
    found = []
    for one in list_devices() if attached is None else attached:
        properties: Mapping[str, str] = {}
        state = one
        if one.state == DEVICE:
            try:
                properties = properties_of(one.serial)
            except AdbError:  # it went away just now, or does not answer
                state = Attached(one.serial, SILENT)
        found.append(Candidate(state, properties, match(properties, known) if properties else None))
    return tuple(found)


def choose(
    name: str,
    attached: Sequence[Candidate],
    *,
    serial: str | None = None,
    profiles: Sequence[Profile] | None = None,
) -> Candidate:
    """Return the one ready phone that `--device name` (and `--serial`) means.

    `name` is a serial, a chipset by any of its names, or "any". With a serial, a phone whose
    chipset no profile knows is taken too.

    Raises:
        BadInput: no chipset is called so, and no phone either; or several phones are meant.
        EnvironmentProblem: no phone is meant, or one by its address that is not there, or it is not
            ready; says what is attached.

    """
    named = serial or (name if any(one.attached.serial == name for one in attached) else None)
    wanted = None
    if name not in {named, ANY}:
        wanted = _chipset(name, attached, profiles)
    fitting = [
        one
        for one in attached
        if (named is None or one.attached.serial == named)
        # One that is named and does not answer cannot tell its chipset: its state is what is wrong.
        and (wanted is None or one.profile == wanted or (named and one.attached.state != DEVICE))
    ]
    asked = " ".join([f"--device {name}", *([f"--serial {serial}"] if serial else [])])
    if not fitting:
        waiting = [one for one in attached if one.attached.state != DEVICE]
        unready = next((one.attached.advice for one in waiting), None)
        hint = unready if waiting and len(waiting) == len(attached) else _other(attached)
        raise EnvironmentProblem(
            f"{asked}: no such phone is attached; {_listed(attached)}", hint=hint
        )
    ready = [one for one in fitting if one.attached.state == DEVICE]
    if not ready:
        state = fitting[0].attached
        raise EnvironmentProblem(
            f"{asked}: phone {state.serial} is {state.state}", hint=state.advice
        )
    if len(ready) > 1:
        raise BadInput(
            f"{asked} could be any of {', '.join(map(str, ready))}",
            hint=f"--serial {ready[0].attached.serial}",
        )
    return ready[0]


def _chipset(
    name: str, attached: Sequence[Candidate], profiles: Sequence[Profile] | None
) -> Profile:
    """Return the profile called `name`, which is no attached phone's serial."""
    try:
        return find_profile(name, profiles)
    except BadInput as unknown:
        if ":" in name:  # as no chipset is called: the address of a phone on the network
            raise EnvironmentProblem(
                f"--device {name}: no such phone is attached; {_listed(attached)}",
                hint=f"adb connect {name}",
            ) from unknown
        raise BadInput(
            f"{unknown.what}, and no attached phone has that serial; {_listed(attached)}",
            hint=unknown.hint,
        ) from unknown


def _listed(attached: Sequence[Candidate]) -> str:
    return f"attached: {', '.join(map(str, attached))}" if attached else "none is attached"


def _other(attached: Sequence[Candidate]) -> str:
    ready = [one for one in attached if one.attached.state == DEVICE]
    if not ready:
        return "plug one in and allow USB debugging; `coronet-deploy doctor` checks the way there"
    return f"--device {ready[0].attached.serial} takes that phone"
