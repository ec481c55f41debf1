"""The conditions on a phone at one moment, whether it is cool, and what else to be wary of.

`phone_state` reads them. Phones differ in what they let the shell user see: each value may be
None, and `unavailable` says why; nothing is guessed from another value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from coronet_deploy.bench.dumpsys import THERMAL_STATUSES

_LOW_BATTERY_PERCENT = 20


@dataclass(frozen=True)
class Policy:
    """CPUs with one clock, in MHz: now, what the vendor allows now, what the hardware can."""

    cpus: tuple[int, ...]
    governor: str | None
    mhz: int | None
    allowed_mhz: int | None
    max_mhz: int | None

    @property
    def capped(self) -> bool:
        """True if the vendor allows less than the hardware can."""
        return bool(self.allowed_mhz and self.max_mhz and self.allowed_mhz < self.max_mhz)


@dataclass(frozen=True)
class State:
    """A phone at one moment. `unavailable` has the reason for each value that is None."""

    thermal_status: int | None = None
    skin_c: float | None = None
    cpu_c: float | None = None
    gpu_c: float | None = None
    battery_c: float | None = None
    battery_percent: int | None = None
    power: str | None = None
    charging: str | None = None
    screen: str | None = None
    airplane: bool | None = None
    low_power: bool | None = None
    policies: tuple[Policy, ...] = ()
    overridden: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        policies = [{**asdict(one), "cpus": list(one.cpus)} for one in self.policies]
        plain = {**vars(self), "policies": policies, "overridden": list(self.overridden)}
        return {**plain, "unavailable": dict(self.unavailable)}


@dataclass(frozen=True)
class Limits:
    """How warm a phone may be and still count as cool: degrees Celsius, Android's status.

    The temperatures are a choice, not a standard: below where makers begin to slow phones down
    (some at a skin of 40 degrees), above where an idle phone settles in an ordinary room.
    """

    skin_c: float = 36.0
    battery_c: float = 36.0
    thermal_status: int = 0


@dataclass(frozen=True)
class Judgement:
    """Whether a phone is cool, None where nothing tells; `reason` is a clause, without a stop."""

    cool: bool | None
    reason: str


def cool(state: State, limits: Limits | None = None) -> Judgement:
    """Judge whether a phone is cool enough to measure.

    Android's status decides first, then the skin, then the battery. Where none of them can be
    read the judgement is None: only the canary can tell then.
    """
    limit = limits or Limits()
    if "thermal_status" not in state.overridden and state.thermal_status is not None:
        word = THERMAL_STATUSES[state.thermal_status]
        if state.thermal_status > limit.thermal_status:
            return Judgement(cool=False, reason=f"Android's thermal status is {word}")
    readings = [("skin", state.skin_c, limit.skin_c)]
    if "battery" not in state.overridden:
        readings.append(("battery", state.battery_c, limit.battery_c))
    known = [(name, now, most) for name, now, most in readings if now is not None]
    for name, now, most in known:
        if now > most:
            return Judgement(cool=False, reason=f"its {name} is at {now:.1f} C, above {most:g}")
    if known:
        told = ", ".join(f"{name} at {now:.1f} C" for name, now, _ in known)
        return Judgement(cool=True, reason=told)
    if state.thermal_status is not None and "thermal_status" not in state.overridden:
        return Judgement(cool=True, reason="Android's thermal status is none")
    return Judgement(cool=None, reason="it tells neither its thermal status nor a temperature")


def cautions(state: State) -> tuple[str, ...]:
    """Return a sentence for each condition that makes figures less trustworthy."""
    told = []
    if state.power not in {None, "battery"}:
        told.append(f"The phone was powered by {state.power}: charging warms it.")
    if state.low_power:
        told.append("Battery saver was on: it lowers the clocks.")
    if state.screen == "on":
        told.append("The screen was on.")
    if state.airplane is False:
        told.append("Airplane mode was off: the radios share heat and CPUs.")
    if state.battery_percent is not None and state.battery_percent < _LOW_BATTERY_PERCENT:
        told.append(f"The battery was at {state.battery_percent} %: phones save power then.")
    told += [
        f"CPU {_span(one.cpus)} may run at {one.allowed_mhz} MHz of {one.max_mhz} only."
        for one in state.policies
        if one.capped
    ]
    told += [f"The phone's {one} was set by hand and tells nothing." for one in state.overridden]
    return tuple(told)


def _span(cpus: tuple[int, ...]) -> str:
    return str(cpus[0]) if len(cpus) == 1 else f"{cpus[0]}-{cpus[-1]}"
