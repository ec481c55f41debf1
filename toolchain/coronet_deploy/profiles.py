"""Device profiles: one TOML file a chipset, and which of them a phone is.

A profile names what is found on a phone and warns where the two differ; what a bench pins to is
read from the phone itself (`bench.clusters`). Every fact says where it comes from: a key of
`device_profiles/sources.toml`, or "unverified".
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coronet_deploy.errors import BadInput
from coronet_deploy.storage import data_dir, existing_file, is_folder, readable

UNVERIFIED = "unverified"
"""The source of what nobody has seen written down."""

SOURCES_FILE = "sources.toml"

# Words that `--device` takes for no chipset.
_TAKEN = {"any": "whatever phone is attached", "host": "this host"}

Backend = Literal["cpu", "gpu", "nnapi", "qnn"]
Feature = Literal["fp16", "dotprod", "i8mm", "bf16", "sve2"]

_Text = Annotated[str, Field(min_length=1)]
_Sources = dict[str, _Text]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Strict):
    """How a phone with the chipset is recognised by its properties.

    `soc_model` is a regular expression, the others are lists of values; none of them minds case.
    """

    soc_model: _Text
    soc_manufacturer: tuple[_Text, ...] = ()
    board_platform: tuple[_Text, ...] = ()
    hardware: tuple[_Text, ...] = ()
    sources: _Sources = Field(default_factory=dict)

    @field_validator("soc_model")
    @classmethod
    def _is_a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class ClusterProfile(_Strict):
    """CPUs of one kind: `cpus` as Linux writes lists ("0-3,7"), the highest clock in MHz."""

    core: _Text
    cpus: _Text
    max_mhz: Annotated[int, Field(gt=0)]
    sources: _Sources = Field(default_factory=dict)

    @field_validator("cpus")
    @classmethod
    def _is_a_list(cls, value: str) -> str:
        if not cpu_list(value):
            raise ValueError("no CPU")
        return value

    @property
    def numbers(self) -> tuple[int, ...]:
        """The CPUs' numbers."""
        return cpu_list(self.cpus)


class Gpu(_Strict):
    """The graphics processor."""

    name: _Text
    source: _Text = UNVERIFIED


class Npu(_Strict):
    """The neural processor, what it is reached through, and QNN's number for the chipset."""

    name: _Text
    runtime: _Text | None = None
    qnn_soc_model: int | None = None
    sources: _Sources = Field(default_factory=dict)


class Isa(_Strict):
    """What the CPUs compute natively, beyond Armv8.2-A."""

    features: tuple[Feature, ...]
    source: _Text = UNVERIFIED
    note: str | None = None


class Memory(_Strict):
    """Theoretical bandwidth, in 10^9 bytes a second."""

    bandwidth_gb_s: Annotated[float, Field(gt=0)]
    source: _Text = UNVERIFIED


class Phones(_Strict):
    """Some phones with the chipset."""

    names: tuple[_Text, ...]
    source: _Text = UNVERIFIED


class Profile(_Strict):
    """What is known of a chipset; `id` is what `--device` takes, `clusters` go slow to fast."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    name: _Text
    vendor: _Text
    aliases: tuple[_Text, ...] = ()
    backends: Annotated[tuple[Backend, ...], Field(min_length=1)] = ("cpu",)
    notes: tuple[_Text, ...] = ()
    identity: Identity
    clusters: Annotated[tuple[ClusterProfile, ...], Field(min_length=1)]
    gpu: Gpu | None = None
    npu: Npu | None = None
    isa: Isa | None = None
    memory: Memory | None = None
    phones: Phones | None = None

    @model_validator(mode="after")
    def _is_no_word_of_its_own(self) -> Profile:
        for name in self.names:
            if meant := _TAKEN.get(_plain(name)):
                raise ValueError(f"called {name!r}, which is {meant} to --device")
        return self

    @model_validator(mode="after")
    def _every_cpu_once(self) -> Profile:
        numbers = [number for cluster in self.clusters for number in cluster.numbers]
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError(f"the clusters' cpus are {sorted(numbers)}: each from 0 on, once")
        return self

    @property
    def cpus(self) -> int:
        """How many CPUs there are."""
        return sum(len(cluster.numbers) for cluster in self.clusters)

    @property
    def names(self) -> tuple[str, ...]:
        """All that the chipset is called: id, name, aliases."""
        return (self.id, self.name, *self.aliases)


def cpu_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a list as Linux writes it: "0-2,7" or "0 1 2 7".

    Raises:
        ValueError: it is not such a list.

    """
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        if not (found := re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)):
            raise ValueError(f"{text!r} is not a list of CPUs such as '0-3'")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"{text!r} is not a list of CPUs: {part} goes backwards")
        numbers += range(first, last + 1)
    return tuple(numbers)


