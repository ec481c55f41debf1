"""The run file's shape: strict models at the edge, the frozen `Run` inside.

One JSON object a run, every sample in it. `SCHEMA_VERSION` grows with each change that an older
reader would misread, and `migrate` brings older files up; unknown keys are errors, so that a
misspelt one cannot pass for a missing one. `json_schema` gives the same contract to other tools;
it is shipped as `run.schema.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from coronet_deploy.errors import BadInput, refuse_newer
from coronet_deploy.results.migrate import migrated
from coronet_deploy.storage import plain_json
from coronet_deploy.vocabulary import Launch, Run, Target

SCHEMA_VERSION = 1

# Its schema has versions of its own, which would pass for newer ones of runs.
_OF_A_MANIFEST = {"runtime", "dtype", "parity"}

_SQLITE = b"SQLite format 3\0"  # how such a file begins

# What no clock tells of an inference, and what no figure, plot or ratio is made for.
_MS_LEAST = 1e-9
_MS_MOST = 24 * 3_600_000.0
_MB_MOST = 1e9
_WHOLE_MOST = 1 << 128
_THREADS_MOST = 1 << 16


def _is_a_time(value: float) -> float:
    if not _MS_LEAST <= value <= _MS_MOST:
        raise ValueError(f"{value:g} ms is no time of an inference, a picosecond to a day")
    return value


def _is_a_size(value: float) -> float:
    if value > _MB_MOST:
        raise ValueError(f"{value:g} MB is more than any device has")
    return value


def _is_a_count(value: int) -> int:
    if value > _THREADS_MOST:
        raise ValueError(f"more than {_THREADS_MOST}")
    return value


Name = Annotated[str, Field(min_length=1)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_is_a_time)]
Megabytes = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_is_a_size)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Table = dict[str, JsonValue]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TargetRecord(_Strict):
    """Where a launch ran: a device, a back end, threads."""

    device: Name
    backend: Name
    threads: Annotated[int, Field(ge=1), AfterValidator(_is_a_count)]


class LaunchRecord(_Strict):
    """One process that ran one artifact on one target; times in ms, in order."""

    artifact: Name
    artifact_sha256: Sha256
    target: TargetRecord
    order: Annotated[int, Field(ge=0)]
    samples_ms: tuple[Milliseconds, ...]
    warmup_ms: tuple[Milliseconds, ...]
    load_ms: Milliseconds | None
    peak_rss_mb: Megabytes | None
    started: str | None
    details: Table
    error: Name | None

    @model_validator(mode="after")
    def _measured_or_failed(self) -> LaunchRecord:
        if self.samples_ms or self.error is not None:
            return self
        told = self.details.get("samples") == "none" and self.details.get("summary")
        if not told:
            raise ValueError("a launch without samples must say its error, or have a summary")
        _check_summary(told)
        return self


class RunRecord(_Strict):
    """The launches of one bench, with the conditions, tools and manifests they ran under."""

    model_config = ConfigDict(title="coronet-deploy run")

    schema_version: Literal[1]
    id: RunId
    created: str
    command: tuple[str, ...]
    emulated: bool
    conditions: Table
    tools: dict[str, str]
    artifacts: dict[str, Table]
    launches: tuple[LaunchRecord, ...]

    @model_validator(mode="after")
    def _artifacts_known(self) -> RunRecord:
        for launch in self.launches:
            if launch.artifact not in self.artifacts:
                raise ValueError(f"artifacts lacks {launch.artifact!r}, which a launch names")
        return self


def run_to_json(run: Run) -> bytes:
    """Return the run file's bytes: UTF-8 JSON, keys in a fixed order, a line feed at the end.

    Raises:
        BadInput: the run holds something that a run file cannot (a sample that is not a positive
            number, say); names the key.

    """
    plain = {
        "schema_version": SCHEMA_VERSION,
        "id": run.id,
        "created": run.created,
        "command": list(run.command),
        "emulated": run.emulated,
        "conditions": dict(run.conditions),
        "tools": dict(run.tools),
        "artifacts": {name: dict(manifest) for name, manifest in run.artifacts.items()},
        "launches": [launch_to_plain(launch) for launch in run.launches],
    }
    try:
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(f"run {run.id}: {_first(error)}") from error
    except (TypeError, ValueError) as error:
        raise BadInput(f"run {run.id} cannot be written as JSON: {error}") from error
    return f"{text}\n".encode()


def run_from_json(data: bytes, source: str) -> Run:
    """Return the run that a run file's bytes hold; `source` names the file in errors.

    Raises:
        BadInput: it is not whole JSON, of a newer schema, or a key is misspelt, missing or of
            the wrong type; names the file and the key.

    """
    try:
        plain = plain_json(data)
    except RecursionError as error:
        raise BadInput(f"{source} is not a run file: its tables are nested too deep") from error
    except ValueError as error:
        raise _no_json(data, source, error) from error
    if not isinstance(plain, dict) or "schema_version" not in plain:
        raise BadInput(f"{source} is not a run file: key 'schema_version' is missing")
    if plain.keys() >= _OF_A_MANIFEST and "launches" not in plain:
        raise BadInput(
            f"{source} is an artifact's manifest, and no run file",
            hint="`coronet-deploy bench` writes those, to runs",
        )
    version = plain["schema_version"]
    refuse_newer(source, "schema_version", version, SCHEMA_VERSION)
    for key, told in _no_figures(plain):
        raise BadInput(f"{source} is not a run file: {_shown(key)}: {told}")
    try:
        if type(version) is int and version < SCHEMA_VERSION:
            data = json.dumps(migrated(plain, SCHEMA_VERSION)).encode()
        record = RunRecord.model_validate_json(data)
    except KeyError as error:
        raise BadInput(f"{source} is not a run file: no schema_version {error} ever was") from error
    except ValidationError as error:
        raise BadInput(f"{source} is not a run file: {_first(error)}") from error
    return Run(
        id=record.id,
        created=record.created,
        command=record.command,
        conditions=record.conditions,
        tools=record.tools,
        artifacts=record.artifacts,
        launches=tuple(_launch_from_record(launch) for launch in record.launches),
        emulated=record.emulated,
    )


def _no_json(data: bytes, source: str, error: ValueError) -> BadInput:
    """Return what to say of a file that is no JSON, by what it is instead."""
    from coronet_deploy.results.journal import SUFFIX, recovery  # which reads runs itself

    if (path := Path(source)).suffix == SUFFIX:
        return BadInput(
            f"{source} is the journal of a bench that was cut off, and no run file",
            hint=f"`{recovery(path)}` makes a run file of it",
        )
    if data.startswith(_SQLITE):
        return BadInput(
            f"{source} is an SQLite file, such as a result store, and no run file",
            hint="`coronet-deploy results show RUN` tells where a run's file is",
        )
    return BadInput(
        f"{source} is not a run file: not whole JSON: {error}", hint="was it cut short?"
    )


def launch_to_plain(launch: Launch) -> dict[str, Any]:
    """Return a launch as it stands in a run file, before it is written as JSON."""
    return {
        "artifact": launch.artifact,
        "artifact_sha256": launch.artifact_sha256,
        "target": {
            "device": launch.target.device,
            "backend": launch.target.backend,
            "threads": launch.target.threads,
        },
        "order": launch.order,
        "samples_ms": list(launch.samples_ms),
        "warmup_ms": list(launch.warmup_ms),
        "load_ms": launch.load_ms,
        "peak_rss_mb": launch.peak_rss_mb,
        "started": launch.started,
        "details": dict(launch.details),
        "error": launch.error,
    }


def json_schema() -> str:
    """Return the JSON Schema (2020-12) of a run file, the same text every time."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunRecord.model_json_schema(),
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _check_summary(summary: JsonValue) -> None:
    """Refuse what a vendor's program that keeps no samples cannot have told in their place."""
    if not isinstance(summary, Mapping):
        raise ValueError("details.summary is not a table")  # noqa: TRY004 - pydantic reads these
    for name in ("median_ms", "mean_ms"):
        value = summary.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"details.summary.{name}: {value!r} is not a number of ms")  # noqa: TRY004
        if value:  # a build that does not tell it may say 0
            try:
                _is_a_time(value)
            except ValueError as error:
                raise ValueError(f"details.summary.{name}: {error}") from error


