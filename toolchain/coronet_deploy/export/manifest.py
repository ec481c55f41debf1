"""The manifest: what an artifact is, in JSON beside it (`<artifact>.json`) and, in part, inside it.

A manifest holds no time stamps and no paths: the same checkpoint, pictures and tool versions give
the same bytes. What can only be known of the finished file (its size, hash and parity) stands in
the manifest beside the artifact and not inside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from coronet_deploy import __version__
from coronet_deploy.errors import BadInput, refuse_newer
from coronet_deploy.storage import existing_file, json_value, sha256_of, write_text
from coronet_deploy.vocabulary import ChannelPlan, DType, Kind, Parity, Runtime, TensorContract

SCHEMA_VERSION: Literal[2] = 2
"""Written. Version 1, read too, had no direction, converter, partitions or normalisation."""

METADATA_KEY = "coronet_deploy"
"""The entry of an artifact's own metadata that holds the embedded part, as JSON."""

_TOOLS = {
    Runtime.ONNX: ("torch", "onnx", "onnxruntime", "numpy"),
    Runtime.TFLITE: ("torch", "ai-edge-litert", "ai-edge-quantizer", "flatbuffers", "numpy"),
}

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=1 << 20)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Source(_Table):
    """What an artifact was made of: a checkpoint with its channel plan, or a user's own module.

    `sha256` is of the file of weights; of a module that came without one, of its state dict.
    `module` is where such a module was imported from, as "package.module:name".
    """

    sha256: Sha256
    kind: Kind
    plan: dict[str, Any] | None = None
    module: str | None = None

    @field_validator("plan")
    @classmethod
    def _is_a_plan(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        try:
            return ChannelPlan.from_json(value).as_json()
        except BadInput as error:
            raise ValueError(str(error)) from error


class Contract(_Table):
    """`TensorContract` as JSON.

    Where real values have a range, `pixel` says what pixel (0 to 255) one is, and
    real = (pixel - `mean`) / `std`. Without `value_range` nothing bounds what the network gives.
    `stored` says what integer a pixel goes in as, where real values lie between two integers.
    """

    name: str
    layout: Literal["NCHW", "NHWC"]
    shape: tuple[Side, Side, Side, Side]
    dtype: Literal["float32", "float16", "int8", "uint8"]
    colours: Literal["RGB", "grey", "none"] = "RGB"
    value_range: tuple[float, float] | None = None
    pixel: str | None = None
    mean: float | None = None
    std: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    stored: str | None = None

    @classmethod
    def of(cls, contract: TensorContract) -> Contract:
        """Return the JSON form of a contract."""
        channels = contract.shape[contract.layout.index("C")]
        return cls.model_validate(
            {
                "name": contract.name,
                "layout": contract.layout,
                "shape": contract.shape,
                "colours": {1: "grey", 3: "RGB"}.get(channels, "none"),
                "dtype": contract.dtype,
                "value_range": contract.value_range,
                **_PIXELS.get(contract.value_range, {}),
                "scale": contract.scale,
                "zero_point": contract.zero_point,
            }
        )


_PIXELS: Mapping[tuple[float, float] | None, Mapping[str, Any]] = {
    (-1.0, 1.0): {"pixel": "(real + 1) * 127.5", "mean": 127.5, "std": 127.5},
    (0.0, 1.0): {"pixel": "real * 255", "mean": 0.0, "std": 255.0},
}


class Macs(_Table):
    """Multiply-adds of one picture, in both conventions (see `networks.cost`)."""

    real: Count
    published: Count


class Split(_Table):
    """How the runtime took the graph here: in how many delegate calls, how many of its nodes."""

    parts: int
    taken: int
    total: int


class Quantization(_Table):
    """How an INT8 artifact was made: what was calibrated on, and what stayed float.

    `packed_layers` are those of `float_layers` whose weights are stored in int8.
    """

    calibration_pictures: tuple[str, ...]
    int8_layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    int8_macs_share: Annotated[float, Field(ge=0, le=1)]
    packed_layers: tuple[str, ...] = ()


class ParityFigures(_Table):
    """`Parity` as JSON, rounded to what repeats from machine to machine.

    `peak` is the peak-to-peak of the PSNR, where it is not the 2 of pictures in [-1, 1].
    """

    psnr_db: float
    max_abs: float
    ssim: float
    pictures: Count
    bound_db: float
    peak: float | None = None

    @classmethod
    def of(cls, parity: Parity, peak: float = 2.0) -> ParityFigures:
        """Return the JSON form of a parity."""
        return cls(
            psnr_db=round(parity.psnr_db, 2),
            max_abs=float(f"{parity.max_abs:.3g}"),
            ssim=round(parity.ssim, 6),
            pictures=parity.pictures,
            bound_db=parity.bound_db,
            peak=None if peak == 2.0 else float(f"{peak:.6g}"),  # noqa: PLR2004 - as above
        )


class Embedded(_Table):
    """The part of a manifest that stands inside the artifact too."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    model: str
    direction: str | None = None
    source: Source
    runtime: Runtime
    dtype: DType
    scheme: str
    converter: str = "coronet-deploy"
    input: Contract
    output: Contract
    macs: Macs
    passes: tuple[str, ...]
    tools: dict[str, str]

    @classmethod
    def of_metadata(cls, text: str) -> Embedded | None:
        """Return what the entry `METADATA_KEY` of an artifact says; None if it is not ours."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return _fields(self)

    def as_metadata(self) -> dict[str, str]:
        """Return the entry to write inside the artifact."""
        return {METADATA_KEY: json.dumps(_fields(self), sort_keys=True, separators=(",", ":"))}


class Manifest(Embedded):
    """All that is known of an artifact."""

    quantization: Quantization | None = None
    partitions: Split | None = None
    parity: ParityFigures
    bytes: Count
    sha256: Sha256

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pictures."""
        a, b, c = self.input.shape[1:]
        return (b, c) if self.input.layout == "NCHW" else (a, b)

    @property
    def channels(self) -> int:
        """Of the pictures that it takes."""
        return self.input.shape[self.input.layout.index("C")]


def _fields(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)


def tool_versions(runtime: Runtime) -> dict[str, str]:
    """Return the versions of what makes an artifact for `runtime`, of those installed."""
    found = {"coronet-deploy": __version__}
    for package in _TOOLS[runtime]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def manifest_path(artifact: Path) -> Path:
    """Return where the manifest of `artifact` stands."""
    return artifact.with_name(f"{artifact.name}.json")


def write_manifest(artifact: Path, manifest: Manifest) -> Path:
    """Write `manifest` beside `artifact`, whole or not at all, and return its path."""
    path = manifest_path(artifact)
    write_text(path, json.dumps(manifest.as_json(), indent=2) + "\n")
    return path


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in the JSON file `path`.

    Raises:
        BadInput: the file is missing, is not a manifest or of a newer schema; names the file and
            the key.

    """
    existing_file(path, "manifest")
    data = path.read_bytes()
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        # Which explains whatever else is other than it was.
        key = "schema_version"
        refuse_newer(f"manifest {path}", key, json_value(data, key), SCHEMA_VERSION)
        raise BadInput(f"manifest {path}: {_first_reason(error)}") from error


def _first_reason(error: ValidationError) -> str:
    """Return the most telling complaint: an unknown key explains a missing one."""
    details = error.errors(include_url=False)
    first = min(details, key=lambda d: d["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    return f"key {key!r}: {first['msg']}" if key else str(first["msg"])


def first_difference(manifest: Manifest, embedded: Embedded) -> str | None:
    """Return the first field, as "input.shape", that a manifest has unlike its embedded part."""
    beside = _fields(Embedded(**{name: getattr(manifest, name) for name in Embedded.model_fields}))
    return _differs(_fields(embedded), beside)


def _differs(inside: Mapping[str, Any], beside: Mapping[str, Any]) -> str | None:
    for key in {**inside, **beside}:
        one, other = inside.get(key), beside.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return f"{key}.{_differs(one, other)}"
        return key
    return None


def checked_manifest(artifact: Path) -> Manifest:
    """Return the manifest of `artifact`, if the artifact is the file that it describes.

    Raises:
        BadInput: either file is missing, the manifest is not one, or the artifact's hash is not
            the manifest's.

    """
    existing_file(artifact, "artifact")
    path = manifest_path(artifact)
    existing_file(
        path, "manifest", hint="export writes it beside each artifact: keep both together"
    )
    manifest = read_manifest(path)
    if sha256_of(artifact) != manifest.sha256:
        raise BadInput(
            f"{artifact} is not the file that {path.name} describes: its SHA-256 differs",
            hint="export it again",
        )
    return manifest
