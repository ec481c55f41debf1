"""The run file's shape: strict models at the edge, the frozen `Run` inside.

One JSON object a run, every sample in it. `SCHEMA_VERSION` grows with each change that an older
reader would misread, and `migrate` brings older files up; unknown keys are errors, so that a
misspelt one cannot pass for a missing one. `json_schema` gives the same contract to other tools;
it is shipped as `run.schema.json`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from coronet_deploy.errors import BadInput
from coronet_deploy.results.migrate import migrated
from coronet_deploy.vocabulary import Launch, Run, Target

SCHEMA_VERSION = 1

Name = Annotated[str, Field(min_length=1)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Table = dict[str, JsonValue]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TargetRecord(_Strict):
    """Where a launch ran: a device, a back end, threads."""

    device: Name
    backend: Name
    threads: Annotated[int, Field(ge=1)]


class LaunchRecord(_Strict):
    """One process that ran one artifact on one target; times in ms, in order."""

    artifact: Name
    artifact_sha256: Sha256
    target: TargetRecord
    order: Annotated[int, Field(ge=0)]
    samples_ms: tuple[Milliseconds, ...]
    warmup_ms: tuple[Milliseconds, ...]
    load_ms: Milliseconds | None
    peak_rss_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    started: str | None
    details: Table
    error: Name | None

    @model_validator(mode="after")
    def _measured_or_failed(self) -> LaunchRecord:
        told = self.details.get("samples") == "none" and self.details.get("summary")
        if not self.samples_ms and self.error is None and not told:
            raise ValueError("a launch without samples must say its error, or have a summary")
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
        plain = json.loads(data)
    except ValueError as error:
        raise BadInput(
            f"{source} is not a run file: not whole JSON: {error}", hint="was it cut short?"
        ) from error
    if not isinstance(plain, dict) or "schema_version" not in plain:
        raise BadInput(f"{source} is not a run file: key 'schema_version' is missing")
    version = plain["schema_version"]
    if type(version) is int and version > SCHEMA_VERSION:
        raise BadInput(
            f"{source}: schema_version {version} is newer than {SCHEMA_VERSION}, "
            "the newest this version reads",
            hint="upgrade coronet-deploy",
        )
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
    return f"{where}: {problem['msg']}" if where else problem["msg"]