def _no_figures(plain: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """Yield the keys, dotted, of numbers that no figure can be made of, and what is wrong.

    Python's `json` reads NaN and Infinity, which are no JSON, and 1e999 as the latter.
    """
    left: list[tuple[str, Any]] = [("", plain)]
    while left:
        where, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{where}.{key}", one) for key, one in value.items()]
        elif isinstance(value, list):
            left += [(f"{where}.{place}", one) for place, one in enumerate(value)]
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield where[1:], f"{value} is not a finite number"
        elif isinstance(value, int) and abs(value) > _WHOLE_MOST:
            yield where[1:], f"a whole number of {value.bit_length()} bits is too large"


def _launch_from_record(record: LaunchRecord) -> Launch:
    target = Target(record.target.device, record.target.backend, record.target.threads)
    return Launch(
        artifact=record.artifact,
        artifact_sha256=record.artifact_sha256,
        target=target,
        order=record.order,
        samples_ms=record.samples_ms,
        warmup_ms=record.warmup_ms,
        load_ms=record.load_ms,
        peak_rss_mb=record.peak_rss_mb,
        started=record.started,
        details=record.details,
        error=record.error,
    )


def _first(error: ValidationError) -> str:
    """Say the most telling thing wrong: an unknown key explains a missing one."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    problem = min(problems, key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(step) for step in problem["loc"])
    kinds = {"extra_forbidden": "unknown key", "missing": "missing key"}
    if problem["type"] in kinds:
        return f"{kinds[problem['type']]} {where!r}"
    told = problem["msg"].removeprefix("Value error, ")
    return f"{_shown(where)}: {told}" if where else told


def _shown(key: str) -> str:
    """Return a key, which is a name of anybody's, without what could drive a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in key)