def mask_of(cpus: Iterable[int]) -> str:
    """Return the hexadecimal mask of CPUs, without 0x: what the phone's `taskset` takes."""
    return f"{sum(1 << number for number in set(cpus)):x}"


def load_profiles(folder: Path | None = None) -> tuple[Profile, ...]:
    """Return the shipped profiles by id, those of `folder` (`--profiles`) in place or beside them.

    One's own with the identity of a shipped one (`soc_model` and makers), under whatever id, stands
    in its place and answers to its names as well.

    Raises:
        BadInput: a file is not a profile (names file and key), two share a name, two of one's own
            share an identity, or `folder` holds none or cannot be read.

    """
    shipped = _shipped()
    if folder is None:
        return shipped
    if not is_folder(folder, "--profiles"):
        raise BadInput(f"--profiles {folder} is not a folder")
    own = _read_folder(folder)
    if not own:
        raise BadInput(f"--profiles {folder} holds no .toml file")
    merged = {profile.id: profile for profile in _in_place(own, shipped)}
    return _without_clashes(tuple(merged[key] for key in sorted(merged)))


def find_profile(name: str, profiles: Sequence[Profile] | None = None) -> Profile:
    """Return the profile called `name`: its id, name or an alias, however it is spaced.

    What a phone says in `ro.soc.model` names it too, such as MT6983W/CZA.

    Raises:
        BadInput: there is none; the hint has the nearest names.

    """
    known = load_profiles() if profiles is None else profiles
    spellings = {_plain(one): profile for profile in known for one in profile.names}
    if found := spellings.get(_plain(name)):
        return found
    told = name.strip()
    fitting = [one for one in known if re.search(one.identity.soc_model, told, re.IGNORECASE)]
    if len(fitting) == 1:
        return fitting[0]
    near = difflib.get_close_matches(_plain(name), spellings, n=3, cutoff=0.6)
    meant = dict.fromkeys(f"{spellings[one].id} ({spellings[one].name})" for one in near)
    hint = f"did you mean {', '.join(meant)}?" if meant else _all_ids(known)
    raise BadInput(f"no device profile is called {name!r}", hint=hint)


def match(
    properties: Mapping[str, str], profiles: Sequence[Profile] | None = None
) -> Profile | None:
    """Return the profile of the phone that says `properties` (`getprop`) of itself, or None.

    `ro.soc.model` decides where there is one (Android 12 and later): a chipset that it names and
    no profile knows is unknown. Otherwise the board or the hardware do, if they are a single
    profile's own; several chipsets may share a board's name. A profile of one's own (`--profiles`)
    goes before a shipped one.

    Raises:
        BadInput: two of one's own match what `ro.soc.model` names.

    """
    known = load_profiles() if profiles is None else profiles
    model = properties.get("ro.soc.model", "").strip()
    if model and model.casefold() not in {"unknown", "unset"}:
        matching = [
            profile
            for profile in known
            if re.search(profile.identity.soc_model, model, re.IGNORECASE)
            and not _other_maker(profile, properties, known)
        ]
        own = [profile for profile in matching if profile not in _shipped()]
        if len(own) > 1:
            raise BadInput(
                f"device profiles {own[0].id} and {own[1].id} both match a phone that says "
                f"{model!r}",
                hint="make one's soc_model narrower, or keep only one in --profiles",
            )
        matching = own or matching
        return matching[0] if len(matching) == 1 else None
    for key, field in (("ro.board.platform", "board_platform"), ("ro.hardware", "hardware")):
        value = properties.get(key, "").strip().casefold()
        matching = [
            profile
            for profile in known
            if value and value in {one.casefold() for one in getattr(profile.identity, field)}
        ]
        shipped = [profile for profile in matching if profile in _shipped()]
        own = [profile for profile in matching if profile not in shipped]
        # Beside several shipped ones, one's own says no more of which chipset it is.
        if len(own) <= 1 and len(shipped) <= 1 and matching:
            return (own or shipped)[0]
    return None


