"""Which of the attached phones a bench means: by chipset, by serial, or the only one there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from coronet_deploy.bench.adb import AdbError, AdbTimeout, Device, DeviceTooOld, list_devices
from coronet_deploy.bench.attached import (
    DEVICE,
    SERIAL_VARIABLE,
    SILENT,
    SLOW,
    TOO_OLD,
    Attached,
    is_address,
    serial_said,
)
from coronet_deploy.bench.identity import own_serial
from coronet_deploy.bench.process import Limit
from coronet_deploy.bench.together import ask_all
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.profiles import Backend, Profile, find_profile, load_profiles, match

ANY = "any"
"""The name of whatever chipset is attached: `--device any`."""


# What elsewhere is called a device.
_NO_PHONES = frozenset({*get_args(Backend), "npu", "cuda", "localhost"})


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
    properties_of: Callable[[str, Limit], Mapping[str, str]] = lambda serial, limit: Device(
        serial, limit=limit
    ).properties(),
) -> tuple[Candidate, ...]:
    """Return the attached phones with what they say of themselves; asks adb if `attached` is None.

    Raises:
        EnvironmentProblem: adb is missing, or its server does not answer.

    """
    known = load_profiles() if profiles is None else profiles

    def ask(one: Attached, limit: Limit) -> Candidate:
        try:
            properties = properties_of(one.serial, limit)
        except DeviceTooOld:
            return Candidate(Attached(one.serial, TOO_OLD), {}, None)
        except AdbTimeout:
            return Candidate(Attached(one.serial, SLOW), {}, None)
        except AdbError:  # it went away just now, or does not answer
            return Candidate(Attached(one.serial, SILENT), {}, None)
        return Candidate(one, properties, match(properties, known) if properties else None)

    phones = list_devices() if attached is None else attached
    answers = iter(ask_all(ask, [one for one in phones if one.state == DEVICE], hurry=True))
    return tuple(
        next(answers) if one.state == DEVICE else Candidate(one, {}, None) for one in phones
    )


def find(
    name: str, *, serial: str | None = None, profiles: Sequence[Profile] | None = None
) -> Candidate:
    """Return the one that `choose` returns, of the attached; asks no others than it must.

    As for adb, `ANDROID_SERIAL` goes for a serial where none is given.

    Raises:
        CoronetError: see `choose` and `candidates`.

    """
    attached, variable = list_devices(), serial_said()
    meant = serial or _counting(variable, name, profiles)
    named = [one for one in attached if one.serial == (meant or name)]
    asked = candidates(named, profiles)
    if not (asked and _fitting(name, asked, meant, profiles)):
        asked += candidates([one for one in attached if one not in named], profiles)
    return choose(name, asked, serial=serial, variable=variable, profiles=profiles)


def choose(
    name: str,
    attached: Sequence[Candidate],
    *,
    serial: str | None = None,
    variable: str | None = None,
    profiles: Sequence[Profile] | None = None,
) -> Candidate:
    """Return the one ready phone that `--device name` (and `--serial`) means.

    `name` is a serial, a chipset by any of its names, or "any". With a serial, a phone whose
    chipset no profile knows is taken too. A serial is adb's name of a phone, or else the one that
    the phone tells of itself: on the network adb calls it otherwise. `variable` is what
    `ANDROID_SERIAL` says: the serial where neither `serial` nor `name` is one.

    Raises:
        BadInput: no chipset is called so, and no phone either; or several phones are meant.
        EnvironmentProblem: no phone is meant, or one by its address that is not there, or it is not
            ready; says what is attached.

    """
    asked = " ".join([f"--device {name}", *([f"--serial {serial}"] if serial else [])])
    variable = None if serial else _counting(variable, name, profiles)
    if variable:
        serial, asked = variable, f"{asked} and {SERIAL_VARIABLE}={variable}"
    fitting = _fitting(name, attached, serial, profiles)
    if not fitting and variable:
        raise _misled(asked, attached, variable)
    if not fitting:
        waiting = [one for one in attached if one.attached.state != DEVICE]
        hint: str | None = _other(attached)
        if serial and is_address(serial) and not called(serial, attached):
            hint = f"adb connect {serial}"
        elif waiting and len(waiting) == len(attached):
            hint = waiting[0].attached.advice
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


def _counting(variable: str | None, name: str, profiles: Sequence[Profile] | None) -> str | None:
    """Return what `ANDROID_SERIAL` says if `name` leaves open which phone is meant."""
    if variable is None or name == ANY:
        return variable
    try:
        find_profile(name, profiles)
    except BadInput:  # a phone by its serial, or nothing at all
        return None
    return variable


def _misled(asked: str, attached: Sequence[Candidate], variable: str) -> EnvironmentProblem:
    """Return the error that `ANDROID_SERIAL` names no phone that was asked for."""
    drop = f"unset {SERIAL_VARIABLE}; --serial goes before it"
    if other := called(variable, attached):
        return EnvironmentProblem(f"{asked}: {other[0]} has another chipset", hint=drop)
    connect = f"adb connect {variable}, or " if is_address(variable) else ""
    return EnvironmentProblem(
        f"{asked}: no such phone is attached; {_listed(attached)}", hint=f"{connect}{drop}"
    )


def _fitting(
    name: str,
    attached: Sequence[Candidate],
    serial: str | None,
    profiles: Sequence[Profile] | None,
) -> list[Candidate]:
    """Return the phones that are meant, ready or not (see `choose`)."""
    named = called(serial or name, attached)
    if name in {serial, ANY}:
        return named if serial else list(attached)
    if serial is None and named:
        return named
    wanted = _chipset(name, attached, profiles)
    # One that is named and does not answer cannot tell its chipset: its state is what is wrong.
    return [
        one
        for one in (named if serial else attached)
        if one.profile == wanted or (serial and one.attached.state != DEVICE)
    ]


def called(serial: str, attached: Sequence[Candidate]) -> list[Candidate]:
    """Return the phones of a serial: the one that adb calls so, or else those that do themselves.

    One phone may be there twice, by its address and as wireless debugging names it.
    """
    by_adb = [one for one in attached if one.attached.serial == serial]
    return by_adb or [one for one in attached if own_serial(one.properties) == serial]


def _chipset(
    name: str, attached: Sequence[Candidate], profiles: Sequence[Profile] | None
) -> Profile:
    """Return the profile called `name`, which is no attached phone's serial."""
    try:
        return find_profile(name, profiles)
    except BadInput as unknown:
        if is_address(name):  # as no chipset is called
            raise EnvironmentProblem(
                f"--device {name}: no such phone is attached; {_listed(attached)}",
                hint=f"adb connect {name}",
            ) from unknown
        hint = unknown.hint
        if name.casefold() in _NO_PHONES:
            hint = "this host is --device host; what of a phone computes, --backend says"
        for one in attached:
            if name.casefold() in {(told or "").casefold() for told in (one.chipset, one.model)}:
                hint = f"--serial {one.attached.serial} alone takes the phone that says so"
        raise BadInput(
            f"{unknown.what}, and no attached phone has that serial; {_listed(attached)}", hint=hint
        ) from unknown


def _listed(attached: Sequence[Candidate]) -> str:
    return f"attached: {', '.join(map(str, attached))}" if attached else "none is attached"


def _other(attached: Sequence[Candidate]) -> str:
    ready = [one for one in attached if one.attached.state == DEVICE]
    if not ready:
        return "plug one in and allow USB debugging; `coronet-deploy doctor` checks the way there"
    return f"--device {ready[0].attached.serial} takes that phone"