def _other_maker(profile: Profile, properties: Mapping[str, str], known: Sequence[Profile]) -> bool:
    """Tell whether the phone names another vendor's chipset; an unknown spelling tells nothing."""
    told = properties.get("ro.soc.manufacturer", "").strip().casefold()
    own = {one.casefold() for one in profile.identity.soc_manufacturer}
    others = {one.casefold() for other in known for one in other.identity.soc_manufacturer}
    return bool(own) and told in others - own


@functools.cache
def _shipped() -> tuple[Profile, ...]:
    return _without_clashes(_read_folder(data_dir("device_profiles")))


def _read_folder(folder: Path) -> tuple[Profile, ...]:
    with readable(f"folder {folder}"):
        names = sorted(os.listdir(folder))  # noqa: PTH208 - Path.glob finds nothing where it may not read
    paths = [folder / name for name in names if name.endswith(".toml") and name != SOURCES_FILE]
    return tuple(_read(path) for path in paths)


def _read(path: Path) -> Profile:
    existing_file(path, "device profile")
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors may begin with a BOM
    except (OSError, ValueError) as error:  # not TOML and not UTF-8 are both ValueErrors
        raise BadInput(f"device profile {path}: {error}") from error
    try:
        profile = Profile.model_validate(plain)
    except ValidationError as error:
        raise BadInput(f"device profile {path}: {_first(error)}") from error
    if profile.id != path.stem:
        raise BadInput(f"device profile {path}: id is {profile.id!r}, not the file's name")
    return profile


def _in_place(own: Sequence[Profile], shipped: Sequence[Profile]) -> Iterator[Profile]:
    """Yield all profiles; one's own has the names of a shipped one of its identity, which goes."""
    owners: dict[tuple[object, ...], Profile] = {}
    for profile in own:
        other = owners.setdefault(_identity(profile), profile)
        if other is not profile:
            raise BadInput(
                f"device profiles {other.id} and {profile.id} have one identity: no phone could "
                "be told from the other",
                hint="keep only one in --profiles, or make one's soc_model narrower",
            )
    left = {profile.id: profile for profile in shipped}
    for profile in own:
        left.pop(profile.id, None)
    taken: dict[str, tuple[str, ...]] = {}
    for profile in left.values():
        if heir := owners.get(_identity(profile)):
            taken[heir.id] = (*taken.get(heir.id, ()), *profile.names)
        else:
            yield profile
    for profile in own:
        names = {*map(_plain, profile.names)}
        more = tuple(name for name in taken.get(profile.id, ()) if _plain(name) not in names)
        yield profile.model_copy(update={"aliases": (*profile.aliases, *more)})


def _identity(profile: Profile) -> tuple[object, ...]:
    """Return what decides which phones a profile is for."""
    makers = frozenset(one.casefold() for one in profile.identity.soc_manufacturer)
    return profile.identity.soc_model, makers


def _without_clashes(profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
    """Refuse two profiles that answer to one name: `--device` could mean either."""
    owners: dict[str, str] = {}
    for profile in profiles:
        for name in profile.names:
            other = owners.setdefault(_plain(name), profile.id)
            if other != profile.id:
                raise BadInput(f"device profiles {other} and {profile.id} are both called {name!r}")
    return profiles


def _plain(name: str) -> str:
    """Return a name without case, spaces and dashes; "plus" is "+", which makes a difference."""
    return re.sub(r"[\s_-]+", "", name.casefold()).replace("plus", "+")


def _all_ids(profiles: Sequence[Profile]) -> str:
    return f"there are {', '.join(profile.id for profile in profiles)}"


def _first(error: ValidationError) -> str:
    """Say the most telling thing wrong: an unknown key explains a missing one."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    problem = min(problems, key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(step) for step in problem["loc"])
    kinds = {"extra_forbidden": "unknown key", "missing": "missing key"}
    if problem["type"] in kinds:
        return f"{kinds[problem['type']]} {where!r}"
    # A file's writer knows no tuples, and need not know patterns.
    said = {
        "tuple_type": 'not a list ["...", "..."]',
        "too_short": "an empty list",
        "string_pattern_mismatch": "not of small letters, digits, '.', '_' and '-' alone",
    }
    told = said.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{where}: {told}" if where else told
